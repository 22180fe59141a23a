//! `POST /v1/chat/completions`, streaming or not.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};

use super::answer::{Chunks, Gathered, Head, Manner, gather, refusal, tell, usage_of};
use super::chat_types::{
    AssistantMessage, ChatChoice, ChatChunk, ChatChunkChoice, ChatCompletion, ChatCompletionRequest, ChatRequest,
    Delta, StreamedChatRequest,
};
use super::finish_reason;
use super::usage::{ChatLogprobs, Usage};
use crate::generate::{Finish, TokenText};
use crate::server::AppState;
use crate::server::body::JsonBody;
use crate::server::client::Client;
use crate::server::error::{ApiError, ErrorBody};
use crate::server::sse;
use crate::server::terms::with_terms;

/// Answer a conversation.
#[utoipa::path(
    post, path = "/v1/chat/completions", tag = "OpenAI",
    request_body = ChatCompletionRequest,
    responses(
        (status = 200, description = "The answer; with `stream`, server-sent events of `ChatChunk` and then `[DONE]`",
            content((ChatCompletion = "application/json"), (ChatChunk = "text/event-stream"))),
        (status = "4XX", description = "The request cannot be answered as asked", body = ErrorBody),
        (status = "5XX", description = "The server failed, is overloaded, loading or stopping", body = ErrorBody),
    )
)]
pub async fn chat_completions(
    State(state): State<AppState>,
    client: Client,
    JsonBody(body): JsonBody<ChatRequest>,
) -> Result<Response, ApiError> {
    chat(&state, &client, body).await
}

/// Answer a conversation, always as server-sent events.
#[utoipa::path(
    post, path = "/v1/chat/completions/stream", tag = "OpenAI",
    request_body = ChatCompletionRequest,
    responses(
        (status = 200, description = "Events of `ChatChunk`, then `[DONE]`",
            content((ChatChunk = "text/event-stream"))),
        (status = "4XX", description = "The request cannot be answered as asked", body = ErrorBody),
        (status = "5XX", description = "The server failed, is overloaded, loading or stopping", body = ErrorBody),
    )
)]
pub async fn chat_completions_stream(
    State(state): State<AppState>,
    client: Client,
    JsonBody(StreamedChatRequest(body)): JsonBody<StreamedChatRequest>,
) -> Result<Response, ApiError> {
    chat(&state, &client, body).await
}

async fn chat(state: &AppState, client: &Client, body: ChatRequest) -> Result<Response, ApiError> {
    let generator = client.generator(state, body.options.model.as_deref())?;
    state.check_choices("n", body.options.choices)?;
    let choices = body.options.choices;
    let refused = |error| refusal(error, "messages");
    let caller = client.caller(state, body.options.user.as_deref(), body.options.user_id).await?;
    let answers = generator.answer(&state.gate, caller, vec![body.request], choices).await.map_err(refused)?;
    let terms = answers.terms;
    let head = Head::new("chatcmpl", &client.request_id, generator.model());
    let response = if body.options.stream {
        let chunks = ChatChunks { head, with_usage: body.options.include_usage };
        let keep_alive = state.config.keep_alive;
        let how = Manner { count: choices, choices, keep_alive, language: client.language };
        sse::respond(|events| tell(events, answers, chunks, how))
    } else {
        let gathered = gather(answers, choices).await.map_err(refused)?;
        Json(completion(head, gathered, choices)).into_response()
    };
    Ok(with_terms(response, &terms))
}

fn completion(head: Head, gathered: Vec<Gathered>, choices: usize) -> ChatCompletion {
    let usage = usage_of(&gathered, choices);
    let choice = |(index, answer): (usize, Gathered)| ChatChoice {
        index,
        message: AssistantMessage { role: "assistant", content: answer.text, refusal: () },
        logprobs: (!answer.tokens.is_empty()).then(|| ChatLogprobs::new(answer.tokens)),
        finish_reason: answer.end.map_or("stop", |(finish, _)| finish_reason(finish)),
    };
    ChatCompletion {
        id: head.id,
        object: "chat.completion",
        created: head.created,
        model: head.model,
        system_fingerprint: head.fingerprint,
        choices: gathered.into_iter().enumerate().map(choice).collect(),
        usage,
    }
}

struct ChatChunks {
    head: Head,
    with_usage: bool,
}

impl ChatChunks {
    fn chunk(&self, choices: Vec<ChatChunkChoice>, usage: Option<Usage>) -> ChatChunk {
        ChatChunk {
            id: self.head.id.clone(),
            object: "chat.completion.chunk",
            created: self.head.created,
            model: self.head.model.clone(),
            system_fingerprint: self.head.fingerprint.clone(),
            choices,
            usage: self.with_usage.then_some(usage),
        }
    }
}

impl Chunks for ChatChunks {
    type Chunk = ChatChunk;

    fn open(&mut self, index: usize) -> Option<ChatChunk> {
        let delta = Delta { role: Some("assistant"), content: Some(String::new()) };
        Some(self.chunk(vec![ChatChunkChoice { index, delta, logprobs: None, finish_reason: None }], None))
    }

    fn prompt(&mut self, _: usize, _: Vec<TokenText>) -> Option<ChatChunk> {
        None
    }

    fn text(&mut self, index: usize, text: String, tokens: Vec<TokenText>) -> Option<ChatChunk> {
        let logprobs = (!tokens.is_empty()).then(|| ChatLogprobs::new(tokens));
        let delta = Delta { role: None, content: Some(text) };
        Some(self.chunk(vec![ChatChunkChoice { index, delta, logprobs, finish_reason: None }], None))
    }

    fn done(&mut self, index: usize, finish: Finish) -> ChatChunk {
        let finish_reason = Some(finish_reason(finish));
        self.chunk(vec![ChatChunkChoice { index, delta: Delta::default(), logprobs: None, finish_reason }], None)
    }

    fn usage(&mut self, usage: Usage) -> Option<ChatChunk> {
        self.with_usage.then(|| self.chunk(Vec::new(), Some(usage)))
    }
}
