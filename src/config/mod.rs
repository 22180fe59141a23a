//! Configuration: the layers (defaults, file, environment, flags) become a [`RawConfig`], that becomes a [`Config`],
//! resolved and validated once. One file per section. Everybody else receives their own section and reads no flag, variable or file.

mod audit;
mod auth;
mod billing;
mod cache;
mod check;
mod data;
mod directory;
mod embeddings;
mod engine;
mod generation;
mod groups;
mod issuer;
mod layers;
mod limits;
mod model;
mod network;
mod redis;
mod resilience;
mod server;
mod store;
mod telemetry;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::audit::AuditSettings;
use crate::kv_store::RedisSettings;
use crate::ledger::LedgerSettings;
use crate::limits::LimitSettings;
use crate::resilience::{BreakerSettings, Retry};

pub use auth::AuthConfig;
pub use cache::{CacheConfig, Tenant};
pub use directory::DirectoryConfig;
pub use embeddings::EmbeddingSettings;
pub use engine::{DeviceChoice, EngineSettings};
pub use generation::GenerationConfig;
pub use groups::GroupRules;
pub use issuer::{IssuerConfig, JwksPlace, PublicAlgorithm};
pub use layers::{Sources, plain_variables};
pub use model::ModelSettings;
pub use network::Network;
pub use server::{ServerConfig, TlsFiles};
pub use store::StoreConfig;
pub use telemetry::{LogFormat, OtlpConfig, Rotation, TelemetryConfig};

/// Why the configuration cannot be used; each message names the key and where its value came from.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The named file is not there.
    #[error("there is no configuration file {}", .0.display())]
    NoFile(PathBuf),
    /// The file is no TOML.
    #[error("{}: {}", .0.display(), .1.trim_end())]
    NotToml(PathBuf, String),
    /// A key that does not exist.
    #[error("unknown key `{key}` in {origin}; known here: {known}")]
    UnknownKey {
        /// The key as given.
        key: String,
        /// File, variable or flag.
        origin: String,
        /// The keys that exist at its place.
        known: String,
    },
    /// A section's name holds a plain value.
    #[error("`{0}` in {1} must be a section: write [{0}] and its keys below")]
    NotASection(String, String),
    /// A value that is out of range or makes no sense.
    #[error("`{key}` ({origin}) {problem}")]
    Value {
        /// The key.
        key: &'static str,
        /// File, variable or flag.
        origin: String,
        /// What must be so.
        problem: String,
    },
    /// A value of the wrong type.
    #[error("{0}")]
    Read(Box<figment::Error>),
}

impl From<figment::Error> for ConfigError {
    fn from(error: figment::Error) -> Self {
        Self::Read(Box::new(error))
    }
}

/// The configuration as it is written: every section and key with its default. No I/O, no judgement.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the sections say what they are")]
pub struct RawConfig {
    pub server: server::RawServer,
    pub auth: auth::RawAuth,
    pub directory: directory::RawDirectory,
    pub issuer: issuer::RawIssuer,
    pub model: model::RawModel,
    pub embeddings: embeddings::RawEmbeddings,
    pub generation: generation::RawGeneration,
    pub engine: engine::RawEngine,
    pub limits: limits::RawLimits,
    pub cache: cache::RawCache,
    pub billing: billing::RawBilling,
    pub redis: redis::RawRedis,
    pub retry: resilience::RawRetry,
    pub circuit_breaker: resilience::RawCircuitBreaker,
    pub store: store::RawStore,
    pub audit: audit::RawAudit,
    pub telemetry: telemetry::RawTelemetry,
    pub data: data::RawData,
}

impl RawConfig {
    /// Judges every value; `origin` says where a key's value came from.
    fn resolve(self, origin: check::Origin) -> Result<Config, ConfigError> {
        let server = self.server.resolve(origin)?;
        let retry = self.retry.resolve(origin)?;
        let auth = self.auth.resolve(&server, origin)?;
        let embeddings = self.embeddings.resolve(origin)?;
        Ok(Config {
            directory: self.directory.resolve(origin)?,
            issuer: self.issuer.resolve(&auth, origin)?,
            auth,
            server,
            model: self.model.resolve(origin)?,
            generation: self.generation.resolve(origin)?,
            engine: self.engine.resolve(origin)?,
            limits: self.limits.resolve(origin)?,
            cache: self.cache.resolve(retry.clone(), embeddings.is_some(), origin)?,
            embeddings,
            billing: self.billing.resolve(origin)?,
            redis: self.redis.resolve(origin)?,
            retry,
            breakers: self.circuit_breaker.resolve(origin)?,
            store: self.store.resolve(&self.data, origin)?,
            audit: self.audit.resolve(&self.data, origin)?,
            telemetry: self.telemetry.resolve(&self.data, origin)?,
            data: self.data.dir.into(),
        })
    }
}

/// The resolved configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// HTTP.
    pub server: ServerConfig,
    /// Who may ask.
    pub auth: AuthConfig,
    /// The company's directory, if there is one.
    pub directory: Option<DirectoryConfig>,
    /// The issuer of the company's own tokens, if there is one.
    pub issuer: Option<IssuerConfig>,
    /// The model.
    pub model: ModelSettings,
    /// The embedding model, if there is one.
    pub embeddings: Option<EmbeddingSettings>,
    /// Limits of one request.
    pub generation: GenerationConfig,
    /// The engine.
    pub engine: EngineSettings,
    /// How often one may ask.
    pub limits: LimitSettings,
    /// The prompt cache.
    pub cache: CacheConfig,
    /// What answers cost.
    pub billing: LedgerSettings,
    /// Where short-lived state is shared; none keeps it in the process.
    pub redis: Option<RedisSettings>,
    /// How often a call to another server is made again.
    pub retry: Retry,
    /// When a server that fails is left alone.
    pub breakers: BreakerSettings,
    /// The SQL database.
    pub store: StoreConfig,
    /// Who did what.
    pub audit: AuditSettings,
    /// Logs, metrics, traces.
    pub telemetry: TelemetryConfig,
    /// Where everything written at run time goes.
    pub data: PathBuf,
}

/// A resolved configuration together with where its values came from.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// `(key, value as TOML, origin)` of every key.
    pub provenance: Vec<(String, String, String)>,
}

/// Reads, merges and validates all layers.
pub fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
    let layers = layers::Layers::read(sources)?;
    let config = layers.extract()?.resolve(&|key| layers.origin(key))?;
    Ok(Loaded { config, provenance: layers.provenance()? })
}
