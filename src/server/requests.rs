//! `GET /v1/requests/{id}`: what became of a request of one's own.

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;
use utoipa::ToSchema;

use super::AppState;
use super::billing::amount;
use super::client::Client;
use super::error::{ApiError, ErrorBody};
use super::problem::Problem;
use crate::auth::Scope;

/// A request that has ended.
#[derive(Debug, Serialize, ToSchema)]
pub struct RequestObject {
    /// The server's own id of it.
    pub id: String,
    /// `request`.
    pub object: &'static str,
    /// Who asked.
    pub user_id: String,
    /// With what API key, if with one.
    #[schema(required = true)]
    pub key_id: Option<String>,
    /// Which model answered.
    pub model: String,
    /// Tokens of the prompt.
    pub prompt_tokens: i64,
    /// Of these, tokens from a cache.
    pub cached_tokens: i64,
    /// Tokens of all answers.
    pub completion_tokens: i64,
    /// What it cost.
    pub cost: f64,
    /// The currency.
    pub currency: String,
    /// `completed`, `cancelled` or `failed`.
    pub outcome: String,
    /// Seconds since 1970.
    pub started: f64,
    /// Seconds since 1970.
    pub finished: f64,
    /// What the prompt cache did, and the times that it took.
    #[schema(value_type = Object)]
    pub details: serde_json::Value,
}

/// What became of one's own request.
#[utoipa::path(
    get, path = "/v1/requests/{id}", tag = "Steppe",
    params(("id" = String, Path, description = "The answer's id, or the header x-steppe-request-id")),
    responses(
        (status = 200, description = "The request", body = RequestObject),
        (status = "4XX", description = "One has no such request", body = ErrorBody),
        (status = "5XX", description = "The database does not answer", body = ErrorBody),
    )
)]
pub async fn get_request(
    State(state): State<AppState>,
    client: Client,
    Path(id): Path<String>,
) -> Result<Json<RequestObject>, ApiError> {
    // `chatcmpl-…`, `req_…`: the same digits.
    let digits = id.rsplit(['-', '_']).next().unwrap_or_default();
    let found = state.auth.store().finished_request(digits).await?;
    let others = client.identity.may(Scope::Admin) || client.identity.may(Scope::ActAs);
    let own = |user_id: &str| others || user_id == client.identity.user_id;
    let request = found.filter(|request| own(&request.user_id));
    let request = request.ok_or_else(|| Problem::NoObject(format!("request {id}")))?;
    Ok(Json(RequestObject {
        id: request.id,
        object: "request",
        user_id: request.user_id,
        key_id: request.key_id,
        model: request.model,
        prompt_tokens: request.prompt_tokens,
        cached_tokens: request.cached_tokens,
        completion_tokens: request.completion_tokens,
        cost: amount(request.cost),
        currency: state.gate.ledger.currency().to_owned(),
        outcome: request.outcome,
        started: request.started_at as f64 / 1000.0,
        finished: request.finished_at as f64 / 1000.0,
        details: serde_json::from_str(&request.details).unwrap_or_default(),
    }))
}
