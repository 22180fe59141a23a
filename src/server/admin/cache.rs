//! `POST /admin/cache/purge`.

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::json;
use utoipa::ToSchema;

use crate::cache::Tag;
use crate::server::AppState;
use crate::server::body::{FromBody, JsonBody, fields};
use crate::server::error::{ApiError, ErrorBody};
use crate::server::problem::{Problem, Reason};
use crate::server::trail::Deed;

/// What to forget; nothing named is everything.
#[derive(Debug, Deserialize, ToSchema)]
pub struct PurgeBody {
    /// Answers made for this user, by id or name.
    pub user: Option<String>,
    /// Answers of this model.
    pub model: Option<String>,
}

impl FromBody for PurgeBody {
    fn from_body(text: &str) -> Result<Self, ApiError> {
        fields(text)
    }
}

/// Forget answers of the prompt cache.
#[utoipa::path(
    post, path = "/admin/cache/purge", tag = "Administration",
    request_body = PurgeBody,
    responses(
        (status = 204, description = "They are forgotten"),
        (status = "4XX", description = "Not like this", body = ErrorBody),
        (status = "5XX", description = "The cache does not answer", body = ErrorBody),
    )
)]
pub async fn purge(
    State(state): State<AppState>,
    JsonBody(body): JsonBody<PurgeBody>,
) -> Result<(StatusCode, Extension<Deed>), ApiError> {
    let deed = Extension(Deed::to("cache", json!({"user": body.user, "model": body.model})));
    let Some(cache) = &state.gate.cache else { return Ok((StatusCode::NO_CONTENT, deed)) };
    let purged = match (body.user, body.model) {
        (Some(_), Some(_)) => return Err(ApiError::invalid("user", Reason::Excludes("model"))),
        (Some(user), None) => cache.purge(Tag::User(&state.auth.find_user(&user).await?.id)).await,
        (None, Some(model)) => cache.purge(Tag::Model(&model)).await,
        (None, None) => cache.purge(Tag::All).await,
    };
    purged.map_err(|error| {
        tracing::error!("purge: {error}");
        Problem::Store
    })?;
    Ok((StatusCode::NO_CONTENT, deed))
}
