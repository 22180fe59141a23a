//! The flags that every subcommand with a configuration shares.

use std::path::PathBuf;

use crate::config::{self, Loaded, Sources};

/// Flags that override the configuration.
#[derive(Debug, clap::Args)]
pub struct ConfigArgs {
    /// Configuration file [default: config.toml if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address to listen on
    #[arg(long)]
    host: Option<String>,
    /// Port to listen on
    #[arg(long)]
    port: Option<String>,
    /// Model: a GGUF file, a safetensors directory or a name in the weights directory
    #[arg(long, value_name = "PATH OR NAME")]
    model: Option<String>,
    /// Longest context served, tokens
    #[arg(long, value_name = "TOKENS")]
    context: Option<String>,
    /// Threads that compute
    #[arg(long)]
    threads: Option<String>,
    /// error, warn, info, debug, trace or a filter
    #[arg(long)]
    log_level: Option<String>,
    #[arg(long, value_name = "KEY=VALUE", help = "Any other key of config.toml, such as engine.max_queue=10")]
    set: Vec<String>,
}

/// Flags of commands that need only to know where things are.
#[derive(Debug, clap::Args)]
pub struct PlaceArgs {
    /// Configuration file [default: config.toml if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[arg(long, value_name = "KEY=VALUE", help = "Any key of config.toml, such as data.dir=/var/lib/steppe")]
    set: Vec<String>,
}

impl PlaceArgs {
    /// Reads the file, the process's environment and these flags.
    pub fn load(self) -> anyhow::Result<Loaded> {
        Ok(config::load(&sources(self.config, pairs(self.set)?))?)
    }
}

impl ConfigArgs {
    /// Reads the file, the process's environment and these flags.
    pub fn load(self) -> anyhow::Result<Loaded> {
        let named = [
            ("--host", "server.host", self.host),
            ("--port", "server.port", self.port),
            ("--model", "model.path", self.model),
            ("--context", "model.context", self.context),
            ("--threads", "engine.threads", self.threads),
            ("--log-level", "telemetry.log_level", self.log_level),
        ];
        let given = named.into_iter().filter_map(|(flag, key, value)| Some((flag.to_owned(), key.to_owned(), value?)));
        let mut flags: Vec<_> = given.collect();
        flags.extend(pairs(self.set)?);
        Ok(config::load(&sources(self.config, flags))?)
    }
}

/// `--set KEY=VALUE` as flags.
fn pairs(given: Vec<String>) -> anyhow::Result<Vec<(String, String, String)>> {
    let parts = |pair: String| {
        let (key, value) =
            pair.split_once('=').ok_or_else(|| anyhow::anyhow!("--set takes KEY=VALUE, not `{pair}`"))?;
        Ok((format!("--set {key}"), key.to_owned(), value.to_owned()))
    };
    given.into_iter().map(parts).collect()
}

/// The three layers of the configuration: the file, the process's environment, the flags.
pub fn sources(file: Option<PathBuf>, flags: Vec<(String, String, String)>) -> Sources {
    let environment = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
    Sources { file, environment: environment.collect(), flags }
}
