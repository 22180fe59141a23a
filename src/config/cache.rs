//! `[cache]`: the prompt cache.

use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::check::{Origin, invalid, seconds, within};
use crate::cache::CacheSettings;
use crate::resilience::Retry;

/// The prompt cache.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawCache {
    pub enabled: bool,
    pub tenant: String,
    pub time_to_live_seconds: u64,
    pub memory_mib: u64,
}

impl Default for RawCache {
    fn default() -> Self {
        Self { enabled: true, tenant: "user".into(), time_to_live_seconds: 3600, memory_mib: 64 }
    }
}

/// `[cache]`, resolved.
#[derive(Debug, Clone)]
pub struct CacheConfig {
    /// Whether finished answers are kept.
    pub enabled: bool,
    /// Who shares cached prompts and answers.
    pub tenant: Tenant,
    /// Bytes of a cache in this process.
    pub memory: u64,
    /// Of entries.
    pub settings: CacheSettings,
}

/// Those who share what was computed for one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tenant {
    /// Each user alone.
    User,
    /// The users of a department.
    Department,
    /// Everybody.
    All,
}

impl RawCache {
    /// Judges the values.
    pub(super) fn resolve(&self, retry: Retry, origin: Origin) -> Result<CacheConfig, ConfigError> {
        let tenant = match self.tenant.as_str() {
            "user" => Tenant::User,
            "department" => Tenant::Department,
            "all" => Tenant::All,
            other => {
                return Err(invalid("cache.tenant", origin, format!("must be user, department or all, not `{other}`")));
            }
        };
        let time_to_live = seconds("cache.time_to_live_seconds", self.time_to_live_seconds, 1..=31_536_000, origin)?;
        Ok(CacheConfig {
            enabled: self.enabled,
            tenant,
            memory: within("cache.memory_mib", self.memory_mib, 1..=1 << 20, origin)? << 20,
            settings: CacheSettings { time_to_live, retry, ..CacheSettings::default() },
        })
    }
}
