//! Configuration: the layers (defaults, file, environment, flags) become a [`RawConfig`], that becomes a [`Config`],
//! resolved and validated once. Everybody else receives their own section and reads no flag, variable or file.

mod layers;
mod raw;
mod resolve;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use layers::Sources;
pub use raw::{RawConfig, RawData, RawEngine, RawGeneration, RawModel, RawServer, RawTelemetry};

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

/// The resolved configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// HTTP.
    pub server: ServerConfig,
    /// The model.
    pub model: ModelSettings,
    /// Limits of one request.
    pub generation: GenerationConfig,
    /// The engine.
    pub engine: EngineSettings,
    /// Logs.
    pub telemetry: TelemetryConfig,
}

/// `[server]`, resolved.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Where to listen.
    pub address: SocketAddr,
    /// Largest request body, bytes.
    pub max_body: usize,
    /// The head of a request must arrive within so long, and then its body.
    pub receive: Duration,
    /// A comment is sent on a silent event stream this often.
    pub keep_alive: Duration,
    /// Running requests get so long to finish after SIGTERM.
    pub drain: Duration,
    /// Origins whose pages may call the API; `*` is any, none is none.
    pub cors_origins: Vec<String>,
    /// Names by which the server may be addressed, in lower case; none is any.
    pub allowed_hosts: Vec<String>,
}

/// `[model]`, resolved.
#[derive(Debug, Clone)]
pub struct ModelSettings {
    /// A file, a directory or a name; `None` takes the only model in `directory`.
    pub path: Option<String>,
    /// Where models and their manifests are looked up by name.
    pub directory: PathBuf,
    /// Longest context served; `None` takes the model's own.
    pub context: Option<usize>,
    /// Further names of the model.
    pub aliases: Vec<String>,
}

/// `[generation]`, resolved.
#[derive(Debug, Clone)]
pub struct GenerationConfig {
    /// Tokens generated at most when a request does not say.
    pub default_max_tokens: usize,
    /// Answers that one request may ask for.
    pub max_choices: usize,
    /// A request ends after so long.
    pub timeout: Duration,
}

/// `[engine]`, resolved.
#[derive(Debug, Clone)]
pub struct EngineSettings {
    /// Threads that compute; `None` takes the cores available.
    pub threads: Option<usize>,
    /// Instruction set; `None` takes the best of the machine.
    pub isa: Option<kernels::Isa>,
    /// Memory of the KV cache, bytes; `None` takes it from what is free.
    pub kv_cache: Option<usize>,
    /// Whether finished prompts stay cached.
    pub prefix_cache: bool,
    /// Most tokens of one step.
    pub max_batch_tokens: usize,
    /// Most sequences of one step.
    pub max_sequences: usize,
    /// Requests that may wait.
    pub max_queue: usize,
    /// How long a prompt's part of a step may hold up running streams.
    pub max_stall: Duration,
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
    let config = resolve::resolve(layers.extract()?, &|key| layers.origin(key))?;
    Ok(Loaded { config, provenance: layers.provenance()? })
}
