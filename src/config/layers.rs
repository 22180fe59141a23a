//! Puts the layers on top of each other: defaults, file, environment, flags. Knows where every value came from and
//! refuses keys that do not exist; must not know what any key means.

use std::path::{Path, PathBuf};

use figment::providers::{Format, Serialized, Toml};
use figment::util::nest;
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};

use super::{ConfigError, RawConfig};

/// The file read when none is named.
const DEFAULT_FILE: &str = "config.toml";
const PREFIX: &str = "STEPPE_";
/// Variables that administrators know, without the usual prefix and section.
const PLAIN: [(&str, &str); 35] = [
    ("ALLOWED_HOSTS", "server.allowed_hosts"),
    ("BILLING_CURRENCY", "billing.currency"),
    ("BILLING_DEFAULT_BALANCE", "billing.default_balance"),
    ("BILLING_ENABLED", "billing.enabled"),
    ("CIRCUIT_BREAKER_ENABLED", "circuit_breaker.enabled"),
    ("CIRCUIT_BREAKER_FAILURE_THRESHOLD", "circuit_breaker.failure_threshold"),
    ("CIRCUIT_BREAKER_RECOVERY_TIMEOUT", "circuit_breaker.recovery_timeout"),
    ("CORS_ORIGINS", "server.cors_origins"),
    ("DATABASE_URL", "store.url"),
    ("DEBUG", "telemetry.debug"),
    ("ENVIRONMENT", "telemetry.environment"),
    ("HOST", "server.host"),
    ("INTERNAL_API_KEY", "auth.internal_key"),
    ("JWT_ACCESS_TOKEN_EXPIRE_MINUTES", "auth.access_token_minutes"),
    ("JWT_ALGORITHM", "auth.jwt_algorithm"),
    ("JWT_SECRET_KEY", "auth.jwt_secret"),
    ("LANGFUSE_ENABLED", "telemetry.langfuse_enabled"),
    ("LANGFUSE_HOST", "telemetry.langfuse_host"),
    ("LANGFUSE_PUBLIC_KEY", "telemetry.langfuse_public_key"),
    ("LANGFUSE_SECRET_KEY", "telemetry.langfuse_secret_key"),
    ("LOG_LEVEL", "telemetry.log_level"),
    ("PORT", "server.port"),
    ("PROMETHEUS_ENABLED", "telemetry.prometheus"),
    ("RATE_LIMIT_REQUESTS_PER_HOUR", "limits.requests_per_hour"),
    ("RATE_LIMIT_REQUESTS_PER_MINUTE", "limits.requests_per_minute"),
    ("RATE_LIMIT_STORAGE", "limits.storage"),
    ("REDIS_DB", "redis.db"),
    ("REDIS_HOST", "redis.host"),
    ("REDIS_PORT", "redis.port"),
    ("REDIS_URL", "redis.url"),
    ("RETRY_BASE_DELAY", "retry.base_delay"),
    ("RETRY_ENABLED", "retry.enabled"),
    ("RETRY_MAX_ATTEMPTS", "retry.max_attempts"),
    ("RETRY_MAX_DELAY", "retry.max_delay"),
    ("SENTRY_DSN", "telemetry.sentry_dsn"),
];
/// Keys whose values are shown to nobody.
const SECRET: [&str; 9] = [
    "audit.key",
    "auth.internal_key",
    "auth.jwt_secret",
    "directory.bind_password",
    "redis.url",
    "store.url",
    "telemetry.langfuse_secret_key",
    "telemetry.otlp_headers",
    "telemetry.sentry_dsn",
];

/// The names of these variables, sorted.
pub fn plain_variables() -> impl Iterator<Item = &'static str> {
    PLAIN.into_iter().map(|(name, _)| name)
}

/// What the layers are made from; the caller reads the process's environment and arguments.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The configuration file; `None` takes `config.toml` of the working directory if it is there.
    pub file: Option<PathBuf>,
    /// Environment variables, all of them.
    pub environment: Vec<(String, String)>,
    /// `(flag, key, value)` of the flags given: `("--port", "server.port", "9000")`.
    pub flags: Vec<(String, String, String)>,
}

/// The merged layers, not yet validated.
pub(super) struct Layers {
    figment: Figment,
}

impl Layers {
    pub(super) fn read(sources: &Sources) -> Result<Self, ConfigError> {
        let known = Serialized::defaults(RawConfig::default());
        let defaults = known.data()?.remove(&Profile::Default).unwrap_or_default();
        let mut figment = Figment::from(Renamed("default", known));
        if let Some(path) = file_path(sources)? {
            let toml = Toml::file_exact(&path);
            check_file(&toml, &path, &defaults)?;
            figment = figment.merge(toml);
        }
        for (name, raw) in &sources.environment {
            if let Some(key) = environment_key(name) {
                figment = figment.merge(Setting::new(format!("environment variable {name}"), &key, raw, &defaults)?);
            }
        }
        for (flag, key, raw) in &sources.flags {
            figment = figment.merge(Setting::new(format!("flag {flag}"), key, raw, &defaults)?);
        }
        Ok(Self { figment })
    }

    pub(super) fn extract(&self) -> Result<RawConfig, ConfigError> {
        Ok(self.figment.extract()?)
    }

    /// Every key with its value as TOML would write it and where it came from, in the order of the sections.
    pub(super) fn provenance(&self) -> Result<Vec<(String, String, String)>, ConfigError> {
        let mut rows = Vec::new();
        for (section, value) in self.figment.extract::<Dict>()? {
            for (key, value) in value.into_dict().unwrap_or_default() {
                let path = format!("{section}.{key}");
                let hidden = SECRET.contains(&path.as_str()) && value.as_str() != Some("");
                let value = if hidden { Value::from("(hidden)") } else { value };
                let shown = toml::Value::try_from(&value).map_or_else(|e| e.to_string(), |v| v.to_string());
                rows.push((path.clone(), shown, self.origin(&path)));
            }
        }
        Ok(rows)
    }

    /// Where the value of `key` came from, in words.
    pub(super) fn origin(&self, key: &str) -> String {
        let Some(metadata) = self.figment.find_metadata(key) else { return "default".into() };
        match metadata.source.as_ref().and_then(figment::Source::file_path) {
            Some(path) => path.display().to_string(),
            None => metadata.name.to_string(),
        }
    }
}

fn file_path(sources: &Sources) -> Result<Option<PathBuf>, ConfigError> {
    let from_environment =
        || sources.environment.iter().find(|(name, _)| name == "STEPPE_CONFIG").map(|(_, v)| v.into());
    match sources.file.clone().or_else(from_environment) {
        Some(path) if !path.is_file() => Err(ConfigError::NoFile(path)),
        Some(path) => Ok(Some(path)),
        None => Ok(Some(PathBuf::from(DEFAULT_FILE)).filter(|path| path.is_file())),
    }
}

/// `STEPPE_SERVER_PORT` -> `server.port`; `None` for variables that are not ours.
fn environment_key(name: &str) -> Option<String> {
    if let Some((_, key)) = PLAIN.iter().find(|(plain, _)| *plain == name) {
        return Some((*key).to_owned());
    }
    let rest = name.strip_prefix(PREFIX)?;
    // Kubernetes sets these for a service called `steppe`; STEPPE_CONFIG names the file.
    if rest == "CONFIG" || rest == "PORT" || rest.starts_with("PORT_") || rest.starts_with("SERVICE_") {
        return None;
    }
    Some(rest.to_lowercase().replacen('_', ".", 1))
}

fn check_file(toml: &impl Provider, path: &Path, defaults: &Dict) -> Result<(), ConfigError> {
    let origin = path.display().to_string();
    let not_toml = |error: figment::Error| ConfigError::NotToml(path.to_owned(), error.kind.to_string());
    for (section, value) in toml.data().map_err(not_toml)?.into_values().flatten() {
        let Some(known) = defaults.get(&section).and_then(Value::as_dict) else {
            return Err(unknown(&section, &origin, defaults.keys()));
        };
        let given = value.into_dict().ok_or_else(|| ConfigError::NotASection(section.clone(), origin.clone()))?;
        if let Some(key) = given.keys().find(|key| !known.contains_key(*key)) {
            return Err(unknown(&format!("{section}.{key}"), &origin, known.keys()));
        }
    }
    Ok(())
}

fn unknown<'a>(key: &str, origin: &str, known: impl Iterator<Item = &'a String>) -> ConfigError {
    let known: Vec<&str> = known.map(String::as_str).collect();
    ConfigError::UnknownKey { key: key.to_owned(), origin: origin.to_owned(), known: known.join(", ") }
}

/// One value from the environment or a flag.
struct Setting {
    origin: String,
    dict: Dict,
}

impl Setting {
    /// Reads `raw` as the type that the key's default has.
    fn new(origin: String, key: &str, raw: &str, defaults: &Dict) -> Result<Self, ConfigError> {
        let (section, name) = key.split_once('.').unwrap_or((key, ""));
        let Some(known) = defaults.get(section).and_then(Value::as_dict) else {
            return Err(unknown(key, &origin, defaults.keys()));
        };
        let Some(default) = known.get(name) else { return Err(unknown(key, &origin, known.keys())) };
        let dict = nest(key, typed(raw.trim(), default)).into_dict().unwrap_or_default();
        Ok(Self { origin, dict })
    }
}

impl Provider for Setting {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.origin.clone()).interpolater(|_, keys| keys.join("."))
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.dict.clone()))
    }
}

/// A provider under another name, so that messages say `default`.
struct Renamed<P>(&'static str, P);

impl<P: Provider> Provider for Renamed<P> {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.0)
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        self.1.data()
    }
}

/// A value that does not parse stays a string, and extraction then reports its type, key and origin.
fn typed(raw: &str, default: &Value) -> Value {
    let parsed = match default {
        Value::Bool(..) => raw.parse::<bool>().ok().map(Value::from),
        Value::Num(..) => raw.parse::<i64>().ok().map(Value::from).or_else(|| raw.parse::<f64>().ok().map(Value::from)),
        Value::Array(..) => {
            let parts = || raw.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect();
            let list: Vec<String> = serde_json::from_str(raw).unwrap_or_else(|_| parts());
            Some(Value::from(list))
        }
        _ => None,
    };
    parsed.unwrap_or_else(|| Value::from(raw))
}
