//! `/admin/users/{id}/keys`.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::{LimitsBody, List};
use crate::auth::{KeyRequest, MadeKey, Scope};
use crate::server::AppState;
use crate::server::body::{FromBody, JsonBody, fields};
use crate::server::error::{ApiError, ErrorBody};
use crate::server::problem::Reason;
use crate::server::trail::Deed;
use crate::store::ApiKey;

/// An API key; the key itself is shown only when it is made.
#[derive(Debug, Serialize, ToSchema)]
pub struct KeyObject {
    /// Made by the server.
    pub id: String,
    /// `api_key`.
    pub object: &'static str,
    /// What its owner calls it.
    pub name: String,
    /// The key's last characters.
    pub hint: String,
    /// What it may be used for.
    pub scopes: Vec<String>,
    /// Models that it may use; none is all.
    pub models: Vec<String>,
    /// Limits of its own.
    pub limits: LimitsBody,
    /// When it was made, seconds since 1970.
    pub created: i64,
    /// When it ends to be good, seconds since 1970.
    #[schema(required = true)]
    pub expires: Option<i64>,
    /// When it was taken back, seconds since 1970.
    #[schema(required = true)]
    pub revoked: Option<i64>,
    /// The key, shown once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

impl From<ApiKey> for KeyObject {
    fn from(key: ApiKey) -> Self {
        Self {
            id: key.id,
            object: "api_key",
            name: key.name,
            hint: key.hint,
            scopes: key.scopes,
            models: key.models,
            limits: LimitsBody::read(&key.limits),
            created: key.created_at / 1000,
            expires: key.expires_at.map(|moment| moment / 1000),
            revoked: key.revoked_at.map(|moment| moment / 1000),
            key: None,
        }
    }
}

/// A key to be made.
#[derive(Debug, Deserialize, ToSchema)]
pub struct NewKeyBody {
    /// What its owner calls it.
    pub name: String,
    /// `generate`, `read`, `act_as`, `metrics`, `admin`; absent: the first two.
    pub scopes: Option<Vec<String>>,
    /// Ids of the models that it may use; absent: all.
    pub models: Option<Vec<String>>,
    /// Limits of its own, which override the defaults of keys one by one.
    pub limits: Option<LimitsBody>,
    /// When it ends to be good, seconds since 1970; absent: never.
    #[schema(minimum = 0)]
    pub expires: Option<u32>,
}

impl FromBody for NewKeyBody {
    fn from_body(text: &str) -> Result<Self, ApiError> {
        fields(text)
    }
}

/// List a user's keys, oldest first.
#[utoipa::path(
    get, path = "/admin/users/{id}/keys", tag = "Administration",
    params(("id" = String, Path, description = "Id or name of the user")),
    responses(
        (status = 200, description = "The keys", body = List<KeyObject>),
        (status = "4XX", description = "There is no such user", body = ErrorBody),
        (status = "5XX", description = "The database does not answer", body = ErrorBody),
    )
)]
pub async fn list_keys(
    State(state): State<AppState>,
    Path(id): Path<String>,
) -> Result<Json<List<KeyObject>>, ApiError> {
    let user = state.auth.find_user(&id).await?;
    Ok(Json(List::of(state.auth.store().api_keys_of(&user.id).await?)))
}

/// Make a key for a user.
#[utoipa::path(
    post, path = "/admin/users/{id}/keys", tag = "Administration",
    params(("id" = String, Path, description = "Id or name of the user")),
    request_body = NewKeyBody,
    responses(
        (status = 201, description = "The key", body = KeyObject),
        (status = "4XX", description = "Not like this", body = ErrorBody),
        (status = "5XX", description = "The database does not answer", body = ErrorBody),
    )
)]
pub async fn make_key(
    State(state): State<AppState>,
    Path(id): Path<String>,
    JsonBody(body): JsonBody<NewKeyBody>,
) -> Result<(StatusCode, Extension<Deed>, Json<KeyObject>), ApiError> {
    let scope = |(index, text): (usize, &String)| {
        let known = Reason::Word("generate, read, act_as, metrics, admin");
        text.parse::<Scope>().map_err(|_| ApiError::invalid(format!("scopes[{index}]"), known))
    };
    let scopes = body.scopes.iter().flatten().enumerate().map(scope).collect::<Result<_, _>>()?;
    let user = state.auth.find_user(&id).await?;
    let request = KeyRequest {
        name: body.name,
        scopes,
        models: body.models.unwrap_or_default(),
        limits: body.limits.unwrap_or_default().into(),
        expires_at: body.expires.map(|seconds| i64::from(seconds) * 1000),
    };
    let made = state.auth.make_key(&user.id, request).await?;
    let MadeKey { key, .. } = &made;
    let told = json!({"user_id": user.id, "name": key.name, "scopes": key.scopes, "models": key.models});
    let deed = Extension(Deed::to(format!("key:{}", key.id), told));
    Ok((StatusCode::CREATED, deed, Json(KeyObject { key: Some(made.secret), ..made.key.into() })))
}

/// Take a key back.
#[utoipa::path(
    delete, path = "/admin/users/{id}/keys/{key}", tag = "Administration",
    params(
        ("id" = String, Path, description = "Id or name of the user"),
        ("key" = String, Path, description = "Id of the key"),
    ),
    responses(
        (status = 204, description = "It is not good any more"),
        (status = "4XX", description = "There is no such key", body = ErrorBody),
        (status = "5XX", description = "The database does not answer", body = ErrorBody),
    )
)]
pub async fn revoke_key(
    State(state): State<AppState>,
    Path((id, key)): Path<(String, String)>,
) -> Result<(StatusCode, Extension<Deed>), ApiError> {
    let user = state.auth.find_user(&id).await?;
    state.auth.store().revoke_api_key(&user.id, &key).await?;
    let deed = Deed::to(format!("key:{key}"), json!({"user_id": user.id}));
    Ok((StatusCode::NO_CONTENT, Extension(deed)))
}
