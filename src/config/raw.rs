//! The configuration as it is written: every section and key with its default. No I/O, no judgement: [`super::Config`]
//! is what the program works from.

use serde::{Deserialize, Serialize};

/// Everything that can be configured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawConfig {
    /// `[server]`
    pub server: RawServer,
    /// `[model]`
    pub model: RawModel,
    /// `[generation]`
    pub generation: RawGeneration,
    /// `[engine]`
    pub engine: RawEngine,
    /// `[telemetry]`
    pub telemetry: RawTelemetry,
    /// `[data]`
    pub data: RawData,
}

/// Where and how HTTP is served.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config.toml documents every key")]
pub struct RawServer {
    pub host: String,
    pub port: u16,
    pub max_body_kib: usize,
    pub receive_seconds: u64,
    pub keep_alive_seconds: u64,
    pub drain_seconds: u64,
    pub cors_origins: Vec<String>,
    pub allowed_hosts: Vec<String>,
}

impl Default for RawServer {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".into(),
            port: 8000,
            max_body_kib: 8192,
            receive_seconds: 75,
            keep_alive_seconds: 15,
            drain_seconds: 30,
            cors_origins: Vec::new(),
            allowed_hosts: Vec::new(),
        }
    }
}

/// Which model is served and under which names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config.toml documents every key")]
pub struct RawModel {
    pub path: String,
    pub directory: String,
    pub context: usize,
    pub aliases: Vec<String>,
}

impl Default for RawModel {
    fn default() -> Self {
        Self { path: String::new(), directory: "weights".into(), context: 0, aliases: vec!["default".into()] }
    }
}

/// Limits of one request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config.toml documents every key")]
pub struct RawGeneration {
    pub default_max_tokens: usize,
    pub max_choices: usize,
    pub timeout_seconds: u64,
}

impl Default for RawGeneration {
    fn default() -> Self {
        Self { default_max_tokens: 1024, max_choices: 16, timeout_seconds: 600 }
    }
}

/// How the engine uses the machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config.toml documents every key")]
pub struct RawEngine {
    pub threads: usize,
    pub instruction_set: String,
    pub kv_cache_mib: usize,
    pub prefix_cache: bool,
    pub max_batch_tokens: usize,
    pub max_sequences: usize,
    pub max_queue: usize,
    pub max_stall_ms: u64,
}

impl Default for RawEngine {
    fn default() -> Self {
        Self {
            threads: 0,
            instruction_set: "auto".into(),
            kv_cache_mib: 0,
            prefix_cache: true,
            max_batch_tokens: 512,
            max_sequences: 64,
            max_queue: 256,
            max_stall_ms: 250,
        }
    }
}

/// What the program says about itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config.toml documents every key")]
pub struct RawTelemetry {
    pub log_level: String,
    pub log_format: String,
    pub log_file: String,
}

impl Default for RawTelemetry {
    fn default() -> Self {
        Self { log_level: "info".into(), log_format: "text".into(), log_file: String::new() }
    }
}

/// Where everything written at run time goes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config.toml documents every key")]
pub struct RawData {
    pub dir: String,
}

impl Default for RawData {
    fn default() -> Self {
        Self { dir: "data".into() }
    }
}
