//! From what was written to what is used: ranges, units, "0 means automatic".

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use kernels::Isa;

use super::{
    Config, ConfigError, EngineSettings, GenerationConfig, ModelSettings, RawConfig, RawData, RawEngine, RawGeneration,
    RawModel, RawServer, RawTelemetry, ServerConfig, TelemetryConfig,
};

/// Names the place of a value for messages.
type Origin<'a> = &'a dyn Fn(&str) -> String;

pub(super) fn resolve(raw: RawConfig, origin: Origin) -> Result<Config, ConfigError> {
    Ok(Config {
        server: server(&raw.server, origin)?,
        model: model(raw.model, origin)?,
        generation: generation(&raw.generation, origin)?,
        engine: engine(&raw.engine, origin)?,
        telemetry: telemetry(raw.telemetry, &raw.data, origin)?,
    })
}

fn server(raw: &RawServer, origin: Origin) -> Result<ServerConfig, ConfigError> {
    let address = match raw.host.parse::<IpAddr>() {
        Ok(ip) => SocketAddr::new(ip, raw.port),
        Err(_) => (raw.host.as_str(), raw.port).to_socket_addrs().ok().and_then(|mut found| found.next()).ok_or_else(
            || invalid("server.host", origin, format!("must be an address of this machine, not `{}`", raw.host)),
        )?,
    };
    Ok(ServerConfig {
        address,
        max_body: within("server.max_body_kib", raw.max_body_kib, 1..=1 << 21, origin)? * 1024,
        receive: seconds("server.receive_seconds", raw.receive_seconds, 1..=3600, origin)?,
        keep_alive: seconds("server.keep_alive_seconds", raw.keep_alive_seconds, 1..=3600, origin)?,
        drain: seconds("server.drain_seconds", raw.drain_seconds, 0..=86_400, origin)?,
        cors_origins: origins(&raw.cors_origins, origin)?,
        allowed_hosts: raw.allowed_hosts.iter().map(|host| host.to_ascii_lowercase()).collect(),
    })
}

fn origins(given: &[String], origin: Origin) -> Result<Vec<String>, ConfigError> {
    let sound = |text: &String| text == "*" || text.starts_with("http://") || text.starts_with("https://");
    match given.iter().find(|text| !sound(text) || text.ends_with('/') || !text.is_ascii()) {
        Some(wrong) => {
            let problem = format!("must hold origins such as https://chat.example.org, or *, not `{wrong}`");
            Err(invalid("server.cors_origins", origin, problem))
        }
        None => Ok(given.to_vec()),
    }
}

fn model(raw: RawModel, origin: Origin) -> Result<ModelSettings, ConfigError> {
    let context = within("model.context", raw.context, 0..=1 << 24, origin)?;
    Ok(ModelSettings {
        path: Some(raw.path).filter(|path| !path.is_empty()),
        directory: PathBuf::from(raw.directory),
        context: automatic(context),
        aliases: raw.aliases,
    })
}

fn generation(raw: &RawGeneration, origin: Origin) -> Result<GenerationConfig, ConfigError> {
    Ok(GenerationConfig {
        default_max_tokens: within("generation.default_max_tokens", raw.default_max_tokens, 1..=1 << 24, origin)?,
        max_choices: within("generation.max_choices", raw.max_choices, 1..=1024, origin)?,
        timeout: seconds("generation.timeout_seconds", raw.timeout_seconds, 1..=86_400, origin)?,
    })
}

fn engine(raw: &RawEngine, origin: Origin) -> Result<EngineSettings, ConfigError> {
    let isa = match raw.instruction_set.as_str() {
        "auto" => None,
        "scalar" => Some(Isa::Scalar),
        "avx2" => Some(Isa::Avx2),
        "avx512-vnni" => Some(Isa::Avx512Vnni),
        other => {
            let problem = format!("must be auto, scalar, avx2 or avx512-vnni, not `{other}`");
            return Err(invalid("engine.instruction_set", origin, problem));
        }
    };
    if isa > Some(Isa::detect()) {
        return Err(invalid("engine.instruction_set", origin, "names one that this machine does not have".into()));
    }
    let max_sequences = within("engine.max_sequences", raw.max_sequences, 1..=4096, origin)?;
    let max_batch_tokens = within("engine.max_batch_tokens", raw.max_batch_tokens, 1..=1 << 16, origin)?;
    if max_batch_tokens <= max_sequences {
        let problem = format!("must be more than engine.max_sequences ({max_sequences}), not {max_batch_tokens}");
        return Err(invalid("engine.max_batch_tokens", origin, problem));
    }
    Ok(EngineSettings {
        threads: automatic(within("engine.threads", raw.threads, 0..=1024, origin)?),
        isa,
        kv_cache: automatic(within("engine.kv_cache_mib", raw.kv_cache_mib, 0..=1 << 24, origin)? << 20),
        prefix_cache: raw.prefix_cache,
        max_batch_tokens,
        max_sequences,
        max_queue: within("engine.max_queue", raw.max_queue, 0..=1 << 20, origin)?,
        max_stall: Duration::from_millis(within("engine.max_stall_ms", raw.max_stall_ms, 1..=60_000, origin)?),
    })
}

fn telemetry(raw: RawTelemetry, data: &RawData, origin: Origin) -> Result<TelemetryConfig, ConfigError> {
    if raw.log_level.parse::<tracing_subscriber::EnvFilter>().is_err() {
        let problem = format!("must be error, warn, info, debug, trace or a filter, not `{}`", raw.log_level);
        return Err(invalid("telemetry.log_level", origin, problem));
    }
    let json = match raw.log_format.as_str() {
        "text" => false,
        "json" => true,
        other => return Err(invalid("telemetry.log_format", origin, format!("must be text or json, not `{other}`"))),
    };
    let log_file = Some(raw.log_file).filter(|file| !file.is_empty()).map(|file| PathBuf::from(&data.dir).join(file));
    Ok(TelemetryConfig { log_level: raw.log_level, json, log_file })
}

fn seconds(key: &'static str, value: u64, range: RangeInclusive<u64>, origin: Origin) -> Result<Duration, ConfigError> {
    within(key, value, range, origin).map(Duration::from_secs)
}

fn within<T>(key: &'static str, value: T, range: RangeInclusive<T>, origin: Origin) -> Result<T, ConfigError>
where
    T: PartialOrd + std::fmt::Display,
{
    if range.contains(&value) {
        return Ok(value);
    }
    Err(invalid(key, origin, format!("must be from {} to {}, not {value}", range.start(), range.end())))
}

fn invalid(key: &'static str, origin: Origin, problem: String) -> ConfigError {
    ConfigError::Value { key, origin: origin(key), problem }
}

/// 0 stands for "automatic".
fn automatic(value: usize) -> Option<usize> {
    Some(value).filter(|value| *value != 0)
}
