//! `GET /health/detailed`, `/health/circuit-breakers`, `/health/system`, `/health/history`; and the task that looks at the
//! server's parts from time to time.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::AppState;
use super::client::Client;
use super::error::ErrorBody;
use crate::health::{Checkup, Component, Gpu, MachineReport, State as Condition};
use crate::lang::Lang;
use crate::resilience::BreakerReport;

/// One look at the server's parts.
#[derive(Debug, Serialize, ToSchema)]
pub struct HealthReport {
    /// `ok`, `degraded`, or `down` when the model or the database is.
    pub status: &'static str,
    /// Seconds since 1970.
    pub checked_at: f64,
    /// The parts.
    pub components: Vec<ComponentObject>,
}

/// A part of the server.
#[derive(Debug, Serialize, ToSchema)]
pub struct ComponentObject {
    /// `model`, `database`, `redis` or `kv_store`, `ledger`, `disk`.
    pub name: &'static str,
    /// `ok`, `degraded` or `down`.
    pub state: &'static str,
    /// Why, for people.
    pub message: String,
    /// What does not work while it is down; null while it is well.
    #[schema(required = true)]
    pub effect: Option<&'static str>,
}

/// A circuit breaker.
#[derive(Debug, Serialize, ToSchema)]
pub struct BreakerObject {
    /// Of which dependency.
    pub name: String,
    /// `closed`: calls go through; `open`: they are refused; `half_open`: one goes through, and decides.
    pub state: &'static str,
    /// Failures since the last success.
    pub failures: u32,
    /// Seconds since 1970; null while it is closed.
    #[schema(required = true)]
    pub opened_at: Option<f64>,
    /// When the next call goes through, seconds since 1970; null unless it is open.
    #[schema(required = true)]
    pub retry_at: Option<f64>,
}

/// The machine.
#[derive(Debug, Serialize, ToSchema)]
pub struct SystemReport {
    /// The processor.
    pub cpu: CpuObject,
    /// Memory.
    pub memory: MemoryObject,
    /// The disk of `data.dir`; null where the system does not say.
    #[schema(required = true)]
    pub disk: Option<DiskObject>,
    /// NVIDIA's GPUs; empty where there is no driver.
    pub gpus: Vec<GpuObject>,
}

/// The processor.
#[derive(Debug, Serialize, ToSchema)]
pub struct CpuObject {
    /// Logical processors.
    pub count: usize,
    /// Use since the last look, percent of all of them.
    pub percent: f64,
    /// Load average of 1, 5 and 15 minutes.
    pub load_average: [f64; 3],
}

/// Memory, bytes.
#[derive(Debug, Serialize, ToSchema)]
pub struct MemoryObject {
    /// All.
    pub total: u64,
    /// What can be taken without swapping.
    pub available: u64,
    /// What this process has.
    pub process: u64,
}

/// A disk, bytes.
#[derive(Debug, Serialize, ToSchema)]
pub struct DiskObject {
    /// All.
    pub total: u64,
    /// What can be written.
    pub free: u64,
}

/// A GPU.
#[derive(Debug, Serialize, ToSchema)]
pub struct GpuObject {
    /// What its maker calls it.
    pub name: String,
    /// Bytes of memory.
    #[schema(required = true)]
    pub memory_total: Option<u64>,
    /// Bytes in use.
    #[schema(required = true)]
    pub memory_used: Option<u64>,
    /// Use of its processors.
    #[schema(required = true)]
    pub percent: Option<u32>,
    /// Degrees Celsius.
    #[schema(required = true)]
    pub temperature: Option<u32>,
}

/// The server's parts, how they are, and what does not work while one is down.
#[utoipa::path(
    get, path = "/health/detailed", tag = "Operation",
    responses(
        (status = 200, description = "How they are", body = HealthReport),
        (status = "4XX", description = "Not for this credential", body = ErrorBody),
        (status = "5XX", description = "The database does not answer, and the credential cannot be checked", body = ErrorBody),
    )
)]
pub async fn detailed(State(state): State<AppState>, client: Client) -> Json<HealthReport> {
    Json(report(&state.health.look(state.model_condition()).await, client.language))
}

/// The circuit breakers of everything that may fail.
#[utoipa::path(
    get, path = "/health/circuit-breakers", tag = "Operation",
    responses(
        (status = 200, description = "All of them, by name", body = Vec<BreakerObject>),
        (status = "4XX", description = "Not for this credential", body = ErrorBody),
        (status = "5XX", description = "The database does not answer, and the credential cannot be checked", body = ErrorBody),
    )
)]
pub async fn circuit_breakers(State(state): State<AppState>) -> Json<Vec<BreakerObject>> {
    Json(state.gate.breakers.report().into_iter().map(BreakerObject::from).collect())
}

/// Processor, memory, disk and GPUs.
#[utoipa::path(
    get, path = "/health/system", tag = "Operation",
    responses(
        (status = 200, description = "As they are now", body = SystemReport),
        (status = "4XX", description = "Not for this credential", body = ErrorBody),
        (status = "5XX", description = "The database does not answer, and the credential cannot be checked", body = ErrorBody),
    )
)]
pub async fn system(State(state): State<AppState>) -> Json<SystemReport> {
    Json(state.health.machine().await.into())
}

/// Past looks at the server's parts, newest first.
#[utoipa::path(
    get, path = "/health/history", tag = "Operation",
    responses(
        (status = 200, description = "The last few hundred", body = Vec<HealthReport>),
        (status = "4XX", description = "Not for this credential", body = ErrorBody),
        (status = "5XX", description = "The database does not answer, and the credential cannot be checked", body = ErrorBody),
    )
)]
pub async fn history(State(state): State<AppState>, client: Client) -> Json<Vec<HealthReport>> {
    Json(state.health.past().iter().map(|checkup| report(checkup, client.language)).collect())
}

/// Looks at the server's parts until it is dropped, and says so in the log when the whole changes.
pub(super) async fn watch(state: AppState) {
    let mut known = Condition::Ok;
    loop {
        let checkup = state.health.look(state.model_condition()).await;
        if checkup.state != known {
            known = checkup.state;
            let parts = checkup.components.iter().filter(|component| component.why.state() != Condition::Ok);
            let parts = parts.map(|Component { part, why }| format!("{}: {}", part.as_str(), why.text(Lang::En)));
            let parts = parts.collect::<Vec<_>>().join("; ");
            tracing::info!(state = known.as_str(), parts, "the server's health has changed");
        }
        state.health.remember(checkup);
        tokio::time::sleep(state.config.health_interval).await;
    }
}

fn report(checkup: &Checkup, lang: Lang) -> HealthReport {
    let component = |Component { part, why }: &Component| ComponentObject {
        name: part.as_str(),
        state: why.state().as_str(),
        message: why.text(lang),
        effect: (why.state() != Condition::Ok).then(|| part.loss(lang)),
    };
    HealthReport {
        status: checkup.state.as_str(),
        checked_at: seconds(checkup.at),
        components: checkup.components.iter().map(component).collect(),
    }
}

fn seconds(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_millis() as f64 / 1000.0)
}

impl From<BreakerReport> for BreakerObject {
    fn from(report: BreakerReport) -> Self {
        let BreakerReport { name, state, failures, opened_at, retry_at } = report;
        let (opened_at, retry_at) = (opened_at.map(seconds), retry_at.map(seconds));
        Self { name, state: state.as_str(), failures, opened_at, retry_at }
    }
}

impl From<MachineReport> for SystemReport {
    fn from(report: MachineReport) -> Self {
        Self {
            cpu: CpuObject { count: report.processors, percent: report.processor_percent, load_average: report.load },
            memory: MemoryObject {
                total: report.memory_total,
                available: report.memory_available,
                process: report.memory_process,
            },
            disk: report.disk.map(|disk| DiskObject { total: disk.total, free: disk.free }),
            gpus: report.gpus.into_iter().map(GpuObject::from).collect(),
        }
    }
}

impl From<Gpu> for GpuObject {
    fn from(gpu: Gpu) -> Self {
        let Gpu { name, memory, percent, temperature } = gpu;
        let (memory_total, memory_used) = memory.unzip();
        Self { name, memory_total, memory_used, percent, temperature }
    }
}
