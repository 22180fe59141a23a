//! Where an answer is kept that is worth keeping, and what is looked up there.

use std::sync::Arc;
use std::time::Duration;

use super::flight::Told;
use super::record::Record;
use super::similar::Asked;
use crate::cache::{Cache, CacheKey, Tag};

/// The place of one answer in the prompt cache.
#[derive(Debug, Clone)]
pub(super) struct Shelf {
    pub cache: Arc<Cache>,
    pub key: CacheKey,
    /// What is asked; under an idempotency key it is no part of `key`.
    pub identity: String,
    pub time_to_live: Option<Duration>,
    pub user_id: String,
    pub model: String,
    /// The question, where similar ones may have its answer.
    pub asked: Option<Asked>,
}

impl Shelf {
    /// The key of the answer to what has this identity.
    pub fn answer_key(cache: &Cache, tenant: &str, identity: &str) -> CacheKey {
        cache.key(&[b"answer", tenant.as_bytes(), identity.as_bytes()])
    }

    /// Keeps a complete answer, and what it answers among similar questions.
    pub async fn keep(&self, told: Vec<Told>, answers: usize) {
        let Some(record) = Record::new(&self.identity, told, answers) else { return };
        let Ok(value) = serde_json::to_vec(&record) else { return };
        let tags = [Tag::User(&self.user_id), Tag::Model(&self.model)];
        self.cache.put(&self.key, &value, self.time_to_live, &tags).await;
        if let Some(asked) = &self.asked {
            asked.answered(self, &record).await;
        }
    }
}

/// The entry under this key, if it is not older than that.
pub(super) async fn read(cache: &Cache, key: &CacheKey, max_age: Option<Duration>) -> Option<(Record, Duration)> {
    let hit = cache.get(key).await?;
    if max_age.is_some_and(|most| hit.age > most) {
        return None;
    }
    Some((serde_json::from_slice(&hit.value).ok()?, hit.age))
}
