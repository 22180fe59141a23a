//! `GET /v1/models`, `/v1/models/{id}` and `/v1/llm/models`.

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;
use utoipa::ToSchema;

use crate::generate::ServedModel;
use crate::server::AppState;
use crate::server::client::Client;
use crate::server::error::{ApiError, ErrorBody};

/// The models served.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelList {
    /// `list`.
    pub object: &'static str,
    /// The models.
    pub data: Vec<ModelObject>,
}

/// A model.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelObject {
    /// The name to ask for.
    pub id: String,
    /// `model`.
    pub object: &'static str,
    /// When it was loaded, seconds since 1970.
    pub created: u64,
    /// `steppe`.
    pub owned_by: &'static str,
    /// The model that this one is made of.
    pub root: String,
    /// Always null.
    #[schema(value_type = Option<String>)]
    pub parent: (),
    /// Always empty.
    #[schema(value_type = Vec<String>)]
    pub permission: [(); 0],
    /// Prompt plus answer at most, tokens.
    pub max_model_len: usize,
}

impl ModelObject {
    fn new(model: &ServedModel) -> Self {
        Self {
            id: model.id.clone(),
            object: "model",
            created: model.created,
            owned_by: "steppe",
            root: model.id.clone(),
            parent: (),
            permission: [],
            max_model_len: model.context,
        }
    }
}

/// List the models.
#[utoipa::path(
    get, path = "/v1/models", tag = "OpenAI",
    responses(
        (status = 200, description = "The models served", body = ModelList),
        (status = "4XX", description = "Not for this credential", body = ErrorBody),
        (status = "5XX", description = "Loading or stopping", body = ErrorBody),
    )
)]
pub async fn list_models(State(state): State<AppState>, client: Client) -> Result<Json<ModelList>, ApiError> {
    let model = state.generator()?.model();
    let allowed = client.identity.may_use(&model.id).then(|| ModelObject::new(model));
    Ok(Json(ModelList { object: "list", data: allowed.into_iter().collect() }))
}

/// List the models: the same as `/v1/models`.
#[utoipa::path(
    get, path = "/v1/llm/models", tag = "OpenAI",
    responses(
        (status = 200, description = "The models served", body = ModelList),
        (status = "4XX", description = "Not for this credential", body = ErrorBody),
        (status = "5XX", description = "Loading or stopping", body = ErrorBody),
    )
)]
pub async fn list_llm_models(state: State<AppState>, client: Client) -> Result<Json<ModelList>, ApiError> {
    list_models(state, client).await
}

/// Describe one model; its name may hold `/` and `:`.
#[utoipa::path(
    get, path = "/v1/models/{id}", tag = "OpenAI",
    params(("id" = String, Path, description = "Name or alias of the model")),
    responses(
        (status = 200, description = "The model", body = ModelObject),
        (status = "4XX", description = "There is no such model for this credential", body = ErrorBody),
        (status = "5XX", description = "Loading or stopping", body = ErrorBody),
    )
)]
pub async fn get_model(
    State(state): State<AppState>,
    client: Client,
    Path(id): Path<String>,
) -> Result<Json<ModelObject>, ApiError> {
    Ok(Json(ModelObject::new(client.generator(&state, Some(&id))?.model())))
}
