//! The index on both kinds of store, and what f16 costs.
#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::cache::CacheSettings;
use crate::kv_store::testing::RedisServer;
use crate::kv_store::{KvStore, RedisSettings};
use crate::resilience::{Breaker, BreakerSettings};

fn cache(store: &KvStore, most_bytes: usize) -> Cache {
    Cache::new(store.clone(), &["secret"], CacheSettings { most_bytes, ..CacheSettings::default() }).unwrap()
}

fn random_vector(random: &mut fastrand::Rng, dimensions: usize) -> Vec<f32> {
    let vector: Vec<f32> = (0..dimensions).map(|_| random.f32() - 0.5).collect();
    let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    vector.into_iter().map(|value| value / length).collect()
}

fn names(cache: &Cache, count: u32) -> Vec<String> {
    (0..count).map(|number| cache.key(&[&number.to_le_bytes()]).name().to_owned()).collect()
}

fn found(similar: Similar) -> Vec<String> {
    match similar {
        Similar::Found(near) => near.into_iter().map(|near| near.identity).collect(),
        _ => Vec::new(),
    }
}

#[tokio::test]
async fn questions_are_found_by_vector_and_guard_bounded_and_purged() {
    let server = RedisServer::start().await;
    let breaker = Breaker::new("redis", BreakerSettings::default());
    let settings = RedisSettings { timeout: Duration::from_mins(1), ..RedisSettings::new(server.url()) };
    for store in [KvStore::memory(1 << 24), KvStore::redis(&settings, breaker).unwrap()] {
        let cache = cache(&store, 1 << 20);
        let (partition, other) = (cache.key(&[b"here"]), cache.key(&[b"there"]));
        let names = names(&cache, 4);
        let question =
            |vector: [f32; 2], text: &str| Question { vector: vector.into(), guard: cache.guard(text).unwrap() };
        let origin = |index: usize, user_id| Origin { identity: &names[index], user_id, model: "toy" };
        let (one, near, far) =
            (question([1.0, 0.0], "is it 5?"), question([0.8, 0.6], "is it 5?"), question([0.0, 1.0], "is it 5?"));
        assert_eq!(cache.similar(&partition, &one, 0.7).await, Similar::Nothing);
        for (index, entry, user) in [(0, &one, "ann"), (1, &near, "bob"), (2, &far, "bob")] {
            cache.add_similar(&partition, entry, origin(index, user), 3).await;
        }
        assert_eq!(
            found(cache.similar(&partition, &one, 0.7).await),
            [names[0].clone(), names[1].clone()],
            "nearest first"
        );
        assert_eq!(cache.similar(&partition, &question([1.0, 0.0], "is it 6?"), 0.7).await, Similar::Guarded);
        assert_eq!(cache.similar(&partition, &question([-1.0, 0.0], "is it 5?"), 0.7).await, Similar::Nothing);
        assert_eq!(cache.similar(&other, &one, 0.7).await, Similar::Nothing);
        cache.add_similar(&partition, &far, origin(3, "eve"), 3).await;
        assert_eq!(found(cache.similar(&partition, &one, 0.7).await), [names[1].clone()], "the oldest is gone");
        cache.purge(Tag::User("eve")).await.unwrap();
        assert_eq!(
            cache.similar(&partition, &one, 0.7).await,
            Similar::Nothing,
            "nothing is left of a user's questions"
        );
        cache.add_similar(&partition, &one, origin(0, "ann"), 3).await;
        cache.add_similar(&partition, &Question { vector: vec![1.0], ..one.clone() }, origin(1, "ann"), 3).await;
        assert_eq!(cache.similar(&partition, &one, 0.7).await, Similar::Nothing, "vectors of another model");
        cache.purge(Tag::Model("toy")).await.unwrap();
        cache.add_similar(&partition, &one, origin(0, "ann"), 3).await;
        let small = self::cache(&store, 100);
        small.add_similar(&partition, &one, origin(1, "ann"), 3).await;
        assert_eq!(
            found(small.similar(&partition, &one, 0.7).await),
            [names[1].clone()],
            "the oldest go where bytes are few"
        );
    }
}

#[test]
fn bytes_are_read_as_they_are_written_or_not_at_all() {
    let mut random = fastrand::Rng::with_seed(3);
    let cache = cache(&KvStore::memory(1 << 20), 1 << 20);
    let mut index = Index::default();
    for name in names(&cache, 20) {
        let question = Question { vector: random_vector(&mut random, 24), guard: cache.guard("is it 5?").unwrap() };
        index.put(Entry::new(&question, Origin { identity: &name, user_id: "юзер", model: "m" }).unwrap(), 16, 1 << 20);
    }
    let bytes = index.encode();
    let hour = Duration::from_hours(1);
    assert_eq!(Index::decode(&bytes, now(), hour).as_ref(), Some(&index));
    let later = Index::decode(&bytes, now() + 3_600_001, hour).unwrap();
    assert_eq!(later, Index::default(), "their time is over");
    for length in 0..bytes.len() {
        let _read_or_refused = Index::decode(&bytes[..length], now(), hour);
    }
    for _ in 0..2000 {
        let mut broken = bytes.clone();
        broken[random.usize(..bytes.len())] = random.u8(..);
        let _read_or_refused = Index::decode(&broken, now(), hour);
    }
}

/// A value in f16 is wrong by 2^-11 of itself at most, and so, by Cauchy and Schwarz, is a cosine by 2^-11: a sixtieth of
/// what lies between a threshold of 0.97 and 1.
#[test]
fn half_precision_is_enough_for_a_cosine() {
    let mut random = fastrand::Rng::with_seed(11);
    let cache = cache(&KvStore::memory(1 << 20), 1 << 20);
    let guard = cache.guard("is it 5?").unwrap();
    let name = names(&cache, 1).remove(0);
    let mut worst = 0_f32;
    for dimensions in [32, 384, 1024] {
        for _ in 0..200 {
            let one = random_vector(&mut random, dimensions);
            let noise = random_vector(&mut random, dimensions);
            let mut other: Vec<f32> = one.iter().zip(&noise).map(|(one, noise)| one + 0.25 * noise).collect();
            let length = other.iter().map(|value| value * value).sum::<f32>().sqrt();
            for value in &mut other {
                *value /= length;
            }
            let exact: f32 = one.iter().zip(&other).map(|(one, other)| one * other).sum();
            let mut index = Index::default();
            let kept = Question { vector: one, guard };
            index.put(Entry::new(&kept, Origin { identity: &name, user_id: "ann", model: "m" }).unwrap(), 1, 1 << 20);
            let Similar::Found(near) = index.similar(&Question { vector: other, guard }, 0.9) else {
                panic!("{exact}")
            };
            worst = worst.max((near[0].similarity - exact).abs());
        }
    }
    assert!(worst < 1.0 / 2048.0, "{worst}");
}
