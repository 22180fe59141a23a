//! Which address leads to which handler, and the layers around all of them.

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{HeaderName, HeaderValue, Method};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use super::error::ApiError;
use super::openai::{chat, completions, models};
use super::problem::Problem;
use super::{AppState, ask, docs, envelope, health, tokens};

/// Headers that pages of other origins may read.
const EXPOSED: [&str; 6] =
    ["x-request-id", "openai-processing-ms", "retry-after", "retry-after-ms", "x-queue-position", "x-queue-wait-ms"];

/// The whole application.
pub fn router(state: AppState) -> Router {
    let router = Router::new()
        .route("/v1/chat/completions", post(chat::chat_completions))
        .route("/v1/chat/completions/stream", post(chat::chat_completions_stream))
        .route("/v1/completions", post(completions::completions))
        .route("/v1/models", get(models::list_models))
        .route("/v1/models/{*id}", get(models::get_model))
        .route("/v1/llm/models", get(models::list_llm_models))
        .route("/ask", post(ask::ask))
        .route("/generate", post(ask::generate))
        .route("/tokenize", post(tokens::tokenize))
        .route("/detokenize", post(tokens::detokenize))
        .route("/health", get(health::health))
        .route("/ready", get(health::ready))
        .route("/metrics", get(health::metrics))
        .merge(docs::routes())
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(DefaultBodyLimit::max(state.config.max_body))
        .layer(CatchPanicLayer::custom(panicked));
    let router = match cors(&state.config.cors_origins) {
        Some(cors) => router.layer(cors),
        None => router,
    };
    router.layer(from_fn_with_state(state.clone(), envelope::envelope)).with_state(state)
}

/// Lets pages of these origins in; none of them needs no layer.
fn cors(origins: &[String]) -> Option<CorsLayer> {
    let allowed = if origins.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()))
    };
    let told = EXPOSED.map(HeaderName::from_static);
    let cors = CorsLayer::new().allow_origin(allowed).allow_methods([Method::GET, Method::POST]).expose_headers(told);
    (!origins.is_empty()).then(|| cors.allow_headers(AllowHeaders::mirror_request()))
}

async fn no_route(request: Request) -> ApiError {
    Problem::NoRoute(request.uri().path().to_owned()).into()
}

async fn no_method(request: Request) -> ApiError {
    Problem::NoMethod(request.method().to_string()).into()
}

fn panicked(_: Box<dyn std::any::Any + Send>) -> Response {
    tracing::error!("a handler panicked");
    ApiError::from(Problem::Internal).into_response()
}
