//! `[telemetry]`: what the program says about itself, and to whom.

use std::path::PathBuf;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::check::{Origin, invalid, within};
use super::data::RawData;

/// Where Langfuse takes traces.
const LANGFUSE_PATH: &str = "/api/public/otel/v1/traces";

/// What the program says about itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is a key of its own")]
pub struct RawTelemetry {
    pub log_level: String,
    pub log_format: String,
    pub log_file: String,
    pub log_rotation: String,
    pub log_max_mib: u64,
    pub log_keep: usize,
    pub debug: bool,
    pub prometheus: bool,
    pub environment: String,
    pub otlp_endpoint: String,
    pub otlp_headers: String,
    pub sample_ratio: f64,
    pub capture_content: bool,
    pub langfuse_enabled: bool,
    pub langfuse_host: String,
    pub langfuse_public_key: String,
    pub langfuse_secret_key: String,
    pub sentry_dsn: String,
    pub ca_file: String,
}

impl Default for RawTelemetry {
    fn default() -> Self {
        Self {
            log_level: "info".into(),
            log_format: "auto".into(),
            log_file: String::new(),
            log_rotation: "never".into(),
            log_max_mib: 0,
            log_keep: 14,
            debug: false,
            prometheus: true,
            environment: "production".into(),
            otlp_endpoint: String::new(),
            otlp_headers: String::new(),
            sample_ratio: 1.0,
            capture_content: false,
            langfuse_enabled: false,
            langfuse_host: String::new(),
            langfuse_public_key: String::new(),
            langfuse_secret_key: String::new(),
            sentry_dsn: String::new(),
            ca_file: String::new(),
        }
    }
}

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// When a new log file begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotation {
    /// Never: somebody else rotates.
    Never,
    /// At midnight, UTC.
    Daily,
    /// Every hour.
    Hourly,
}

/// `[telemetry]`, resolved.
#[derive(Debug, Clone)]
pub struct TelemetryConfig {
    /// A level or a filter such as `info,steppe=debug`.
    pub log_level: String,
    /// Text or JSON.
    pub log_format: LogFormat,
    /// Logs go here instead of to standard error.
    pub log_file: Option<PathBuf>,
    /// When a new one begins.
    pub log_rotation: Rotation,
    /// One also begins when this would be exceeded.
    pub log_most_bytes: Option<u64>,
    /// So many that have ended are kept.
    pub log_keep: usize,
    /// `/metrics` is there.
    pub prometheus: bool,
    /// The name of this installation in traces and errors.
    pub environment: String,
    /// Where traces go, if anywhere.
    pub otlp: Option<OtlpConfig>,
    /// Where errors go, if anywhere.
    pub sentry_dsn: Option<SecretString>,
    /// PEM certificates of who signs theirs; absent, those that the system trusts.
    pub ca_file: Option<PathBuf>,
}

/// A collector of traces.
#[derive(Debug, Clone)]
pub struct OtlpConfig {
    /// Where spans are posted.
    pub endpoint: String,
    /// With these headers, which may hold secrets.
    pub headers: Vec<(String, SecretString)>,
    /// Share of requests that are traced, unless their caller has decided.
    pub sample_ratio: f64,
    /// Prompts and answers are part of the spans.
    pub capture_content: bool,
    /// PEM certificates of who signs its certificate; absent, those that the system trusts.
    pub ca_file: Option<PathBuf>,
}

impl RawTelemetry {
    /// Judges the values.
    pub(super) fn resolve(self, data: &RawData, origin: Origin) -> Result<TelemetryConfig, ConfigError> {
        if self.log_level.parse::<tracing_subscriber::EnvFilter>().is_err() {
            let problem = format!("must be error, warn, info, debug, trace or a filter, not `{}`", self.log_level);
            return Err(invalid("telemetry.log_level", origin, problem));
        }
        let log_format = match self.log_format.as_str() {
            "auto" => LogFormat::Auto,
            "text" => LogFormat::Text,
            "json" => LogFormat::Json,
            other => {
                let problem = format!("must be auto, text or json, not `{other}`");
                return Err(invalid("telemetry.log_format", origin, problem));
            }
        };
        let log_rotation = match self.log_rotation.as_str() {
            "never" => Rotation::Never,
            "daily" => Rotation::Daily,
            "hourly" => Rotation::Hourly,
            other => {
                let problem = format!("must be never, daily or hourly, not `{other}`");
                return Err(invalid("telemetry.log_rotation", origin, problem));
            }
        };
        let otlp = self.otlp(origin)?;
        if !self.sentry_dsn.is_empty() && self.sentry_dsn.parse::<sentry::types::Dsn>().is_err() {
            let problem = "must be https://KEY@HOST/PROJECT, as Sentry's project settings show it";
            return Err(invalid("telemetry.sentry_dsn", origin, problem.into()));
        }
        let log_file = Some(self.log_file).filter(|file| !file.is_empty());
        Ok(TelemetryConfig {
            log_level: if self.debug { "debug".into() } else { self.log_level },
            log_format,
            log_file: log_file.map(|file| PathBuf::from(&data.dir).join(file)),
            log_rotation,
            log_most_bytes: Some(within("telemetry.log_max_mib", self.log_max_mib, 0..=1 << 20, origin)?)
                .filter(|mib| *mib > 0)
                .map(|mib| mib << 20),
            log_keep: within("telemetry.log_keep", self.log_keep, 1..=100_000, origin)?,
            prometheus: self.prometheus,
            environment: self.environment,
            otlp,
            ca_file: ca_file(&self.ca_file),
            sentry_dsn: Some(self.sentry_dsn).filter(|dsn| !dsn.is_empty()).map(SecretString::from),
        })
    }

    fn otlp(&self, origin: Origin) -> Result<Option<OtlpConfig>, ConfigError> {
        let sample_ratio = within("telemetry.sample_ratio", self.sample_ratio, 0.0..=1.0, origin)?;
        let (key, endpoint, headers) = if self.langfuse_enabled {
            for (key, value) in [
                ("telemetry.langfuse_host", &self.langfuse_host),
                ("telemetry.langfuse_public_key", &self.langfuse_public_key),
                ("telemetry.langfuse_secret_key", &self.langfuse_secret_key),
            ] {
                if value.is_empty() {
                    return Err(invalid(key, origin, "is needed by telemetry.langfuse_enabled".into()));
                }
            }
            if !self.otlp_endpoint.is_empty() {
                let problem = "cannot be given together with telemetry.langfuse_enabled";
                return Err(invalid("telemetry.otlp_endpoint", origin, problem.into()));
            }
            let pair = BASE64_STANDARD.encode(format!("{}:{}", self.langfuse_public_key, self.langfuse_secret_key));
            let headers = vec![("authorization".to_owned(), SecretString::from(format!("Basic {pair}")))];
            let endpoint = format!("{}{LANGFUSE_PATH}", self.langfuse_host.trim_end_matches('/'));
            ("telemetry.langfuse_host", endpoint, headers)
        } else if self.otlp_endpoint.is_empty() {
            return Ok(None);
        } else {
            let base = self.otlp_endpoint.trim_end_matches('/');
            let endpoint = if base.ends_with("/v1/traces") { base.to_owned() } else { format!("{base}/v1/traces") };
            ("telemetry.otlp_endpoint", endpoint, headers(&self.otlp_headers, origin)?)
        };
        let is_url = endpoint.starts_with("http://") || endpoint.starts_with("https://");
        if !is_url {
            return Err(invalid(key, origin, "must be a URL such as http://collector.example:4318".into()));
        }
        let (capture_content, ca_file) = (self.capture_content, ca_file(&self.ca_file));
        Ok(Some(OtlpConfig { endpoint, headers, sample_ratio, capture_content, ca_file }))
    }
}

fn ca_file(path: &str) -> Option<PathBuf> {
    (!path.is_empty()).then(|| PathBuf::from(path))
}

/// `name=value,name=value`
fn headers(text: &str, origin: Origin) -> Result<Vec<(String, SecretString)>, ConfigError> {
    let mut headers = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let Some((name, value)) = part.split_once('=') else {
            return Err(invalid("telemetry.otlp_headers", origin, "must be NAME=VALUE,NAME=VALUE".into()));
        };
        headers.push((name.trim().to_owned(), SecretString::from(value.trim().to_owned())));
    }
    Ok(headers)
}
