//! `/admin/…`: what administrators do through the API. One file per kind of object.

pub mod audit;
pub mod cache;
pub mod keys;
pub mod money;
pub mod users;

use axum::Router;
use axum::routing::{delete, get, patch, post};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::AppState;
use crate::limits::Quota;

/// A list of objects.
#[derive(Debug, Serialize, ToSchema)]
pub struct List<T: ToSchema> {
    /// `list`.
    pub object: &'static str,
    /// The objects.
    pub data: Vec<T>,
}

impl<T: ToSchema> List<T> {
    fn of(objects: impl IntoIterator<Item = impl Into<T>>) -> Self {
        Self { object: "list", data: objects.into_iter().map(Into::into).collect() }
    }
}

/// Limits of a key's or department's own; one that is absent is the default.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, ToSchema)]
pub struct LimitsBody {
    /// Requests in a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u64>,
    /// Requests in an hour.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_hour: Option<u64>,
    /// Tokens in a minute, of prompts and answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<u64>,
    /// Requests at the same time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parallel_requests: Option<u64>,
}

impl LimitsBody {
    fn read(json: &str) -> Self {
        serde_json::from_str(json).unwrap_or_default()
    }
}

impl From<LimitsBody> for Quota {
    fn from(body: LimitsBody) -> Self {
        let LimitsBody { requests_per_minute, requests_per_hour, tokens_per_minute, parallel_requests } = body;
        Self { requests_per_minute, requests_per_hour, tokens_per_minute, parallel_requests }
    }
}

/// All of `/admin`.
pub(super) fn routes() -> Router<AppState> {
    Router::new()
        .route("/admin/users", get(users::list_users).post(users::add_user))
        .route("/admin/users/{id}", get(users::get_user).patch(users::change_user))
        .route("/admin/users/{id}/keys", get(keys::list_keys).post(keys::make_key))
        .route("/admin/users/{id}/keys/{key}", delete(keys::revoke_key))
        .route("/admin/users/{id}/topups", post(money::top_up))
        .route("/admin/budgets", get(money::list_budgets).put(money::set_budget))
        .route("/admin/budgets/{*id}", delete(money::remove_budget))
        .route("/admin/transactions.csv", get(money::transactions_csv))
        .route("/admin/cache/purge", post(cache::purge))
        .route("/admin/audit", get(audit::list_events))
        .route("/admin/departments", get(users::list_departments))
        .route("/admin/departments/{id}", patch(users::change_department))
}
