//! Rate limits: requests per minute and hour, tokens per minute and parallel requests of every scope that a request falls
//! under. Counted in this process, or in a Redis that replicas share. Must not know who users are, nor HTTP.
//!
//! The algorithm of all rates is the leaky bucket as a meter (the generic cell rate algorithm): a limit of n per period is
//! a bucket of n that drains evenly, n per period. So n may come at once, and then as many as have drained.

mod admission;
mod check;
mod claim;
mod local;
mod rates;
mod shared;
mod worker;

use std::sync::Arc;
use std::time::{Duration, Instant};

pub use admission::Admission;
pub use claim::{Claim, Limit, Quota, Scope, ScopeKind};
pub use rates::{Rate, Rates, Reason, Refusal};

use self::local::Local;
use self::shared::Shared;
use crate::kv_store::KvStore;

/// What is allowed by default, and where it is counted.
#[derive(Debug, Clone)]
pub struct LimitSettings {
    /// `RATE_LIMIT_STORAGE`: none is wherever the key-value store is.
    pub storage: Option<Storage>,
    /// Of everybody together.
    pub global: Quota,
    /// Of each user: `RATE_LIMIT_REQUESTS_PER_MINUTE`, `RATE_LIMIT_REQUESTS_PER_HOUR`.
    pub user: Quota,
    /// Of each API key.
    pub key: Quota,
    /// Of each department.
    pub department: Quota,
    /// Of each client address.
    pub address: Quota,
    /// What happens while Redis does not answer.
    pub when_unavailable: WhenUnavailable,
    /// Parallel requests of a replica that died count for so long.
    pub lease: Duration,
}

impl Default for LimitSettings {
    fn default() -> Self {
        let none = Quota::default();
        Self {
            storage: None,
            global: none,
            user: none,
            key: none,
            department: none,
            address: none,
            when_unavailable: WhenUnavailable::CountHere,
            lease: Duration::from_secs(30),
        }
    }
}

impl LimitSettings {
    fn of(&self, kind: ScopeKind) -> Quota {
        match kind {
            ScopeKind::Global => self.global,
            ScopeKind::User => self.user,
            ScopeKind::Key => self.key,
            ScopeKind::Department => self.department,
            ScopeKind::Address => self.address,
        }
    }
}

/// Where limits are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// In this process.
    Memory,
    /// In Redis, for all replicas together.
    Redis,
}

impl std::str::FromStr for Storage {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim().to_ascii_lowercase().as_str() {
            "memory" => Ok(Self::Memory),
            "redis" => Ok(Self::Redis),
            _ => Err(format!("`{text}` is no storage; memory and redis are")),
        }
    }
}

/// What happens to requests while the store that counts them does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenUnavailable {
    /// This process counts by itself, so that replicas together may let more through.
    #[default]
    CountHere,
    /// They are refused.
    Refuse,
}

/// Limits were to be shared, and there is no Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("RATE_LIMIT_STORAGE is redis, but there is no REDIS_URL")]
pub struct NoRedis;

/// Counts requests and refuses those beyond the limits. Cheap to clone; clones share the counts.
#[derive(Debug, Clone)]
pub struct Limits {
    settings: Arc<LimitSettings>,
    local: Arc<Local>,
    shared: Option<Shared>,
    started: Instant,
}

impl Limits {
    /// Nothing is counted yet. Needs a tokio runtime, in which leases are renewed, when counts are shared.
    ///
    /// # Errors
    /// When the settings name Redis and `store` is in this process.
    pub fn new(settings: LimitSettings, store: &KvStore) -> Result<Self, NoRedis> {
        let shared = match (settings.storage, store) {
            (Some(Storage::Memory), _) | (None, KvStore::Memory(_)) => None,
            (_, KvStore::Redis(redis)) => Some(Shared::new(redis.clone(), settings.lease)),
            (Some(Storage::Redis), KvStore::Memory(_)) => return Err(NoRedis),
        };
        Ok(Self { settings: Arc::new(settings), local: Arc::default(), shared, started: Instant::now() })
    }

    /// Counts a request against all its scopes, or against none and refuses it. Dropping the future counts nothing, or
    /// is settled when Redis has counted already.
    ///
    /// # Errors
    /// The limit that was reached, and when to come again.
    pub async fn admit(&self, claim: &Claim<'_>) -> Result<Admission, Refusal> {
        let checks = check::of(claim, &self.settings);
        if let Some(shared) = &self.shared {
            match shared.admit(0, &checks).await {
                Ok(outcome) => return outcome,
                Err(error) => tracing::debug!(%error, "limits are not shared at the moment"),
            }
            if self.settings.when_unavailable == WhenUnavailable::Refuse {
                return Err(Refusal::unavailable());
            }
        }
        self.local.admit(self.started.elapsed().as_millis() as i64, &checks)
    }

    /// Waits until what requests held that have ended is given back, or could not be: for an orderly end.
    pub async fn flush(&self) {
        if let Some(shared) = &self.shared {
            shared.flush().await;
        }
    }
}

#[cfg(test)]
mod tests;
