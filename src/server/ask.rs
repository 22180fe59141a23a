//! `POST /ask` and `POST /generate`: one answer in one short object. Bad bodies are 422 here.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json_, json};
use utoipa::ToSchema;

use super::AppState;
use super::body::{FromBody, JsonBody, fields};
use super::client::Client;
use super::error::{ApiError, ErrorBody};
use super::openai::answer::{Gathered, gather, refusal, usage_of};
use super::openai::chat_types::{ChatMessage, messages};
use super::openai::fields::{GenerationFields, OneOrMany, Options, Unbuilt, refuse_unbuilt, within};
use super::openai::usage::Usage;
use super::problem::{Problem, Reason};
use super::terms::with_terms;
use crate::generate::{CacheOutcome, Caller, GenerateRequest, Prompt, Terms};

/// Tokens of an answer of `/ask` when the request does not say.
const ASK_TOKENS: usize = 256;

/// The body of `/ask`.
#[derive(Debug, Deserialize, ToSchema)]
pub struct AskBody {
    /// The question.
    pub prompt: String,
    /// Tokens of the answer at most; 256 when absent.
    #[schema(minimum = 1)]
    pub max_tokens: Option<u64>,
    /// For whom one asks and who pays: oneself, or another for those who may act for others.
    pub user_id: Option<String>,
    #[schema(ignore)]
    session_id: Unbuilt,
}

/// The answer of `/ask`.
#[derive(Debug, Serialize, ToSchema)]
pub struct AskAnswer {
    /// The text.
    pub response: String,
    /// Where it came from: `model` or `cache`.
    pub source: &'static str,
}

impl FromBody for AskBody {
    fn from_body(text: &str) -> Result<Self, ApiError> {
        let body: Self = fields(text)?;
        refuse_unbuilt(&[("session_id", &body.session_id)])?;
        within("max_tokens", body.max_tokens, 1..=i64::MAX as u64)?;
        Ok(body)
    }
}

/// Ask one question.
#[utoipa::path(
    post, path = "/ask", tag = "Steppe",
    request_body = AskBody,
    responses(
        (status = 200, description = "The answer", body = AskAnswer),
        (status = 422, description = "The body is not valid, or does not fit into the context", body = ErrorBody),
        (status = "4XX", description = "The request cannot be answered as asked", body = ErrorBody),
        (status = "5XX", description = "The server failed, is overloaded, loading or stopping", body = ErrorBody),
    )
)]
pub async fn ask(
    State(state): State<AppState>,
    client: Client,
    body: Result<JsonBody<AskBody>, ApiError>,
) -> Result<Response, ApiError> {
    let JsonBody(body) = body.map_err(ApiError::unprocessable)?;
    let max_tokens = body.max_tokens.map_or(ASK_TOKENS, |tokens| tokens as usize);
    let message = json!({"role": "user", "content": body.prompt});
    let request = GenerateRequest { max_tokens: Some(max_tokens), ..GenerateRequest::new(Prompt::Chat(vec![message])) };
    let mut caller = client.caller(&state, None, body.user_id).await?;
    caller.cache.always = true;
    let (answer, _, terms) = one(&state, &client, caller, request, None, "prompt").await?;
    let cached = matches!(terms.cache, CacheOutcome::Hit | CacheOutcome::Semantic | CacheOutcome::Join);
    let source = if cached { "cache" } else { "model" };
    Ok(with_terms(Json(AskAnswer { response: answer.text, source }).into_response(), &terms))
}

/// The fields that only `/generate` has.
#[derive(Debug, Deserialize, ToSchema)]
pub struct GenerateFields {
    /// The question; or give `messages`.
    pub prompt: Option<String>,
    /// The conversation; or give `prompt`.
    pub messages: Option<Vec<ChatMessage>>,
    /// What the model should know: put before the last user message.
    pub context: Option<OneOrMany>,
}

/// The body of `/generate`, as the documentation shows it.
#[derive(Debug, Deserialize, ToSchema)]
#[expect(dead_code, reason = "the two halves are read one after the other; this joins them for the documentation")]
pub struct GenerateRequestBody {
    #[serde(flatten)]
    input: GenerateFields,
    #[serde(flatten)]
    generation: GenerationFields,
}

/// A validated body of `/generate`.
#[derive(Debug)]
pub struct GenerateBody {
    request: GenerateRequest,
    options: Options,
    input: &'static str,
}

/// The answer of `/generate`.
#[derive(Debug, Serialize, ToSchema)]
pub struct GenerateAnswer {
    /// The text.
    pub response: String,
    /// Tokens used.
    pub usage: Usage,
}

impl FromBody for GenerateBody {
    fn from_body(text: &str) -> Result<Self, ApiError> {
        let body: GenerateFields = fields(text)?;
        let generation: GenerationFields = fields(text)?;
        let (input, mut messages) = match (body.prompt, body.messages) {
            (Some(_), Some(_)) => return Err(ApiError::invalid("prompt", Reason::Excludes("messages"))),
            (None, None) => return Err(ApiError::about("prompt", Problem::Missing)),
            (Some(prompt), None) => ("prompt", vec![json!({"role": "user", "content": prompt})]),
            (None, Some(given)) => ("messages", messages("messages", given)?),
        };
        if let Some(context) = body.context {
            put_before_question(&mut messages, &Vec::from(context).join("\n\n"))?;
        }
        let mut request = GenerateRequest::new(Prompt::Chat(messages));
        let options = generation.apply(&mut request)?;
        if options.stream {
            return Err(ApiError::about("stream", Problem::NotBuilt));
        }
        if options.choices > 1 {
            return Err(ApiError::about("n", Problem::NotBuilt));
        }
        Ok(Self { request, options, input })
    }
}

fn put_before_question(messages: &mut [Json_], context: &str) -> Result<(), ApiError> {
    let needs_user = || ApiError::invalid("context", Reason::Needs("a user message"));
    let question = messages.iter_mut().rev().find(|message| message["role"] == "user").ok_or_else(needs_user)?;
    let text = question["content"].as_str().unwrap_or_default();
    question["content"] = format!("{context}\n\n{text}").into();
    Ok(())
}

/// Answer with given context.
#[utoipa::path(
    post, path = "/generate", tag = "Steppe",
    request_body = GenerateRequestBody,
    responses(
        (status = 200, description = "The answer", body = GenerateAnswer),
        (status = 422, description = "The body is not valid, or does not fit into the context", body = ErrorBody),
        (status = "4XX", description = "The request cannot be answered as asked", body = ErrorBody),
        (status = "5XX", description = "The server failed, is overloaded, loading or stopping", body = ErrorBody),
    )
)]
pub async fn generate(
    State(state): State<AppState>,
    client: Client,
    body: Result<JsonBody<GenerateBody>, ApiError>,
) -> Result<Response, ApiError> {
    let JsonBody(body) = body.map_err(ApiError::unprocessable)?;
    let Options { model, user, user_id, .. } = body.options;
    let caller = client.caller(&state, user.as_deref(), user_id).await?;
    let (answer, usage, terms) = one(&state, &client, caller, body.request, model.as_deref(), body.input).await?;
    Ok(with_terms(Json(GenerateAnswer { response: answer.text, usage }).into_response(), &terms))
}

async fn one(
    state: &AppState,
    client: &Client,
    caller: Caller,
    request: GenerateRequest,
    model: Option<&str>,
    input: &str,
) -> Result<(Gathered, Usage, Terms), ApiError> {
    let generator = client.generator(state, model)?;
    let refused = |error| refusal(error, input).unprocessable();
    let answers = generator.answer(&state.gate, caller, vec![request], 1).await.map_err(refused)?;
    let terms = answers.terms;
    let mut gathered = gather(answers, 1).await.map_err(refused)?;
    let usage = usage_of(&gathered, 1);
    Ok((gathered.pop().ok_or(Problem::Internal)?, usage, terms))
}
