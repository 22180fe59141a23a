//! `/v1/chat/completions` as it travels: the request's fields and their validation, the answer and its chunks.

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use utoipa::ToSchema;

use super::fields::{GenerationFields, MAX_LOGPROBS, Options, Unbuilt, refuse_unbuilt, within};
use super::usage::{ChatLogprobs, Usage};
use crate::generate::{GenerateRequest, Prompt};
use crate::server::body::{FromBody, fields};
use crate::server::error::ApiError;
use crate::server::problem::{Problem, Reason};

/// The fields that only chat has.
#[derive(Debug, Deserialize, ToSchema)]
pub struct ChatFields {
    /// The conversation so far.
    pub messages: Vec<ChatMessage>,
    /// Report the log-probabilities of the answer's tokens.
    pub logprobs: Option<bool>,
    /// With so many alternatives; needs `logprobs`.
    #[schema(minimum = 0, maximum = 20)]
    pub top_logprobs: Option<u64>,
    /// Only `{"type": "text"}`.
    pub response_format: Option<ResponseFormat>,
    /// Only `["text"]`.
    pub modalities: Option<Vec<String>>,
    #[schema(ignore)]
    tools: Unbuilt,
    #[schema(ignore)]
    tool_choice: Unbuilt,
    #[schema(ignore)]
    parallel_tool_calls: Unbuilt,
    #[schema(ignore)]
    functions: Unbuilt,
    #[schema(ignore)]
    function_call: Unbuilt,
    #[schema(ignore)]
    audio: Unbuilt,
    #[schema(ignore)]
    prediction: Unbuilt,
    #[schema(ignore)]
    reasoning_effort: Unbuilt,
    #[schema(ignore)]
    web_search_options: Unbuilt,
}

/// A message of the conversation.
#[derive(Debug, Deserialize, ToSchema)]
pub struct ChatMessage {
    /// system, developer, user, assistant or tool.
    pub role: String,
    /// The text.
    pub content: Option<Content>,
    /// Who speaks, where the model's template knows names.
    pub name: Option<String>,
    /// The call that a tool's message answers.
    pub tool_call_id: Option<String>,
    #[schema(ignore)]
    tool_calls: Unbuilt,
    #[schema(ignore)]
    function_call: Unbuilt,
}

/// A message's text.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a string or a list of parts with `type` and `text`")]
pub enum Content {
    /// As one string.
    Text(String),
    /// In parts.
    Parts(Vec<ContentPart>),
}

/// A part of a message.
#[derive(Debug, Deserialize, ToSchema)]
pub struct ContentPart {
    /// Only `text`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The text.
    pub text: Option<String>,
}

/// The form of the answer.
#[derive(Debug, Deserialize, ToSchema)]
pub struct ResponseFormat {
    /// Only `text`.
    #[serde(rename = "type")]
    pub kind: String,
}

/// The body of `/v1/chat/completions`, as the documentation shows it.
#[derive(Debug, Deserialize, ToSchema)]
#[expect(dead_code, reason = "the two halves are read one after the other; this joins them for the documentation")]
pub struct ChatCompletionRequest {
    #[serde(flatten)]
    chat: ChatFields,
    #[serde(flatten)]
    generation: GenerationFields,
}

/// A validated chat request.
#[derive(Debug)]
pub struct ChatRequest {
    /// For the model.
    pub request: GenerateRequest,
    /// For the handler.
    pub options: Options,
}

/// The same body at the address that always streams.
#[derive(Debug)]
pub struct StreamedChatRequest(pub ChatRequest);

impl FromBody for ChatRequest {
    fn from_body(text: &str) -> Result<Self, ApiError> {
        Self::read(text, fields(text)?)
    }
}

impl FromBody for StreamedChatRequest {
    fn from_body(text: &str) -> Result<Self, ApiError> {
        let mut generation: GenerationFields = fields(text)?;
        generation.stream = Some(true);
        ChatRequest::read(text, generation).map(Self)
    }
}

impl ChatRequest {
    fn read(text: &str, generation: GenerationFields) -> Result<Self, ApiError> {
        let chat: ChatFields = fields(text)?;
        chat.refuse_unbuilt()?;
        let mut request = GenerateRequest::new(Prompt::Chat(messages("messages", chat.messages)?));
        request.logprobs = match (chat.logprobs, within("top_logprobs", chat.top_logprobs, 0..=MAX_LOGPROBS)?) {
            (Some(true), top) => Some(top.unwrap_or(0) as u8),
            (_, Some(1..)) => return Err(ApiError::invalid("top_logprobs", Reason::Needs("logprobs"))),
            _ => None,
        };
        let options = generation.apply(&mut request)?;
        Ok(Self { request, options })
    }
}

impl ChatFields {
    fn refuse_unbuilt(&self) -> Result<(), ApiError> {
        refuse_unbuilt(&[
            ("tools", &self.tools),
            ("tool_choice", &self.tool_choice),
            ("parallel_tool_calls", &self.parallel_tool_calls),
            ("functions", &self.functions),
            ("function_call", &self.function_call),
            ("audio", &self.audio),
            ("prediction", &self.prediction),
            ("reasoning_effort", &self.reasoning_effort),
            ("web_search_options", &self.web_search_options),
        ])?;
        if self.response_format.as_ref().is_some_and(|format| format.kind != "text") {
            return Err(ApiError::about("response_format", Problem::NotBuilt));
        }
        if self.modalities.as_ref().is_some_and(|kinds| kinds.iter().any(|kind| kind != "text")) {
            return Err(ApiError::about("modalities", Problem::NotBuilt));
        }
        Ok(())
    }
}

/// Messages as the model's template reads them; `param` is the field that they came in.
pub fn messages(param: &str, given: Vec<ChatMessage>) -> Result<Vec<Json>, ApiError> {
    if given.is_empty() {
        return Err(ApiError::invalid(param, Reason::Empty));
    }
    given.into_iter().enumerate().map(|(index, message)| message.into_json(&format!("{param}[{index}]"))).collect()
}

impl ChatMessage {
    fn into_json(self, param: &str) -> Result<Json, ApiError> {
        refuse_unbuilt(&[
            (&format!("{param}.tool_calls"), &self.tool_calls),
            (&format!("{param}.function_call"), &self.function_call),
        ])?;
        let role = match self.role.as_str() {
            // Templates know one role of instruction.
            "system" | "developer" => "system",
            role @ ("user" | "assistant" | "tool") => role,
            _ => return Err(ApiError::invalid(format!("{param}.role"), Reason::Role(self.role))),
        };
        let Some(content) = self.content else {
            return Err(ApiError::about(format!("{param}.content"), Problem::Missing));
        };
        let mut message = json!({"role": role, "content": content.into_text(&format!("{param}.content"))?});
        if let Some(name) = self.name {
            message["name"] = name.into();
        }
        if let Some(id) = self.tool_call_id {
            message["tool_call_id"] = id.into();
        }
        Ok(message)
    }
}

impl Content {
    fn into_text(self, param: &str) -> Result<String, ApiError> {
        let parts = match self {
            Self::Text(text) => return Ok(text),
            Self::Parts(parts) => parts,
        };
        let mut text = String::new();
        for (index, part) in parts.into_iter().enumerate() {
            if part.kind != "text" {
                return Err(ApiError::invalid(format!("{param}[{index}].type"), Reason::Part(part.kind)));
            }
            let missing = || ApiError::about(format!("{param}[{index}].text"), Problem::Missing);
            text.push_str(&part.text.ok_or_else(missing)?);
        }
        Ok(text)
    }
}

/// An answer of `/v1/chat/completions`.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatCompletion {
    /// Made by the server.
    pub id: String,
    /// `chat.completion`.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    /// The model that answered.
    pub model: String,
    /// Identifies model and configuration.
    pub system_fingerprint: String,
    /// The answers.
    pub choices: Vec<ChatChoice>,
    /// Tokens used.
    pub usage: Usage,
}

/// One answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatChoice {
    /// Its number.
    pub index: usize,
    /// Its text.
    pub message: AssistantMessage,
    /// When asked for.
    #[schema(required = true)]
    pub logprobs: Option<ChatLogprobs>,
    /// `stop` or `length`.
    pub finish_reason: &'static str,
}

/// What the assistant says.
#[derive(Debug, Serialize, ToSchema)]
pub struct AssistantMessage {
    /// `assistant`.
    pub role: &'static str,
    /// The text.
    pub content: String,
    /// Always null.
    #[schema(value_type = Option<String>)]
    pub refusal: (),
}

/// An event of a streamed chat answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatChunk {
    /// The same in all chunks.
    pub id: String,
    /// `chat.completion.chunk`.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    /// The model that answers.
    pub model: String,
    /// Identifies model and configuration.
    pub system_fingerprint: String,
    /// One entry; none in the chunk of usage.
    pub choices: Vec<ChatChunkChoice>,
    /// Only with `include_usage`: null until the last chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Usage>)]
    #[expect(clippy::option_option, reason = "absent, null and present are three things on the wire")]
    pub usage: Option<Option<Usage>>,
}

/// A part of one answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatChunkChoice {
    /// The answer's number.
    pub index: usize,
    /// What is new.
    pub delta: Delta,
    /// When asked for.
    #[schema(required = true)]
    pub logprobs: Option<ChatLogprobs>,
    /// In the last chunk of an answer: `stop` or `length`.
    #[schema(required = true)]
    pub finish_reason: Option<&'static str>,
}

/// What is new in a chunk.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct Delta {
    /// In the first chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    /// More text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
}
