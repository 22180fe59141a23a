//! Entries of the prompt cache: finished answers under keyed hashes of what was asked. Must not know what is asked or
//! answered. A store that fails, and a value that is not ours, old or damaged, is a miss and never an answer.

mod counters;
mod seal;
pub mod similar;

use std::time::{Duration, SystemTime};

pub use self::counters::CacheCounts;
use self::counters::Counters;
use self::seal::{Seal, Sealed};
use crate::kv_store::{KvError, KvStore};
use crate::resilience::Retry;

/// How long entries live and how big they may be.
#[derive(Debug, Clone)]
pub struct CacheSettings {
    /// Of entries that say nothing themselves.
    pub time_to_live: Duration,
    /// Bigger values are not stored.
    pub most_bytes: usize,
    /// How often a purge is tried.
    pub retry: Retry,
}

impl Default for CacheSettings {
    fn default() -> Self {
        Self { time_to_live: Duration::from_hours(1), most_bytes: 1 << 20, retry: Retry::default() }
    }
}

/// What entries can be purged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tag<'a> {
    /// All that there are.
    All,
    /// Answers made for this user.
    User(&'a str),
    /// Answers of this model.
    Model(&'a str),
}

impl Tag<'_> {
    fn name(self) -> String {
        match self {
            Self::All => "all".into(),
            Self::User(id) => format!("user:{id}"),
            Self::Model(id) => format!("model:{id}"),
        }
    }
}

/// Where an entry stands: one name for each key of the cache, the newest first.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CacheKey {
    names: Vec<String>,
}

impl CacheKey {
    /// The entry's name under the newest key: the same for the same parts, in all replicas.
    pub fn name(&self) -> &str {
        self.names.first().map_or("", String::as_str)
    }
}

/// An entry that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// As it was put.
    pub value: Vec<u8>,
    /// Since it was put, for the header `age`.
    pub age: Duration,
}

/// A cache without keys could not tell its own entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the prompt cache has no key")]
pub struct NoKey;

/// The prompt cache's storage.
#[derive(Debug)]
pub struct Cache {
    store: KvStore,
    settings: CacheSettings,
    /// One for each key, the newest first.
    seals: Vec<Seal>,
    counters: Counters,
}

impl Cache {
    /// With these secrets, the newest first: it writes under the newest and reads under all.
    ///
    /// # Errors
    /// When there is no secret.
    pub fn new(store: KvStore, secrets: &[impl AsRef<[u8]>], settings: CacheSettings) -> Result<Self, NoKey> {
        let seals: Vec<Seal> = secrets.iter().filter_map(|secret| Seal::new(secret.as_ref())).collect();
        if seals.is_empty() {
            return Err(NoKey);
        }
        Ok(Self { store, settings, seals, counters: Counters::default() })
    }

    /// Where the answer to these parts stands. Parts are told apart by length, so `["ab", "c"]` is not `["a", "bc"]`.
    pub fn key(&self, parts: &[&[u8]]) -> CacheKey {
        CacheKey { names: self.seals.iter().map(|seal| seal.name(parts)).collect() }
    }

    /// The entry, if there is one that is ours, whole and not too old.
    pub async fn get(&self, key: &CacheKey) -> Option<Hit> {
        for (seal, name) in self.seals.iter().zip(&key.names) {
            match self.store.get(name).await {
                Ok(Some(bytes)) => match seal.open(name, &bytes, SystemTime::now()) {
                    Sealed::Good(hit) => {
                        self.counters.hit();
                        return Some(hit);
                    }
                    Sealed::Old => {}
                    Sealed::Foreign => self.counters.rejected(),
                },
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(%error, "the prompt cache does not answer");
                    self.counters.error();
                    return None;
                }
            }
        }
        self.counters.miss();
        None
    }

    /// Stores a finished answer, for as long as the settings say unless told otherwise. A failure is counted and no more.
    pub async fn put(&self, key: &CacheKey, value: &[u8], time_to_live: Option<Duration>, tags: &[Tag<'_>]) {
        let (Some(seal), Some(name)) = (self.seals.first(), key.names.first()) else { return };
        if value.len() > self.settings.most_bytes {
            return;
        }
        let time_to_live = time_to_live.unwrap_or(self.settings.time_to_live);
        let sealed = seal.close(name, value, SystemTime::now(), time_to_live);
        let tags: Vec<String> = tags.iter().chain(&[Tag::All]).map(|tag| tag.name()).collect();
        let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
        if let Err(error) = self.store.set(name, &sealed, time_to_live, &tags).await {
            tracing::debug!(%error, "the prompt cache does not take an answer");
            self.counters.error();
        }
    }

    /// Takes away every entry with this tag, in all replicas. An answer that is being made meanwhile is stored afterwards.
    ///
    /// # Errors
    /// When the store did not do it, after several attempts.
    pub async fn purge(&self, tag: Tag<'_>) -> Result<(), KvError> {
        let name = tag.name();
        let is_transient = |error: &KvError| !matches!(error, KvError::Open(_));
        self.settings.retry.run(is_transient, || self.store.purge(&name)).await
    }

    /// What has happened since the start.
    pub fn counts(&self) -> CacheCounts {
        self.counters.counts()
    }
}

#[cfg(test)]
mod tests;
