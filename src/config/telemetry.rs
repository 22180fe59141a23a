//! `[telemetry]`: what the program says about itself.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::check::{Origin, invalid};
use super::data::RawData;

/// What the program says about itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawTelemetry {
    pub log_level: String,
    pub log_format: String,
    pub log_file: String,
    pub debug: bool,
    pub prometheus: bool,
}

impl Default for RawTelemetry {
    fn default() -> Self {
        Self {
            log_level: "info".into(),
            log_format: "text".into(),
            log_file: String::new(),
            debug: false,
            prometheus: true,
        }
    }
}

/// `[telemetry]`, resolved.
#[derive(Debug, Clone)]
pub struct TelemetryConfig {
    /// A level or a filter such as `info,steppe=debug`.
    pub log_level: String,
    /// JSON lines instead of text.
    pub json: bool,
    /// Logs go here instead of to standard error.
    pub log_file: Option<PathBuf>,
    /// `/metrics` is there.
    pub prometheus: bool,
}

impl RawTelemetry {
    /// Judges the values.
    pub(super) fn resolve(self, data: &RawData, origin: Origin) -> Result<TelemetryConfig, ConfigError> {
        if self.log_level.parse::<tracing_subscriber::EnvFilter>().is_err() {
            let problem = format!("must be error, warn, info, debug, trace or a filter, not `{}`", self.log_level);
            return Err(invalid("telemetry.log_level", origin, problem));
        }
        let json = match self.log_format.as_str() {
            "text" => false,
            "json" => true,
            other => {
                return Err(invalid("telemetry.log_format", origin, format!("must be text or json, not `{other}`")));
            }
        };
        let log_file =
            Some(self.log_file).filter(|file| !file.is_empty()).map(|file| PathBuf::from(&data.dir).join(file));
        let log_level = if self.debug { "debug".into() } else { self.log_level };
        Ok(TelemetryConfig { log_level, json, log_file, prometheus: self.prometheus })
    }
}
