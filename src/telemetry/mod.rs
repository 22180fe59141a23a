//! What the program says about itself: logs here, metrics in `metrics.rs`.

mod gateway;
mod metrics;
mod one_line;

use std::fs::OpenOptions;
use std::sync::Mutex;

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use self::one_line::OneLine;
use crate::config::TelemetryConfig;

pub use gateway::CacheLookups;
pub use metrics::{EngineGauges, Metrics, ModelMetrics};

/// Starts logging for the whole process.
///
/// # Errors
/// When the log file cannot be opened.
pub fn init(config: &TelemetryConfig) -> anyhow::Result<()> {
    let writer = match &config.log_file {
        Some(path) => {
            if let Some(directory) = path.parent() {
                std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
            }
            let open = OpenOptions::new().create(true).append(true).open(path);
            BoxMakeWriter::new(Mutex::new(open.with_context(|| format!("cannot open the log {}", path.display()))?))
        }
        None => BoxMakeWriter::new(std::io::stderr),
    };
    let filter = EnvFilter::try_new(&config.log_level).context("telemetry.log_level")?;
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(OneLine(writer)).with_ansi(false);
    let started = if config.json { logs.json().try_init() } else { logs.try_init() };
    started.map_err(|error| anyhow::anyhow!("cannot start logging: {error}"))
}
