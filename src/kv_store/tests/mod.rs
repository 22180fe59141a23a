//! The same suite on both kinds of store; then Redis through a proxy that fails.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests, which print what they measured")]

mod cluster;
mod tls;

use std::time::Instant;

use super::testing::{Fault, FaultProxy, RedisServer};
use super::*;
use crate::resilience::{BreakerSettings, BreakerState};

const MINUTE: Duration = Duration::from_mins(1);
const DEADLINE: Duration = Duration::from_millis(50);
/// By so much a call may take longer than a plain wait of the deadline beside it, on a machine that is busy for both.
const MARGIN: Duration = Duration::from_millis(20);

fn breaker(enabled: bool) -> Arc<Breaker> {
    let recovery_timeout = Duration::from_millis(300);
    Breaker::new("redis", BreakerSettings { enabled, recovery_timeout, ..BreakerSettings::default() })
}

fn redis(url: String, breaker: Arc<Breaker>) -> Redis {
    Redis::new(&RedisSettings::new(url), breaker).unwrap()
}

/// A patient one, for tests of what is said and not of how fast.
fn patient(server: &RedisServer, prefix: &str) -> KvStore {
    let settings = RedisSettings { prefix: prefix.into(), timeout: MINUTE, ..RedisSettings::new(server.url()) };
    KvStore::redis(&settings, breaker(true)).unwrap()
}

impl KvStore {
    async fn text(&self, key: &str) -> Option<String> {
        self.get(key).await.unwrap().map(|value| String::from_utf8(value.to_vec()).unwrap())
    }
}

/// The first success, in spite of a breaker that is still open or a machine that is busy.
async fn eventually<T>(call: impl AsyncFn() -> Result<T, KvError>) -> T {
    let start = Instant::now();
    loop {
        match call().await {
            Ok(value) => return value,
            Err(error) => assert!(start.elapsed() < Duration::from_secs(10), "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn values_live_until_replaced_deleted_purged_or_too_old() {
    let server = RedisServer::start().await;
    for store in [KvStore::memory(1 << 20), patient(&server, "a:")] {
        holds(&store).await;
    }
}

/// What any store does.
async fn holds(store: &KvStore) {
    assert_eq!(store.text("none").await, None);
    let bytes: Vec<u8> = (0..=255).cycle().take(70_000).collect();
    store.set("bytes", &bytes, MINUTE, &[]).await.unwrap();
    assert_eq!(*store.get("bytes").await.unwrap().unwrap(), *bytes);
    store.set("bytes", b"", MINUTE, &[]).await.unwrap();
    assert_eq!(store.text("bytes").await.as_deref(), Some(""));
    store.delete("bytes").await.unwrap();
    assert_eq!(store.text("bytes").await, None);

    store.set("short", b"1", Duration::from_millis(150), &["all"]).await.unwrap();
    store.set("prolonged", b"1", Duration::from_millis(150), &["all"]).await.unwrap();
    store.set("prolonged", b"2", MINUTE, &["all"]).await.unwrap();
    store.set("ann's", b"3", MINUTE, &["ann", "all"]).await.unwrap();
    store.set("bob's", b"4", MINUTE, &["bob", "all"]).await.unwrap();
    store.set("was ann's", b"5", MINUTE, &["ann", "all"]).await.unwrap();
    store.set("was ann's", b"6", MINUTE, &["bob"]).await.unwrap();
    assert_eq!(store.text("short").await.as_deref(), Some("1"));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(store.text("short").await, None);
    assert_eq!(store.text("prolonged").await.as_deref(), Some("2"));

    store.purge("ann").await.unwrap();
    store.purge("nobody").await.unwrap();
    assert_eq!(store.text("ann's").await, None);
    assert_eq!(store.text("bob's").await.as_deref(), Some("4"));
    assert_eq!(store.text("was ann's").await.as_deref(), Some("6"));
    store.set("ann's", b"7", MINUTE, &["ann", "all"]).await.unwrap();
    assert_eq!(store.text("ann's").await.as_deref(), Some("7"));
    store.purge("all").await.unwrap();
    for (key, wanted) in [("ann's", None), ("bob's", None), ("prolonged", None), ("was ann's", Some("6"))] {
        assert_eq!(store.text(key).await.as_deref(), wanted, "{key}");
    }
}

#[tokio::test]
async fn memory_is_bounded_by_bytes() {
    let store = KvStore::memory(100_000);
    for key in 0..1000 {
        store.set(&key.to_string(), &[0; 1000], MINUTE, &[]).await.unwrap();
    }
    let KvStore::Memory(memory) = &store else { unreachable!() };
    memory.run_maintenance();
    let mut kept = 0;
    for key in 0..1000 {
        kept += usize::from(store.get(&key.to_string()).await.unwrap().is_some());
    }
    assert!((20..=100).contains(&kept), "{kept}");
}

#[tokio::test]
async fn redis_keeps_installations_apart_and_loses_values_rather_than_bring_purged_ones_back() {
    let server = RedisServer::start().await;
    let (one, two) = (patient(&server, "one:"), patient(&server, "two:"));
    one.set("key", b"1", MINUTE, &["tag"]).await.unwrap();
    two.set("key", b"2", MINUTE, &["tag"]).await.unwrap();
    one.purge("tag").await.unwrap();
    assert_eq!(one.text("key").await, None);
    assert_eq!(two.text("key").await.as_deref(), Some("2"));

    // A short-lived value after a long-lived one does not shorten the tag's stamp.
    two.set("brief", b"3", Duration::from_millis(50), &["tag"]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(two.text("key").await.as_deref(), Some("2"));
    // A long-lived one after a short-lived one prolongs it.
    two.set("brief", b"4", Duration::from_millis(50), &["other"]).await.unwrap();
    two.set("long", b"5", MINUTE, &["other"]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(two.text("long").await.as_deref(), Some("5"));

    // The server may evict a stamp, and scripts.
    let mut raw = ::redis::Client::open(server.url()).unwrap().get_multiplexed_async_connection().await.unwrap();
    let (): () = ::redis::cmd("DEL").arg("two:tag:tag").query_async(&mut raw).await.unwrap();
    let (): () = ::redis::cmd("SCRIPT").arg("FLUSH").query_async(&mut raw).await.unwrap();
    two.set("later", b"6", MINUTE, &["tag"]).await.unwrap();
    assert_eq!(two.text("key").await, None);
    assert_eq!(two.text("later").await.as_deref(), Some("6"));

    // Keys of another's type are errors, but no reason to leave the server alone; that it takes no writes is one.
    let (): () = ::redis::cmd("SET").arg("two:kv:foreign").arg(1).query_async(&mut raw).await.unwrap();
    for _ in 0..20 {
        assert!(matches!(two.get("foreign").await, Err(KvError::Command(_))));
    }
    assert_eq!(two.text("later").await.as_deref(), Some("6"));
    let (): () = ::redis::cmd("REPLICAOF").arg("127.0.0.1").arg(1).query_async(&mut raw).await.unwrap();
    for _ in 0..BreakerSettings::default().failure_threshold {
        let answer = two.set("new", b"7", MINUTE, &[]).await;
        assert!(matches!(answer, Err(KvError::Refused(_))), "{answer:?}");
    }
    assert!(matches!(two.get("later").await, Err(KvError::Open(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_redis_costs_fifty_milliseconds_then_nothing_and_comes_back() {
    let server = RedisServer::start().await;
    let proxy = FaultProxy::before(server.address()).await;
    let slow = Fault::Slow(Duration::from_millis(400));
    for fault in [Fault::Killed, Fault::Frozen, slow, Fault::Garbage, Fault::Extra, Fault::Cut] {
        let breaker = breaker(true);
        let store = KvStore::Redis(redis(proxy.url(), breaker.clone()));
        eventually(async || store.set("key", b"value", MINUTE, &["tag"]).await).await;
        proxy.set(fault);
        let (mut failures, mut slowest) = (0, Duration::ZERO);
        while breaker.report().state == BreakerState::Closed {
            let start = Instant::now();
            let call = async { (store.get("key").await, start.elapsed()) };
            let wait = async {
                tokio::time::sleep(DEADLINE).await;
                start.elapsed()
            };
            let ((answer, took), waited) = tokio::join!(call, wait);
            assert!(answer.is_err(), "{fault:?}: {answer:?}");
            assert!(took < waited + MARGIN, "{fault:?}: {took:?} beside {waited:?}");
            slowest = slowest.max(took);
            failures += 1;
        }
        assert_eq!(failures, BreakerSettings::default().failure_threshold, "{fault:?}");

        let start = Instant::now();
        for _ in 0..1000 {
            assert!(matches!(store.get("key").await, Err(KvError::Open(_))), "{fault:?}");
        }
        let open = start.elapsed();
        assert!(open < 5 * DEADLINE, "{fault:?}: 1000 refusals took {open:?}");

        proxy.set(Fault::None);
        let healed = Instant::now();
        let value = eventually(async || store.get("key").await).await;
        assert_eq!(value.as_deref(), Some(&b"value"[..]), "{fault:?}");
        println!("{fault:?}: slowest {slowest:?}, 1000 refusals {open:?}, back after {:?}", healed.elapsed());
    }
}

#[tokio::test]
async fn a_server_that_was_restarted_is_found_by_the_first_call() {
    let server = RedisServer::start().await;
    let store = patient(&server, "a:");
    store.set("key", b"value", MINUTE, &[]).await.unwrap();
    let _server = server.restart().await;
    store.set("key", b"new", MINUTE, &[]).await.unwrap();
    assert_eq!(store.text("key").await.as_deref(), Some("new"));
}

/// Callers with keys of their own leave in the middle of calls while the connection fails in every way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_reply_goes_to_another_caller() {
    let server = RedisServer::start().await;
    let proxy = FaultProxy::before(server.address()).await;
    let store = KvStore::Redis(redis(proxy.url(), breaker(false)));
    for caller in 0..100 {
        let (key, value) = (format!("key {caller}"), format!("value {caller}"));
        eventually(async || store.set(&key, value.as_bytes(), MINUTE, &["all"]).await).await;
    }
    let end = Instant::now() + Duration::from_secs(4);
    let callers = (0..100_u32).map(|caller| {
        let store = store.clone();
        tokio::spawn(async move {
            let (mut answered, mut failed, mut left) = (0, 0, 0);
            while Instant::now() < end {
                let (key, wanted) = (format!("key {caller}"), format!("value {caller}"));
                let patience = Duration::from_micros(rand::random_range(0..20_000));
                match tokio::time::timeout(patience, store.get(&key)).await {
                    Ok(Ok(Some(value))) => {
                        assert_eq!(*value, *wanted.as_bytes());
                        answered += 1;
                    }
                    Ok(Ok(None)) => panic!("{caller}: nothing, which is somebody else's reply"),
                    Ok(Err(_)) => failed += 1,
                    Err(_) => left += 1,
                }
                tokio::time::sleep(Duration::from_micros(rand::random_range(0..2_000))).await;
            }
            (answered, failed, left)
        })
    });
    let callers: Vec<_> = callers.collect();
    let quick = Fault::Slow(Duration::from_millis(5));
    for fault in [Fault::None, quick, Fault::Extra, Fault::Cut, Fault::Garbage, Fault::Killed, Fault::Frozen].repeat(5)
    {
        proxy.set(fault);
        tokio::time::sleep(Duration::from_millis(30)).await;
        proxy.set(Fault::None);
        tokio::time::sleep(Duration::from_millis(70)).await;
    }
    let mut sums = (0, 0, 0);
    for caller in callers {
        let (answered, failed, left) = caller.await.unwrap();
        sums = (sums.0 + answered, sums.1 + failed, sums.2 + left);
    }
    println!("answered, failed, left: {sums:?}");
    assert!(sums.0 > 1000 && sums.1 > 10 && sums.2 > 100, "{sums:?}");
}
