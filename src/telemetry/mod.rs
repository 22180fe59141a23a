//! What the program says about itself: logs, metrics, traces, and errors for a Sentry server. Nothing here makes a request
//! wait, and nothing needs anybody to listen.

mod collector;
mod export;
mod gateway;
mod log_file;
mod logs;
mod metrics;
mod one_line;
mod sentry;
mod trace;

use std::sync::Arc;

use anyhow::Context as _;
use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::Registry;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::TelemetryConfig;
use crate::resilience::Breaker;

pub use export::Traces;
pub use gateway::CacheLookups;
pub use logs::layer as log_layer;
pub use metrics::{EngineGauges, Metrics, ModelMetrics};
pub use trace::{Asked, GenerationTrace, Notes, Phases, RequestTrace, Used};

/// Logs and errors go out as long as it lives; dropped, it sends what waits, for a moment at most.
#[must_use = "dropping it ends logging"]
#[expect(missing_debug_implementations, reason = "nobody looks into it")]
pub struct Running {
    _sentry: Option<::sentry::ClientInitGuard>,
    _logs: WorkerGuard,
}

/// Starts logging for the whole process, and sending errors where a Sentry server is configured, behind this breaker.
///
/// # Errors
/// When the log file cannot be opened, or logging was started before.
pub fn init(config: &TelemetryConfig, breaker: Arc<Breaker>) -> anyhow::Result<Running> {
    let (writer, logs) = logs::writer(config)?;
    let registry = Registry::default().with(log_layer(config, move || writer.clone())?);
    let sentry = match &config.sentry_dsn {
        Some(dsn) => {
            let options = sentry::options(dsn, &config.environment, config.ca_file.as_deref(), breaker);
            Some(::sentry::init(options.context("telemetry.sentry_dsn")?))
        }
        None => None,
    };
    let errors = ::sentry::integrations::tracing::ErrorLayer::new().with_filter(LevelFilter::ERROR);
    let started = registry.with(sentry.is_some().then_some(errors)).try_init();
    started.map_err(|error| anyhow::anyhow!("cannot start logging: {error}"))?;
    Ok(Running { _sentry: sentry, _logs: logs })
}
