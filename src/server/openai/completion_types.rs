//! `/v1/completions` as it travels: the request's fields and their validation, the answer and its chunks.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::fields::{GenerationFields, MAX_LOGPROBS, Options, Unbuilt, refuse_unbuilt, within};
use super::usage::{CompletionLogprobs, Usage};
use crate::generate::{GenerateRequest, Prompt};
use crate::server::body::{FromBody, fields};
use crate::server::error::ApiError;
use crate::server::problem::Reason;

/// The fields that only completions have.
#[derive(Debug, Deserialize, ToSchema)]
pub struct CompletionFields {
    /// What the answer continues.
    pub prompt: PromptField,
    /// Begin the answer with the prompt.
    pub echo: Option<bool>,
    /// Report log-probabilities with so many alternatives; with `echo`, of the prompt too.
    #[schema(minimum = 0, maximum = 20)]
    pub logprobs: Option<u64>,
    #[schema(ignore)]
    suffix: Unbuilt,
    #[schema(ignore)]
    best_of: Unbuilt,
}

/// One prompt or several, as text or as token ids.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a string, a list of strings, a list of token ids or a list of such lists")]
pub enum PromptField {
    /// Text.
    Text(String),
    /// Several texts.
    Texts(Vec<String>),
    /// Token ids.
    Tokens(Vec<u32>),
    /// Several lists of token ids.
    TokenLists(Vec<Vec<u32>>),
}

/// The body of `/v1/completions`, as the documentation shows it.
#[derive(Debug, Deserialize, ToSchema)]
#[expect(dead_code, reason = "the two halves are read one after the other; this joins them for the documentation")]
pub struct CompletionRequestBody {
    #[serde(flatten)]
    completion: CompletionFields,
    #[serde(flatten)]
    generation: GenerationFields,
}

/// A validated completion request.
#[derive(Debug)]
pub struct CompletionRequest {
    /// For the model, one per prompt.
    pub requests: Vec<GenerateRequest>,
    /// Begin the answer with the prompt.
    pub echo: bool,
    /// For the handler.
    pub options: Options,
}

impl FromBody for CompletionRequest {
    fn from_body(text: &str) -> Result<Self, ApiError> {
        let completion: CompletionFields = fields(text)?;
        let mut generation: GenerationFields = fields(text)?;
        refuse_unbuilt(&[("suffix", &completion.suffix), ("best_of", &completion.best_of)])?;
        let echo = completion.echo.unwrap_or(false);
        let only_prompt = echo && generation.max_tokens == Some(0);
        if only_prompt {
            generation.max_tokens = Some(1);
        }
        let mut request = GenerateRequest::new(Prompt::Tokens(Vec::new()));
        request.logprobs = within("logprobs", completion.logprobs, 0..=MAX_LOGPROBS)?.map(|count| count as u8);
        // `max_tokens` 0 with `echo`.
        request.only_prompt = only_prompt;
        request.prompt_logprobs = request.logprobs.filter(|_| echo);
        let options = generation.apply(&mut request)?;
        let prompts = completion.prompt.into_prompts();
        if prompts.is_empty() {
            return Err(ApiError::invalid("prompt", Reason::Empty));
        }
        let requests = prompts.into_iter().map(|prompt| GenerateRequest { prompt, ..request.clone() }).collect();
        Ok(Self { requests, echo, options })
    }
}

impl PromptField {
    fn into_prompts(self) -> Vec<Prompt> {
        match self {
            Self::Text(text) => vec![Prompt::Text(text)],
            Self::Texts(texts) => texts.into_iter().map(Prompt::Text).collect(),
            Self::Tokens(ids) => vec![Prompt::Tokens(ids)],
            Self::TokenLists(lists) => lists.into_iter().map(Prompt::Tokens).collect(),
        }
    }
}

/// An answer of `/v1/completions`, or a chunk of one.
#[derive(Debug, Serialize, ToSchema)]
pub struct Completion {
    /// Made by the server.
    pub id: String,
    /// `text_completion`.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    /// The model that answered.
    pub model: String,
    /// Identifies model and configuration.
    pub system_fingerprint: String,
    /// The answers; none in the chunk of usage.
    pub choices: Vec<CompletionChoice>,
    /// Tokens used. In a stream only with `include_usage`: null until the last chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Usage>)]
    #[expect(clippy::option_option, reason = "absent, null and present are three things on the wire")]
    pub usage: Option<Option<Usage>>,
}

/// One answer, or a part of one.
#[derive(Debug, Serialize, ToSchema)]
pub struct CompletionChoice {
    /// Its number: choices of the first prompt come first.
    pub index: usize,
    /// Its text.
    pub text: String,
    /// When asked for.
    #[schema(required = true)]
    pub logprobs: Option<CompletionLogprobs>,
    /// `stop` or `length`; null before the last chunk.
    #[schema(required = true)]
    pub finish_reason: Option<&'static str>,
}
