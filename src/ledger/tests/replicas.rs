//! Several processes that share a PostgreSQL. Each has a runtime of its own, so that it can die.

use tokio::runtime::Runtime;

use super::*;
use crate::store::tests::fresh_postgres;

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

async fn replica(url: &str, lease: Duration) -> Ledger {
    Ledger::open(Store::postgres(url).await.unwrap(), LedgerSettings { lease, ..settings() }).await.unwrap()
}

async fn until(mut holds: impl AsyncFnMut() -> bool) {
    let started = std::time::Instant::now();
    while !holds().await {
        assert!(started.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Whoever asks may leave at any moment, also while the database commits.
#[tokio::test(flavor = "multi_thread")]
async fn a_hold_that_nobody_waits_for_any_more_is_void() {
    let Some(url) = fresh_postgres().await else { return };
    let ledger = replica(&url, Duration::from_mins(1)).await;
    ledger.top_up("ann", 1_000_000_000, "root", "plenty").await.unwrap();
    let clients = (0..4).map(|client| {
        let ledger = ledger.clone();
        tokio::spawn(async move {
            let mut typical = Duration::from_millis(2);
            for index in 0..250 {
                let started = std::time::Instant::now();
                let patience = typical.mul_f64(fastrand::f64() * 1.3);
                let left = tokio::time::timeout(patience, ledger.hold(request(&format!("{client}-{index}")))).await;
                // A timer is as fine as a millisecond: the moment moves with what holds lately took.
                if left.is_ok() {
                    typical = (typical + started.elapsed()) / 2;
                } else {
                    typical = typical.mul_f64(1.05);
                }
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    ledger.assert_sound().await;
    assert_eq!(ledger.balance("ann").await.unwrap().held, 0);
    assert_eq!(ledger.inner.open_requests().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_hundred_holds_at_once_as_many_succeed_as_the_balance_covers() {
    let Some(url) = fresh_postgres().await else { return };
    let replicas = [replica(&url, Duration::from_mins(1)).await, replica(&url, Duration::from_mins(1)).await];
    replicas[0].top_up("ann", 40 * 500 - 1000, "root", "forty").await.unwrap();
    let attempts = (0..100).map(|index| {
        let ledger = replicas[index % 2].clone();
        tokio::spawn(async move { ledger.hold(request(&format!("r{index}"))).await })
    });
    let mut holds = Vec::new();
    for attempt in attempts.collect::<Vec<_>>() {
        match attempt.await.unwrap() {
            Ok(hold) => holds.push(hold),
            Err(error) => assert!(short(Err::<(), _>(error)).1 > 0),
        }
    }
    assert_eq!(holds.len(), 40);
    assert_eq!(replicas[1].balance("ann").await.unwrap(), Balance { balance: 20_000, held: 20_000 });
    let settling =
        holds.drain(..20).map(|hold| tokio::spawn(hold.settle(usage(1, 0, 0), Outcome::Completed, "{}".into())));
    for settling in settling.collect::<Vec<_>>() {
        assert_eq!(settling.await.unwrap().unwrap(), 2);
    }
    drop(holds);
    for ledger in &replicas {
        ledger.assert_sound().await;
    }
    assert_eq!(replicas[0].balance("ann").await.unwrap(), Balance { balance: 20_000 - 40, held: 0 });
}

#[test]
fn what_a_dead_replica_held_is_void_when_its_lease_has_ended() {
    let survivor = runtime();
    let Some(url) = survivor.block_on(fresh_postgres()) else { return };
    let lease = Duration::from_secs(2);
    let ledger = survivor.block_on(replica(&url, lease));
    let victim = runtime();
    let (other, hold, lived) = victim.block_on(async {
        let other = replica(&url, lease).await;
        let hold = other.hold(request("r1")).await.unwrap();
        tokio::time::sleep(lease + lease / 4).await;
        let lived = other.balance("ann").await.unwrap();
        (other, hold, lived)
    });
    assert_eq!(lived.held, 500, "a lease is renewed while its owner lives");
    victim.shutdown_background();
    drop((hold, other));
    survivor.block_on(async {
        assert_eq!(ledger.balance("ann").await.unwrap().held, 500);
        until(async || ledger.balance("ann").await.unwrap() == Balance { balance: 1000, held: 0 }).await;
        ledger.assert_sound().await;
    });
}

/// A process that was away for longer than its lease settles what is still there.
#[tokio::test]
async fn a_settlement_after_the_lease_takes_what_is_there_or_nothing() {
    let Some(url) = fresh_postgres().await else { return };
    let lease = Duration::from_mins(1);
    let (away, other) = (replica(&url, lease).await, replica(&url, lease).await);
    let (first, second) = (away.hold(request("r1")).await.unwrap(), away.hold(request("r2")).await.unwrap());
    away.inner.store.end_lease(&away.inner.owner).await.unwrap();
    assert_eq!(other.inner.store.void_orphaned_holds().await.unwrap(), 2);
    assert_eq!(away.end(first, usage(50, 0, 0)).await, 100);
    other.top_up("ann", -900, "root", "all").await.unwrap();
    assert_eq!(away.end(second, usage(50, 0, 0)).await, 0);
    let row = other.inner.store.finished_request("r2").await.unwrap().unwrap();
    assert_eq!((row.cost, row.prompt_tokens), (0, 50));
    other.assert_sound().await;
}

#[tokio::test]
async fn budgets_and_their_limits_are_shared() {
    let Some(url) = fresh_postgres().await else { return };
    let lease = Duration::from_secs(3);
    let (one, two) = (replica(&url, lease).await, replica(&url, lease).await);
    one.set_budget(daily(Subject::User("ann".into()), 250), "root").await.unwrap();
    until(async || !two.inner.budgets.read().unwrap().is_empty()).await;
    let hold = two.hold(request("r1")).await.unwrap();
    assert_eq!(short(one.hold(request("r2")).await).1, 150);
    one.set_budget(daily(Subject::User("ann".into()), 400), "root").await.unwrap();
    drop(two.hold(request("r3")).await.unwrap());
    drop(hold);
    two.quiet().await;
    one.remove_budget("user:ann/day/tokens").await.unwrap();
    assert_eq!(one.budgets().await.unwrap(), []);
    two.assert_sound().await;
}
