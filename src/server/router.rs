//! Which address leads to which handler, and the layers around all of them.

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{HeaderName, HeaderValue, Method};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use super::access::guarded;
use super::error::ApiError;
use super::openai::{chat, completions, models};
use super::problem::Problem;
use super::{AppState, admin, ask, billing, checks, docs, envelope, health, requests, token, tokens};
use crate::auth::Scope;

/// Headers that pages of other origins may read.
const EXPOSED: [&str; 6] =
    ["x-request-id", "openai-processing-ms", "retry-after", "retry-after-ms", "x-queue-position", "x-queue-wait-ms"];

/// The whole application.
pub fn router(state: AppState) -> Router {
    let generate = Router::new()
        .route("/v1/chat/completions", post(chat::chat_completions))
        .route("/v1/chat/completions/stream", post(chat::chat_completions_stream))
        .route("/v1/completions", post(completions::completions))
        .route("/ask", post(ask::ask))
        .route("/generate", post(ask::generate))
        .route("/tokenize", post(tokens::tokenize))
        .route("/detokenize", post(tokens::detokenize))
        .route("/v1/models", get(models::list_models))
        .route("/v1/models/{*id}", get(models::get_model))
        .route("/v1/llm/models", get(models::list_llm_models));
    let read = Router::new()
        .route("/billing/balance", get(billing::balance))
        .route("/billing/transactions", get(billing::transactions))
        .route("/billing/estimate", post(billing::estimate))
        .route("/billing/usage", get(billing::usage))
        .route("/v1/requests/{id}", get(requests::get_request));
    let metrics = Router::new()
        .route("/metrics", get(health::metrics))
        .route("/health/detailed", get(checks::detailed))
        .route("/health/circuit-breakers", get(checks::circuit_breakers))
        .route("/health/system", get(checks::system))
        .route("/health/history", get(checks::history));
    let open = Router::new()
        .route("/token", post(token::token))
        .route("/token/refresh", post(token::refresh))
        .route("/token/revoke", post(token::revoke))
        .route("/health", get(health::health))
        .route("/ready", get(health::ready))
        .merge(docs::routes());
    let router = open
        .merge(guarded(generate, Scope::Generate, &state))
        .merge(guarded(read, Scope::Read, &state))
        .merge(guarded(metrics, Scope::Metrics, &state))
        .merge(guarded(admin::routes(), Scope::Admin, &state))
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
    let cors = CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
        .expose_headers(told);
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
