//! The OpenAPI document, made from the handlers' own types, and the page that shows it. Both work without a network.

use axum::Router;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_swagger_ui::{Config, SwaggerUi};

use super::admin::{audit, cache, keys, money, users};
use super::openai::{chat, completions, models};
use super::{AppState, ask, billing, checks, health, requests, token, tokens};

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
        checks::detailed,
        checks::circuit_breakers,
        checks::system,
        checks::history,
        token::token,
        token::refresh,
        token::revoke,
        billing::balance,
        billing::transactions,
        billing::estimate,
        billing::usage,
        requests::get_request,
        money::top_up,
        money::list_budgets,
        money::set_budget,
        money::remove_budget,
        money::transactions_csv,
        audit::list_events,
        cache::purge,
        users::list_users,
        users::add_user,
        users::get_user,
        users::change_user,
        users::list_departments,
        users::change_department,
        keys::list_keys,
        keys::make_key,
        keys::revoke_key,
    ),
    modifiers(&Credentials),
    security(("bearer" = []), ("internal" = [])),
    tags(
        (name = "OpenAI", description = "What OpenAI's clients speak"),
        (name = "Steppe", description = "Beyond OpenAI"),
        (name = "Administration", description = "For administrators"),
        (name = "Operation", description = "For those who run the server"),
    )
)]
pub struct ApiDoc;

/// What requests are let in with.
struct Credentials;

impl Modify for Credentials {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("An API key or access token"));
        let internal = ApiKeyValue::with_description("x-internal-auth", "For services of the same installation");
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer.build()));
        components.add_security_scheme("internal", SecurityScheme::ApiKey(ApiKey::Header(internal)));
    }
}

/// `/openapi.json` and `/docs`.
pub(super) fn routes() -> Router<AppState> {
    // The validator's badge would be fetched from the internet.
    let config = Config::new(["/openapi.json"]).validator_url("none");
    SwaggerUi::new("/docs").url("/openapi.json", ApiDoc::openapi()).config(config).into()
}
