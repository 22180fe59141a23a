//! `[limits]`: how often, how much and how many at once may be asked.

use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::check::{Origin, invalid, seconds};
use crate::limits::{LimitSettings, Quota, WhenUnavailable};

/// How often, how much and how many at once; 0 is no limit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawLimits {
    pub storage: String,
    pub when_unavailable: String,
    pub lease_seconds: u64,
    pub requests_per_minute: u64,
    pub requests_per_hour: u64,
    pub tokens_per_minute: u64,
    pub parallel_requests: u64,
    pub key_requests_per_minute: u64,
    pub key_requests_per_hour: u64,
    pub key_tokens_per_minute: u64,
    pub key_parallel_requests: u64,
    pub department_requests_per_minute: u64,
    pub department_requests_per_hour: u64,
    pub department_tokens_per_minute: u64,
    pub department_parallel_requests: u64,
    pub address_requests_per_minute: u64,
    pub address_requests_per_hour: u64,
    pub address_tokens_per_minute: u64,
    pub address_parallel_requests: u64,
    pub global_requests_per_minute: u64,
    pub global_requests_per_hour: u64,
    pub global_tokens_per_minute: u64,
    pub global_parallel_requests: u64,
}

impl Default for RawLimits {
    fn default() -> Self {
        Self {
            storage: "auto".into(),
            when_unavailable: "count-here".into(),
            lease_seconds: 30,
            requests_per_minute: 0,
            requests_per_hour: 0,
            tokens_per_minute: 0,
            parallel_requests: 0,
            key_requests_per_minute: 0,
            key_requests_per_hour: 0,
            key_tokens_per_minute: 0,
            key_parallel_requests: 0,
            department_requests_per_minute: 0,
            department_requests_per_hour: 0,
            department_tokens_per_minute: 0,
            department_parallel_requests: 0,
            address_requests_per_minute: 0,
            address_requests_per_hour: 0,
            address_tokens_per_minute: 0,
            address_parallel_requests: 0,
            global_requests_per_minute: 0,
            global_requests_per_hour: 0,
            global_tokens_per_minute: 0,
            global_parallel_requests: 0,
        }
    }
}

impl RawLimits {
    /// Judges the values.
    pub(super) fn resolve(&self, origin: Origin) -> Result<LimitSettings, ConfigError> {
        let storage = match self.storage.as_str() {
            "auto" | "" => None,
            named => Some(named.parse().map_err(|problem| {
                invalid("limits.storage", origin, format!("must be auto, memory or redis: {problem}"))
            })?),
        };
        let when_unavailable = match self.when_unavailable.as_str() {
            "count-here" => WhenUnavailable::CountHere,
            "refuse" => WhenUnavailable::Refuse,
            other => {
                let problem = format!("must be count-here or refuse, not `{other}`");
                return Err(invalid("limits.when_unavailable", origin, problem));
            }
        };
        Ok(LimitSettings {
            storage,
            when_unavailable,
            lease: seconds("limits.lease_seconds", self.lease_seconds, 5..=3600, origin)?,
            user: quota([
                self.requests_per_minute,
                self.requests_per_hour,
                self.tokens_per_minute,
                self.parallel_requests,
            ]),
            key: quota([
                self.key_requests_per_minute,
                self.key_requests_per_hour,
                self.key_tokens_per_minute,
                self.key_parallel_requests,
            ]),
            department: quota([
                self.department_requests_per_minute,
                self.department_requests_per_hour,
                self.department_tokens_per_minute,
                self.department_parallel_requests,
            ]),
            address: quota([
                self.address_requests_per_minute,
                self.address_requests_per_hour,
                self.address_tokens_per_minute,
                self.address_parallel_requests,
            ]),
            global: quota([
                self.global_requests_per_minute,
                self.global_requests_per_hour,
                self.global_tokens_per_minute,
                self.global_parallel_requests,
            ]),
        })
    }
}

fn quota(values: [u64; 4]) -> Quota {
    let [requests_per_minute, requests_per_hour, tokens_per_minute, parallel_requests] =
        values.map(|value| Some(value).filter(|value| *value != 0));
    Quota { requests_per_minute, requests_per_hour, tokens_per_minute, parallel_requests }
}
