//! A database that fails, a second process, and a ledger that somebody has written to.

use super::*;

/// What failed in between is written once it works again, and until then nothing more is held.
#[tokio::test]
async fn a_failing_database_stops_new_requests_and_loses_no_old_ones() {
    for (store, _folder) in stores().await {
        let ledger = Ledger::open(store.clone(), settings()).await.unwrap();
        let before = ledger.hold(request("r1")).await.unwrap();
        let dropped = ledger.hold(NewHold { user_id: "bob".into(), ..request("r2") }).await.unwrap();
        ledger.balance("eve").await.unwrap();
        store.execute("ALTER TABLE holds RENAME TO away").await;
        // The first one may find out only by its journal.
        let unwritten = ledger.hold(NewHold { max_completion_tokens: 0, ..request("r3") }).await;
        assert_eq!(unwritten.is_ok(), store.file().is_some());
        let settling = tokio::spawn(before.settle(usage(10, 0, 0), Outcome::Completed, "{}".into()));
        let settling_unwritten =
            unwritten.ok().map(|hold| tokio::spawn(hold.settle(usage(5, 0, 0), Outcome::Completed, "{}".into())));
        drop(dropped);
        tokio::time::sleep(Duration::from_millis(100)).await;
        let refused = ledger.hold(NewHold { user_id: "eve".into(), ..request("r4") }).await;
        assert!(matches!(refused, Err(LedgerError::Store(_))), "{refused:?}");
        assert!(!settling.is_finished());
        store.execute("ALTER TABLE away RENAME TO holds").await;
        assert_eq!(settling.await.unwrap().unwrap(), 20);
        let mut charged = 20;
        if let Some(settling) = settling_unwritten {
            charged += settling.await.unwrap().unwrap();
            assert_eq!(charged, 30);
        }
        ledger.quiet().await;
        for (user, balance) in [("ann", 1000 - charged), ("bob", 1000), ("eve", 1000)] {
            assert_eq!(ledger.balance(user).await.unwrap(), Balance { balance, held: 0 }, "{user}");
        }
        drop(ledger.hold(NewHold { user_id: "eve".into(), ..request("r5") }).await.unwrap());
        ledger.assert_sound().await;
    }
}

#[tokio::test]
async fn a_database_that_is_gone_is_an_error() {
    for (store, _folder) in stores().await {
        let ledger = Ledger::open(store.clone(), settings()).await.unwrap();
        let hold = ledger.hold(request("r1")).await.unwrap();
        store.close().await;
        let settled = hold.settle(usage(1, 0, 0), Outcome::Completed, "{}".into()).await;
        assert!(matches!(settled, Err(LedgerError::Store(_))), "{settled:?}");
        let refused = ledger.hold(request("r2")).await;
        assert!(matches!(refused, Err(LedgerError::Store(_))), "{refused:?}");
    }
}

#[tokio::test]
async fn one_process_keeps_the_ledger_of_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("steppe.db");
    let store = Store::sqlite(&path).await.unwrap();
    let ledger = Ledger::open(store.clone(), settings()).await.unwrap();
    let second = Ledger::open(Store::sqlite(&path).await.unwrap(), settings()).await;
    assert!(matches!(second, Err(LedgerError::InUse(_))));
    ledger.close().await;
    drop(ledger);
    Ledger::open(store, settings()).await.unwrap();
}

#[tokio::test]
async fn the_check_finds_what_is_wrong() {
    let damages: [(&'static str, &'static str, &str); 7] = [
        (
            "UPDATE accounts SET balance = balance + 1 WHERE kind = 'purse'",
            "UPDATE accounts SET balance = balance - 1 WHERE kind = 'purse'",
            "sum of its entries",
        ),
        (
            "UPDATE accounts SET balance = balance + 1 WHERE kind = 'purse'",
            "UPDATE accounts SET balance = balance - 1 WHERE kind = 'purse'",
            "not zero: money",
        ),
        (
            "UPDATE accounts SET held = held + 1 WHERE kind = 'purse'",
            "UPDATE accounts SET held = held - 1 WHERE kind = 'purse'",
            "sum of its holds",
        ),
        (
            "UPDATE accounts SET balance = balance + 300 WHERE kind = 'budget'",
            "UPDATE accounts SET balance = balance - 300 WHERE kind = 'budget'",
            "overdrawn",
        ),
        ("UPDATE requests SET cost = cost + 1", "UPDATE requests SET cost = cost - 1", "purse was charged"),
        ("UPDATE requests SET id = 'other'", "UPDATE requests SET id = 'r1'", "belongs to no request"),
        ("UPDATE accounts SET credit = credit + 1", "UPDATE accounts SET credit = credit - 1", "disagree"),
    ];
    for (store, _folder) in stores().await {
        let ledger = Ledger::open(store.clone(), settings()).await.unwrap();
        ledger.set_budget(daily(Subject::User("ann".into()), 1000), "root").await.unwrap();
        let _open = ledger.hold(request("r0")).await.unwrap();
        ledger.end(ledger.hold(request("r1")).await.unwrap(), usage(10, 0, 0)).await;
        for (damage, repair, finding) in damages {
            if finding == "disagree" && store.file().is_none() {
                continue;
            }
            ledger.assert_sound().await;
            store.execute(damage).await;
            let found = ledger.check().await.unwrap();
            assert!(found.iter().any(|found| found.contains(finding)), "{damage}: {found:?}");
            store.execute(repair).await;
        }
        ledger.assert_sound().await;
    }
}

#[tokio::test]
async fn the_database_itself_refuses_a_negative_purse() {
    for (store, _folder) in stores().await {
        let ledger = Ledger::open(store.clone(), settings()).await.unwrap();
        ledger.balance("ann").await.unwrap();
        let hold = crate::store::ledger::holds::HoldRow {
            request_id: "r".into(),
            owner: "o".into(),
            amounts: vec![("user:ann".into(), 1001)],
        };
        let take =
            Write::new(hold, |connection, hold| Box::pin(crate::store::ledger::holds::take(connection, hold, true)));
        let refused = store.write_apart(take);
        let error: StoreError = refused.await.unwrap_err();
        assert!(!error.may_pass(), "{error}");
    }
}
