//! Short-lived shared state: bytes under a key for a while, in this process or in a Redis that replicas share. Must not
//! know what the bytes are. A store that fails costs little and answers with an error, never with somebody else's reply.

mod link;
mod memory;
mod redis;
mod settings;

use std::sync::Arc;
use std::time::Duration;

pub use self::memory::Memory;
pub use self::redis::{Redis, Script};
pub use self::settings::{OwnCertificate, RedisSettings};
use crate::resilience::{Breaker, BreakerOpen};

/// Why a store did not answer.
#[derive(Debug, thiserror::Error)]
pub enum KvError {
    /// It failed lately and was not asked.
    #[error(transparent)]
    Open(#[from] BreakerOpen),
    /// It did not answer in time.
    #[error("the answer did not come within {} ms", .0.as_millis())]
    Slow(Duration),
    /// It cannot be reached, or the connection broke.
    #[error("the connection failed: {0}")]
    Connection(String),
    /// It answered that it cannot work: it is loading, full, read-only, closed to us.
    #[error("the server refused: {0}")]
    Refused(String),
    /// Another server of the cluster has our keys now. Nothing was done.
    #[error("the keys are on another server of the cluster")]
    Moved,
    /// It works, but this command makes no sense to it.
    #[error("the command failed: {0}")]
    Command(String),
    /// What came back is not an answer to what was asked.
    #[error("the answer makes no sense")]
    Nonsense,
    /// The address in the configuration is none.
    #[error("{0}")]
    Address(String),
}

/// A store of either kind. Cheap to clone.
#[derive(Debug, Clone)]
pub enum KvStore {
    /// In this process.
    Memory(Memory),
    /// Shared by replicas.
    Redis(Redis),
}

impl KvStore {
    /// In this process, with at most so many bytes.
    pub fn memory(bytes: u64) -> Self {
        Self::Memory(Memory::new(bytes))
    }

    /// In Redis. Connects when it is first asked.
    ///
    /// # Errors
    /// When the address makes no sense.
    pub fn redis(settings: &RedisSettings, breaker: Arc<Breaker>) -> Result<Self, KvError> {
        Ok(Self::Redis(Redis::new(settings, breaker)?))
    }

    /// What stands under a key, unless its time is over or one of its tags was purged.
    pub async fn get(&self, key: &str) -> Result<Option<Arc<[u8]>>, KvError> {
        match self {
            Self::Memory(memory) => Ok(memory.get(key)),
            Self::Redis(redis) => redis.get(key).await,
        }
    }

    /// Puts a value under a key, in place of any other, for this long. It goes with any of its tags.
    pub async fn set(&self, key: &str, value: &[u8], time_to_live: Duration, tags: &[&str]) -> Result<(), KvError> {
        match self {
            Self::Memory(memory) => {
                memory.set(key, value, time_to_live, tags);
                Ok(())
            }
            Self::Redis(redis) => redis.set(key, value, time_to_live, tags).await,
        }
    }

    /// Takes away what stands under a key.
    pub async fn delete(&self, key: &str) -> Result<(), KvError> {
        match self {
            Self::Memory(memory) => {
                memory.delete(key);
                Ok(())
            }
            Self::Redis(redis) => redis.delete(key).await,
        }
    }

    /// Takes away everything that was set with this tag until now.
    pub async fn purge(&self, tag: &str) -> Result<(), KvError> {
        match self {
            Self::Memory(memory) => {
                memory.purge(tag);
                Ok(())
            }
            Self::Redis(redis) => redis.purge(tag).await,
        }
    }
}

#[cfg(test)]
pub mod testing;
#[cfg(test)]
mod tests;
