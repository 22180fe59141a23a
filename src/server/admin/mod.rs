//! `/admin/…`: what administrators do through the API. One file per kind of object.

pub mod cache;
pub mod keys;
pub mod money;
pub mod users;

use axum::Router;
use axum::routing::{delete, get, post};
use serde::Serialize;
use utoipa::ToSchema;

use super::AppState;

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
        .route("/admin/departments", get(users::list_departments))
}
