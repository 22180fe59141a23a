//! `[redis]`: the server that replicas share short-lived state in. None: it stays in the process.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::check::{Origin, within};
use crate::kv_store::RedisSettings;

/// Where Redis is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawRedis {
    pub url: String,
    pub host: String,
    pub port: u16,
    pub db: u32,
    pub prefix: String,
    pub timeout_ms: u64,
}

impl Default for RawRedis {
    fn default() -> Self {
        let (url, host) = (String::new(), String::new());
        Self { url, host, port: 6379, db: 0, prefix: "steppe:".into(), timeout_ms: 50 }
    }
}

impl RawRedis {
    /// Judges the values; a URL wins over host, port and number.
    pub(super) fn resolve(self, origin: Origin) -> Result<Option<RedisSettings>, ConfigError> {
        let timeout = within("redis.timeout_ms", self.timeout_ms, 1..=60_000, origin)?;
        let place = match (self.url, self.host) {
            (url, _) if !url.is_empty() => RedisSettings::new(url),
            (_, host) if !host.is_empty() => RedisSettings::at(&host, self.port, self.db),
            _ => return Ok(None),
        };
        Ok(Some(RedisSettings { prefix: self.prefix, timeout: Duration::from_millis(timeout), ..place }))
    }
}
