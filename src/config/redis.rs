//! `[redis]`: the server that replicas share short-lived state in. None: it stays in the process.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::check::{Origin, invalid, within};
use crate::kv_store::{OwnCertificate, RedisSettings};

/// Where Redis is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawRedis {
    pub url: String,
    pub host: String,
    pub port: u16,
    pub db: u32,
    pub cluster: bool,
    pub ca_file: String,
    pub tls_certificate: String,
    pub tls_key: String,
    pub prefix: String,
    pub timeout_ms: u64,
}

impl Default for RawRedis {
    fn default() -> Self {
        Self {
            url: String::new(),
            host: String::new(),
            port: 6379,
            db: 0,
            cluster: false,
            ca_file: String::new(),
            tls_certificate: String::new(),
            tls_key: String::new(),
            prefix: "steppe:".into(),
            timeout_ms: 50,
        }
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
        let own_certificate = match (self.tls_certificate, self.tls_key) {
            (certificate, key) if certificate.is_empty() && key.is_empty() => None,
            (certificate, key) if !certificate.is_empty() && !key.is_empty() => {
                Some(OwnCertificate { certificate: certificate.into(), key: key.into() })
            }
            _ => return Err(invalid("redis.tls_key", origin, "goes with redis.tls_certificate, both or none".into())),
        };
        Ok(Some(RedisSettings {
            cluster: self.cluster,
            ca_file: Some(self.ca_file).filter(|file| !file.is_empty()).map(PathBuf::from),
            own_certificate,
            prefix: self.prefix,
            timeout: Duration::from_millis(timeout),
            ..place
        }))
    }
}
