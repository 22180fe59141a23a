//! The OpenAPI document, made from the handlers' own types, and the page that shows it. Both work without a network.

use axum::Router;
use utoipa::OpenApi;
use utoipa_swagger_ui::{Config, SwaggerUi};

use super::openai::{chat, completions, models};
use super::{AppState, ask, health, tokens};

/// The document of every endpoint.
#[derive(Debug, OpenApi)]
#[openapi(
    info(title = "Steppe", description = "Local language models behind an OpenAI-compatible API"),
    paths(
        chat::chat_completions,
        chat::chat_completions_stream,
        completions::completions,
        models::list_models,
        models::get_model,
        models::list_llm_models,
        ask::ask,
        ask::generate,
        tokens::tokenize,
        tokens::detokenize,
        health::health,
        health::ready,
        health::metrics,
    ),
    tags(
        (name = "OpenAI", description = "What OpenAI's clients speak"),
        (name = "Steppe", description = "Beyond OpenAI"),
        (name = "Operation", description = "For those who run the server"),
    )
)]
pub struct ApiDoc;

/// `/openapi.json` and `/docs`.
pub(super) fn routes() -> Router<AppState> {
    // The validator's badge would be fetched from the internet.
    let config = Config::new(["/openapi.json"]).validator_url("none");
    SwaggerUi::new("/docs").url("/openapi.json", ApiDoc::openapi()).config(config).into()
}
