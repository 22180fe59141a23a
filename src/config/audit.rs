//! `[audit]`: what is written down of who did what.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::check::{Origin, invalid, within};
use super::data::RawData;
use crate::audit::{AuditSettings, Level, SyslogAddress};

const DAY: u64 = 86_400;
/// Fewer can be guessed.
const KEY_BYTES: usize = 32;

/// What is written down of who did what.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawAudit {
    pub enabled: bool,
    pub level: String,
    pub retention_days: u64,
    pub required: bool,
    pub key: String,
    pub syslog: String,
    pub file: String,
}

impl Default for RawAudit {
    fn default() -> Self {
        Self {
            enabled: true,
            level: "metadata".into(),
            retention_days: 365,
            required: false,
            key: String::new(),
            syslog: String::new(),
            file: String::new(),
        }
    }
}

impl RawAudit {
    /// Judges the values.
    pub(super) fn resolve(self, data: &RawData, origin: Origin) -> Result<AuditSettings, ConfigError> {
        let level = match self.level.as_str() {
            "metadata" => Level::Metadata,
            "request" => Level::Request,
            "full" => Level::Full,
            other => {
                let problem = format!("must be metadata, request or full, not `{other}`");
                return Err(invalid("audit.level", origin, problem));
            }
        };
        if !self.key.is_empty() && self.key.len() < KEY_BYTES {
            let problem = format!("must have at least {KEY_BYTES} bytes; `openssl rand -hex 32` makes a good one");
            return Err(invalid("audit.key", origin, problem));
        }
        let syslog: Option<SyslogAddress> = if self.syslog.is_empty() {
            None
        } else {
            Some(self.syslog.parse().map_err(|problem| invalid("audit.syslog", origin, problem))?)
        };
        let days = within("audit.retention_days", self.retention_days, 0..=36_500, origin)?;
        let given = |text: String| Some(text).filter(|text| !text.is_empty());
        Ok(AuditSettings {
            enabled: self.enabled,
            level,
            retention: Some(Duration::from_secs(days * DAY)).filter(|retention| !retention.is_zero()),
            required: self.required,
            key: given(self.key).map(Into::into),
            syslog,
            file: given(self.file).map(|file| PathBuf::from(&data.dir).join(file)),
            ..AuditSettings::default()
        })
    }
}
