//! `GET /health`, `/ready` and `/metrics`.

use axum::Json;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use serde::Serialize;
use utoipa::ToSchema;

use super::AppState;
use super::error::{ApiError, ErrorBody};
use super::figures;
use super::problem::Problem;

/// Whether the process lives.
#[derive(Debug, Serialize, ToSchema)]
pub struct Health {
    /// `ok`.
    pub status: &'static str,
    /// The model; null while it loads.
    #[schema(required = true)]
    pub model: Option<String>,
    /// Requests that run or wait.
    pub users: usize,
}

/// Whether requests are answered.
#[derive(Debug, Serialize, ToSchema)]
pub struct Ready {
    /// `ready`.
    pub status: &'static str,
}

/// Whether the process lives; cheap, and true while the model loads.
#[utoipa::path(
    get, path = "/health", tag = "Operation", security(()),
    responses((status = 200, description = "It does", body = Health))
)]
pub async fn health(State(state): State<AppState>) -> Json<Health> {
    let generator = state.loaded();
    let stats = generator.map(|generator| generator.engine().stats());
    Json(Health {
        status: "ok",
        model: generator.map(|generator| generator.model().id.clone()),
        users: stats.map_or(0, |stats| stats.running + stats.waiting),
    })
}

/// Whether requests are answered: not before the model has produced a first token, and not any more while stopping.
#[utoipa::path(
    get, path = "/ready", tag = "Operation", security(()),
    responses(
        (status = 200, description = "They are", body = Ready),
        (status = 503, description = "Loading or stopping", body = ErrorBody),
    )
)]
pub async fn ready(State(state): State<AppState>) -> Result<Json<Ready>, ApiError> {
    state.generator()?;
    Ok(Json(Ready { status: "ready" }))
}

/// Metrics in Prometheus's text format.
#[utoipa::path(
    get, path = "/metrics", tag = "Operation",
    responses(
        (status = 200, description = "All metrics", body = String, content_type = "text/plain; version=0.0.4"),
        (status = "4XX", description = "Not for this credential, or turned off", body = ErrorBody),
        (status = "5XX", description = "The database does not answer", body = ErrorBody),
    )
)]
pub async fn metrics(State(state): State<AppState>) -> Result<impl IntoResponse, ApiError> {
    if !state.prometheus {
        return Err(Problem::NoRoute("/metrics".into()).into());
    }
    state.read_engine();
    figures::read_gateway(&state).await;
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], state.metrics.render()))
}
