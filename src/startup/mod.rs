//! From a configuration to a server that answers: looks at the machine, plans memory, loads, warms up, serves, and ends
//! in good order. The only place that knows all parts.

mod control_group;
mod devices;
mod embeddings;
mod gateway;
mod load;
mod machine;
mod memory_table;
mod model;
mod no_card;
mod packed_cache;
mod processors;
mod recommended;
mod report;
mod sizes;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use serde_json::Map;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinError;

use crate::audit::Event;
use crate::config::Config;
use crate::generate::Generator;
use crate::resilience::Breaker;
use crate::server;
use crate::telemetry::{self, Metrics};

pub use gateway::{open as open_gateway, open_audit_log, open_auth};
pub use load::load;
pub use machine::Machine;
pub use report::Report;

/// Answers that are complete get so long to reach slow clients once everything else has ended.
const FLUSH: Duration = Duration::from_secs(5);
/// Where the engine has failed, who restarts the program comes first.
const FLUSH_OF_FAILED: Duration = Duration::from_millis(200);

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// When the address is taken, the model cannot be served, or the engine fails.
pub fn serve(config: Config, report: Report) -> anyhow::Result<()> {
    serve_with(config, report, load)
}

/// [`serve`] with another way than [`load`] to come to a generator.
///
/// # Errors
/// When the address is taken, `load` fails, or the engine does.
pub fn serve_with<L>(config: Config, report: Report, load: L) -> anyhow::Result<()>
where
    L: AsyncFnOnce(&Config, Machine, Metrics, Report) -> anyhow::Result<Generator>,
{
    let started = Instant::now();
    let sentry = Breaker::new("sentry", config.breakers.clone());
    let _telemetry = telemetry::init(&config.telemetry, Arc::clone(&sentry))?;
    // A stream is a file to the system, whose usual limit is a thousand.
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::warn!("the limit of open files stays as it is: {error}");
    }
    // The compute threads take every core; these only move bytes.
    let workers = (Machine::detect().processors.threads() / 4).clamp(1, 4);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()?;
    let result = runtime.block_on(run(config, sentry, started, report, load));
    // Loading cannot be interrupted; the process need not wait for it.
    runtime.shutdown_background();
    result
}

async fn run<L>(config: Config, sentry: Arc<Breaker>, started: Instant, report: Report, load: L) -> anyhow::Result<()>
where
    L: AsyncFnOnce(&Config, Machine, Metrics, Report) -> anyhow::Result<Generator>,
{
    let wanted = config.server.address;
    let listener = TcpListener::bind(wanted).await.with_context(|| format!("cannot listen on {wanted}"))?;
    let address = listener.local_addr()?;
    let metrics = Metrics::new()?;
    let tls = config.server.tls.as_ref().map(server::Tls::open).transpose()?;
    let state = gateway::open(&config, metrics.clone()).await?;
    if config.telemetry.sentry_dsn.is_some() {
        state.gate.breakers.adopt(sentry);
    }
    let key = gateway::first_start(&config, &state, report).await?;
    let (stop, stopped) = oneshot::channel::<()>();
    let until_stopped = async move {
        let _ = stopped.await;
    };
    let mut serving = tokio::spawn(server::serve(listener, tls, state.clone(), until_stopped));

    let mut signals = Signals::new()?;
    let generator = tokio::select! {
        loaded = load(&config, Machine::detect(), metrics, report) => loaded?,
        () = signals.next() => return Ok(()),
        ended = &mut serving => return Err(server_ended(ended)),
    };
    let engine = generator.engine().clone();
    state.start(generator.clone());
    report.ready(&generator, address, key.as_deref(), config.server.tls.is_some(), started.elapsed());
    drop(generator);

    let outcome = tokio::select! {
        () = signals.next() => Ok(()),
        reason = engine.failed() => Err(anyhow!("the engine has failed: {reason}")),
        ended = &mut serving => return Err(server_ended(ended)),
    };
    state.stop();
    report.stopping();
    tokio::select! {
        _ = engine.shutdown(config.server.drain) => {}
        () = signals.next() => report.stopping_at_once(),
    }
    let flush = if outcome.is_ok() { FLUSH } else { FLUSH_OF_FAILED };
    // Everything is answered; the listener closes, and slow clients get a moment for what is theirs.
    let _ = stop.send(());
    let _ = tokio::time::timeout(flush, serving).await;
    let _ = tokio::time::timeout(flush, state.gate.close()).await;
    let audit = &state.gate.audit;
    audit.record(Event::system("stop", Map::new()));
    if !audit.flush(flush).await {
        tracing::error!("the end of the audit log is not written");
    }
    let closed = tokio::task::spawn_blocking(move || state.traces.close());
    let _ = tokio::time::timeout(flush, closed).await;
    outcome
}

fn server_ended(ended: Result<(), JoinError>) -> anyhow::Error {
    match ended {
        Ok(()) => anyhow!("the server has ended by itself"),
        Err(error) => anyhow!("the server has ended: {error}"),
    }
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
