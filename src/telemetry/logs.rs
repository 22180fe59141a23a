//! Logs: text for people or JSON lines for programs. An event is one line whatever it says, and is written by a thread of
//! its own: no request waits for a disk or a pipe.

use std::io::{self, IsTerminal as _};
use std::path::Path;

use anyhow::Context as _;
use tracing::Subscriber;
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::Layer;
use tracing_subscriber::registry::LookupSpan;

use super::log_file::{Limits, LogFile};
use super::one_line::OneLine;
use crate::config::{LogFormat, TelemetryConfig};

/// Lines that wait to be written; further ones are lost and counted.
const WAITING_LINES: usize = 16_384;

/// A layer that writes what passes the configured filter to `writer`.
///
/// # Errors
/// When the filter makes no sense.
pub fn layer<S, W>(config: &TelemetryConfig, writer: W) -> anyhow::Result<Box<dyn Layer<S> + Send + Sync>>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = EnvFilter::try_new(&config.log_level).context("telemetry.log_level")?;
    let people = config.log_file.is_none() && io::stderr().is_terminal();
    let text = match config.log_format {
        LogFormat::Auto => people,
        LogFormat::Text => true,
        LogFormat::Json => false,
    };
    let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(OneLine(writer));
    Ok(if text {
        lines.with_filter(filter).boxed()
    } else {
        lines.json().flatten_event(true).with_current_span(false).with_span_list(false).with_filter(filter).boxed()
    })
}

/// Where lines go: a file, new from time to time, or standard error. Dropping the guard writes what waits.
///
/// # Errors
/// When the file cannot be made.
pub(super) fn writer(config: &TelemetryConfig) -> anyhow::Result<(NonBlocking, WorkerGuard)> {
    let queue = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(WAITING_LINES).thread_name("steppe-log");
    Ok(match &config.log_file {
        Some(path) => queue.finish(file(path, config)?),
        None => queue.finish(io::stderr()),
    })
}

fn file(path: &Path, config: &TelemetryConfig) -> anyhow::Result<LogFile> {
    let limits = Limits { rotation: config.log_rotation, most_bytes: config.log_most_bytes, keep: config.log_keep };
    LogFile::open(path, limits).with_context(|| format!("cannot open the log {}", path.display()))
}
