//! The cache on both kinds of store, with values that somebody else has put there.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::time::Instant;

use super::*;
use crate::kv_store::RedisSettings;
use crate::kv_store::testing::{Fault, FaultProxy, RedisServer};
use crate::resilience::{Breaker, BreakerSettings};

const MINUTE: Duration = Duration::from_mins(1);

fn cache(store: &KvStore, secrets: &[&str]) -> Cache {
    Cache::new(store.clone(), secrets, CacheSettings::default()).unwrap()
}

fn redis(url: String, timeout: Duration) -> KvStore {
    let settings = RedisSettings { timeout, ..RedisSettings::new(url) };
    let recovery_timeout = Duration::from_millis(100);
    let breaker = Breaker::new("redis", BreakerSettings { recovery_timeout, ..BreakerSettings::default() });
    KvStore::redis(&settings, breaker).unwrap()
}

async fn text(cache: &Cache, key: &CacheKey) -> Option<String> {
    cache.get(key).await.map(|hit| String::from_utf8(hit.value).unwrap())
}

#[tokio::test]
async fn answers_are_found_purged_and_forgotten() {
    let server = RedisServer::start().await;
    for store in [KvStore::memory(1 << 20), redis(server.url(), MINUTE)] {
        let cache = cache(&store, &["secret"]);
        let keys: Vec<CacheKey> = (0..4_u8).map(|part| cache.key(&[&[part]])).collect();
        let (ann, bob, saiga, demo) = (Tag::User("ann"), Tag::User("bob"), Tag::Model("saiga"), Tag::Model("demo"));
        assert_eq!(cache.get(&keys[0]).await, None);
        for (index, tags) in [[ann, saiga], [ann, demo], [bob, saiga], [bob, demo]].iter().enumerate() {
            cache.put(&keys[index], index.to_string().as_bytes(), None, tags).await;
        }
        let hit = cache.get(&keys[0]).await.unwrap();
        assert_eq!(hit.value, b"0");
        assert!(hit.age < Duration::from_secs(10));

        let found = async || {
            let mut found = String::new();
            for key in &keys {
                found += &text(&cache, key).await.unwrap_or("-".into());
            }
            found
        };
        assert_eq!(found().await, "0123");
        cache.purge(ann).await.unwrap();
        assert_eq!(found().await, "--23");
        cache.purge(saiga).await.unwrap();
        assert_eq!(found().await, "---3");
        cache.put(&keys[0], b"0", None, &[ann, saiga]).await;
        assert_eq!(found().await, "0--3");
        cache.purge(Tag::All).await.unwrap();
        assert_eq!(found().await, "----");

        cache.put(&keys[0], b"brief", Some(Duration::from_millis(100)), &[]).await;
        cache.put(&keys[1], &vec![0; (1 << 20) + 1], None, &[]).await;
        assert_eq!(text(&cache, &keys[0]).await.as_deref(), Some("brief"));
        tokio::time::sleep(Duration::from_millis(150)).await;
        assert_eq!(found().await, "----");
        let wanted = CacheCounts { hits: 11, misses: 16, errors: 0, rejected: 0 };
        assert_eq!(cache.counts(), wanted);
    }
}

#[tokio::test]
async fn what_others_have_written_is_a_miss() {
    let server = RedisServer::start().await;
    for store in [KvStore::memory(1 << 20), redis(server.url(), MINUTE)] {
        let (ours, foreign) = (cache(&store, &["secret"]), cache(&store, &["another"]));
        let (key, other) = (ours.key(&[b"question"]), ours.key(&[b"other question"]));
        ours.put(&other, b"other answer", None, &[]).await;
        let moved = store.get(other.name()).await.unwrap().unwrap();
        foreign.put(&foreign.key(&[b"question"]), b"poison", None, &[]).await;
        let sealed_by_others = store.get(foreign.key(&[b"question"]).name()).await.unwrap().unwrap();
        for value in [&moved[..], &sealed_by_others, &moved[..20], b"", b"plain text"] {
            store.set(key.name(), value, MINUTE, &["all"]).await.unwrap();
            assert_eq!(ours.get(&key).await, None, "{value:?}");
        }
        assert_eq!(ours.counts(), CacheCounts { hits: 0, misses: 5, errors: 0, rejected: 5 });
        // The server kept a value for longer than it was told to.
        ours.put(&key, b"answer", Some(Duration::from_millis(50)), &[]).await;
        let old = store.get(key.name()).await.unwrap().unwrap();
        tokio::time::sleep(Duration::from_millis(60)).await;
        store.set(key.name(), &old, MINUTE, &["all"]).await.unwrap();
        assert_eq!(ours.get(&key).await, None);
        ours.put(&key, b"answer", None, &[]).await;
        assert_eq!(text(&ours, &key).await.as_deref(), Some("answer"));
    }
}

#[tokio::test]
async fn hits_survive_a_new_secret_until_the_old_one_is_dropped() {
    let store = KvStore::memory(1 << 20);
    let (old, both, new) = (cache(&store, &["1"]), cache(&store, &["2", "1"]), cache(&store, &["2"]));
    let parts: [&[u8]; 1] = [b"question"];
    old.put(&old.key(&parts), b"old answer", None, &[Tag::User("ann")]).await;
    assert_eq!(text(&both, &both.key(&parts)).await.as_deref(), Some("old answer"));
    assert_eq!(text(&new, &new.key(&parts)).await, None);
    both.put(&both.key(&parts), b"new answer", None, &[]).await;
    assert_eq!(text(&new, &new.key(&parts)).await.as_deref(), Some("new answer"));
    assert_eq!(text(&both, &both.key(&parts)).await.as_deref(), Some("new answer"));
    assert!(matches!(Cache::new(store.clone(), &[""], CacheSettings::default()), Err(NoKey)));
}

#[tokio::test]
async fn a_store_that_fails_is_a_miss_and_a_failed_purge_is_told() {
    let server = RedisServer::start().await;
    let proxy = FaultProxy::before(server.address()).await;
    let cache = cache(&redis(proxy.url(), Duration::from_millis(300)), &["secret"]);
    let key = cache.key(&[b"question"]);
    cache.put(&key, b"answer", None, &[]).await;
    proxy.set(Fault::Frozen);
    assert_eq!(cache.get(&key).await, None);
    cache.put(&key, b"answer", None, &[]).await;
    assert_eq!(cache.counts(), CacheCounts { errors: 2, ..CacheCounts::default() });
    cache.purge(Tag::All).await.unwrap_err();
    proxy.set(Fault::None);
    let healed = Instant::now();
    let mut hit = cache.get(&key).await;
    while hit.is_none() {
        assert!(healed.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(20)).await;
        hit = cache.get(&key).await;
    }
    cache.purge(Tag::All).await.unwrap();
    assert_eq!(cache.get(&key).await, None);
}
