//! What handlers share: the phase of the server's life, the generator once there is one, metrics and limits.

use std::sync::{Arc, OnceLock};

use tokio::sync::watch;

use super::error::ApiError;
use super::problem::{Problem, Reason};
use crate::auth::Authenticator;
use crate::config::{Config, ServerConfig, Tenant};
use crate::generate::{Gate, Generator};
use crate::health::{Health, Why};
use crate::resilience::BreakerState;
use crate::telemetry::{EngineGauges, Metrics, Traces};

/// Where the server is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The model loads.
    Loading,
    /// Requests are answered.
    Ready,
    /// Requests under way are finished, new ones refused.
    Stopping,
}

/// State of the application. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AppState {
    /// `[server]`
    pub config: Arc<ServerConfig>,
    /// Who may ask.
    pub auth: Authenticator,
    /// What stands before the engine.
    pub gate: Gate,
    /// Who shares cached prompts and answers.
    pub tenant: Tenant,
    /// How its parts are.
    pub health: Health,
    /// All metrics.
    pub metrics: Metrics,
    /// Spans of requests.
    pub traces: Traces,
    /// Metrics may be read.
    pub prometheus: bool,
    max_choices: usize,
    generator: Arc<OnceLock<Generator>>,
    phase: watch::Sender<Phase>,
}

impl AppState {
    /// A server whose model is not loaded.
    pub fn new(
        config: &Config,
        auth: Authenticator,
        gate: Gate,
        health: Health,
        metrics: Metrics,
        traces: Traces,
    ) -> Self {
        Self {
            config: Arc::new(config.server.clone()),
            auth,
            gate,
            health,
            tenant: config.cache.tenant,
            metrics,
            traces,
            prometheus: config.telemetry.prometheus,
            max_choices: config.generation.max_choices,
            generator: Arc::default(),
            phase: watch::Sender::new(Phase::Loading),
        }
    }

    /// The model is loaded and has produced a token: requests are answered from now on. Only the first call counts.
    pub fn start(&self, generator: Generator) {
        // It is in the list of breakers from now on.
        self.gate.model_breaker(&generator.model().id);
        if self.generator.set(generator).is_ok() {
            self.phase.send_if_modified(|phase| {
                let loading = *phase == Phase::Loading;
                if loading {
                    *phase = Phase::Ready;
                }
                loading
            });
        }
    }

    /// New requests are refused from now on.
    pub fn stop(&self) {
        self.phase.send_replace(Phase::Stopping);
    }

    /// The generator, whatever the phase; none while loading.
    pub fn loaded(&self) -> Option<&Generator> {
        self.generator.get()
    }

    /// The generator, if requests are answered.
    ///
    /// # Errors
    /// While loading and while stopping.
    pub fn generator(&self) -> Result<&Generator, ApiError> {
        match (*self.phase.borrow(), self.generator.get()) {
            (Phase::Ready, Some(generator)) => Ok(generator),
            (Phase::Stopping, _) => Err(Problem::Stopping.into()),
            _ => Err(Problem::Loading.into()),
        }
    }

    /// The generator of the model of this name; none means the default one.
    ///
    /// # Errors
    /// While loading and while stopping, or when there is no such model.
    pub fn generator_for(&self, name: Option<&str>) -> Result<&Generator, ApiError> {
        let generator = self.generator()?;
        let model = generator.model();
        match name {
            Some(name) if name != model.id && !model.aliases.iter().any(|alias| alias == name) => {
                Err(ApiError::about("model", Problem::NoModel(name.to_owned())))
            }
            _ => Ok(generator),
        }
    }

    /// Checks the number of answers that one request asks for.
    ///
    /// # Errors
    /// When it is beyond what the configuration allows.
    pub fn check_choices(&self, param: &str, count: usize) -> Result<(), ApiError> {
        if count > self.max_choices {
            return Err(ApiError::invalid(param, Reason::TooMany(self.max_choices)));
        }
        Ok(())
    }

    /// How the model is.
    pub fn model_condition(&self) -> Why {
        match (*self.phase.borrow(), self.generator.get()) {
            (Phase::Stopping, _) => Why::Stops,
            (Phase::Ready, Some(generator)) => {
                let breaker = self.gate.model_breaker(&generator.model().id).report();
                let stats = generator.engine().stats();
                match breaker.state {
                    BreakerState::Open => Why::LeftAlone,
                    _ => Why::Serves { running: stats.running, waiting: stats.waiting },
                }
            }
            _ => Why::Loads,
        }
    }

    /// Brings the figures that the audit log and the engine keep themselves into the metrics.
    pub fn read_engine(&self) {
        self.metrics.audit(self.gate.audit.counts());
        let Some(generator) = self.loaded() else { return };
        let stats = generator.engine().stats();
        let gauges = EngineGauges {
            running: stats.running,
            waiting: stats.waiting,
            kv_usage: stats.kv_usage(),
            prefix_queries: stats.prefix_queries,
            prefix_hits: stats.prefix_hits,
            preemptions: stats.preemptions,
            drafted_tokens: stats.drafted_tokens,
            accepted_tokens: stats.accepted_tokens,
        };
        self.metrics.engine(&generator.model().id, gauges);
    }
}
