//! `[cache]`: the prompt cache.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::check::{Origin, invalid, seconds, within};
use crate::cache::CacheSettings;
use crate::cache::similar::{SimilarMode, SimilarSettings};
use crate::resilience::Retry;

/// The prompt cache.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawCache {
    pub enabled: bool,
    pub tenant: String,
    pub time_to_live_seconds: u64,
    pub memory_mib: u64,
    pub similar: String,
    pub similar_threshold: f64,
    pub similar_most_entries: usize,
    pub similar_recheck_share: f64,
    pub similar_deadline_ms: u64,
}

impl Default for RawCache {
    fn default() -> Self {
        Self {
            enabled: true,
            tenant: "user".into(),
            time_to_live_seconds: 3600,
            memory_mib: 64,
            similar: "off".into(),
            similar_threshold: 0.97,
            similar_most_entries: 256,
            similar_recheck_share: 0.05,
            similar_deadline_ms: 50,
        }
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
    /// How similar questions are used, if they are.
    pub similar: Option<SimilarSettings>,
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
    /// Judges the values. Similar questions need an embedding model.
    pub(super) fn resolve(&self, retry: Retry, embeds: bool, origin: Origin) -> Result<CacheConfig, ConfigError> {
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
            similar: self.similar(embeds, origin)?,
        })
    }

    fn similar(&self, embeds: bool, origin: Origin) -> Result<Option<SimilarSettings>, ConfigError> {
        let mode = match self.similar.as_str() {
            "off" => None,
            "shadow" => Some(SimilarMode::Shadow),
            "on" => Some(SimilarMode::On),
            other => {
                return Err(invalid("cache.similar", origin, format!("must be off, shadow or on, not `{other}`")));
            }
        };
        let needs =
            |what: &str| Err(invalid("cache.similar", origin, format!("is {}, which needs {what}", self.similar)));
        if mode.is_some() && !embeds {
            return needs("an embedding model: name one in embeddings.model");
        }
        if mode.is_some() && !self.enabled {
            return needs("cache.enabled = true");
        }
        let threshold = within("cache.similar_threshold", self.similar_threshold, 0.5..=1.0, origin)? as f32;
        let most_entries = within("cache.similar_most_entries", self.similar_most_entries, 1..=4096, origin)?;
        let recheck_share = within("cache.similar_recheck_share", self.similar_recheck_share, 0.0..=1.0, origin)?;
        let deadline = within("cache.similar_deadline_ms", self.similar_deadline_ms, 1..=10_000, origin)?;
        let deadline = Duration::from_millis(deadline);
        Ok(mode.map(|mode| SimilarSettings { mode, threshold, most_entries, recheck_share, deadline }))
    }
}
