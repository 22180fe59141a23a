//! `[retry]` and `[circuit_breaker]`: how failures of databases and other servers are met.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::check::{Origin, invalid, within};
use crate::resilience::{BreakerSettings, Retry};

/// How often a call that may be made twice is made again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawRetry {
    pub enabled: bool,
    pub max_attempts: u32,
    pub base_delay: f64,
    pub max_delay: f64,
}

impl Default for RawRetry {
    fn default() -> Self {
        Self { enabled: true, max_attempts: 3, base_delay: 0.1, max_delay: 5.0 }
    }
}

impl RawRetry {
    /// Judges the values.
    pub(super) fn resolve(&self, origin: Origin) -> Result<Retry, ConfigError> {
        Ok(Retry {
            enabled: self.enabled,
            max_attempts: within("retry.max_attempts", self.max_attempts, 1..=100, origin)?,
            base_delay: seconds("retry.base_delay", self.base_delay, origin)?,
            max_delay: seconds("retry.max_delay", self.max_delay, origin)?,
        })
    }
}

/// When a server that fails is left alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawCircuitBreaker {
    pub enabled: bool,
    pub failure_threshold: u32,
    pub recovery_timeout: f64,
}

impl Default for RawCircuitBreaker {
    fn default() -> Self {
        Self { enabled: true, failure_threshold: 5, recovery_timeout: 30.0 }
    }
}

impl RawCircuitBreaker {
    /// Judges the values.
    pub(super) fn resolve(&self, origin: Origin) -> Result<BreakerSettings, ConfigError> {
        let threshold = within("circuit_breaker.failure_threshold", self.failure_threshold, 1..=1_000_000, origin)?;
        Ok(BreakerSettings {
            enabled: self.enabled,
            failure_threshold: threshold,
            recovery_timeout: seconds("circuit_breaker.recovery_timeout", self.recovery_timeout, origin)?,
        })
    }
}

fn seconds(key: &'static str, value: f64, origin: Origin) -> Result<Duration, ConfigError> {
    if (0.0..=86_400.0).contains(&value) {
        return Ok(Duration::from_secs_f64(value));
    }
    Err(invalid(key, origin, format!("must be seconds from 0 to 86400, not {value}")))
}
