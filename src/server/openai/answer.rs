//! What chat and completions have in common once the engine has taken a request: gather all pieces, or stream them.

use std::time::Duration;

use serde::Serialize;

use super::usage::Usage;
use crate::engine::TokenUsage;
use crate::generate::{Answers, Finish, GenerateError, Piece, Terms, TokenText};
use crate::lang::Lang;
use crate::server::error::ApiError;
use crate::server::problem::{Problem, Reason};
use crate::server::sse::{Events, Gone};

/// What every answer of one request carries.
#[derive(Debug, Clone)]
pub struct Head {
    /// `chatcmpl-…` or `cmpl-…`.
    pub id: String,
    /// Seconds since 1970.
    pub created: u64,
    /// The model's name.
    pub model: String,
    /// Identifies model and configuration.
    pub fingerprint: String,
}

/// One complete answer.
#[derive(Debug, Default)]
pub struct Gathered {
    /// Its text.
    pub text: String,
    /// The prompt's tokens, when asked for.
    pub prompt: Vec<TokenText>,
    /// Its tokens, when asked for.
    pub tokens: Vec<TokenText>,
    /// Why it ended, and what it used.
    pub end: Option<(Finish, TokenUsage)>,
}

/// Waits for all answers.
pub async fn gather(mut answers: Answers, count: usize) -> Result<Vec<Gathered>, GenerateError> {
    let mut gathered: Vec<Gathered> = (0..count).map(|_| Gathered::default()).collect();
    while let Some((index, piece)) = answers.next().await {
        let answer = &mut gathered[index];
        match piece {
            Piece::Prompt(tokens) => answer.prompt = tokens,
            Piece::Text { text, tokens } => {
                answer.text.push_str(&text);
                answer.tokens.extend(tokens);
            }
            Piece::Done { finish, usage } => answer.end = Some((finish, usage)),
            Piece::Failed(error) => return Err(error),
        }
    }
    if gathered.iter().any(|answer| answer.end.is_none()) {
        return Err(GenerateError::Lost);
    }
    Ok(gathered)
}

/// The usage of gathered answers.
pub fn usage_of(gathered: &[Gathered], choices: usize) -> Usage {
    let ends: Vec<TokenUsage> = gathered.iter().filter_map(|answer| answer.end.map(|(_, usage)| usage)).collect();
    Usage::of(&ends, choices)
}

/// Writes the chunks of one kind of answer.
pub trait Chunks: Send + 'static {
    /// A chunk as it is sent.
    type Chunk: Serialize + Send + Sync;

    /// The first chunk of a choice, sent before anything is generated.
    fn open(&mut self, index: usize) -> Option<Self::Chunk>;
    /// The prompt's tokens.
    fn prompt(&mut self, index: usize, tokens: Vec<TokenText>) -> Option<Self::Chunk>;
    /// More text.
    fn text(&mut self, index: usize, text: String, tokens: Vec<TokenText>) -> Option<Self::Chunk>;
    /// The last chunk of a choice.
    fn done(&mut self, index: usize, finish: Finish) -> Self::Chunk;
    /// The chunk of usage, where it was asked for.
    fn usage(&mut self, usage: Usage) -> Option<Self::Chunk>;
}

/// How a stream is told.
#[derive(Debug, Clone, Copy)]
pub struct Manner {
    /// Answers in all.
    pub count: usize,
    /// Answers per prompt.
    pub choices: usize,
    /// A comment goes out after so long a silence.
    pub keep_alive: Duration,
    /// Lang of an error in mid-stream.
    pub language: Lang,
}

/// Sends all pieces as events, then `[DONE]`. A failure is one error event, and then nothing.
pub async fn tell<C: Chunks>(mut events: Events, mut answers: Answers, mut chunks: C, how: Manner) -> Result<(), Gone> {
    let mut ends: Vec<Option<TokenUsage>> = vec![None; how.count];
    let Terms { queue_position, expected_wait, .. } = answers.terms;
    if queue_position > 0 {
        let wait = expected_wait.as_millis();
        events.comment(&format!("x-queue-position={queue_position} x-queue-wait-ms={wait}")).await?;
    }
    for index in 0..how.count {
        send(&mut events, chunks.open(index)).await?;
    }
    loop {
        let Ok(piece) = tokio::time::timeout(how.keep_alive, answers.next()).await else {
            events.comment("keep-alive").await?;
            continue;
        };
        match piece {
            Some((index, Piece::Prompt(tokens))) => send(&mut events, chunks.prompt(index, tokens)).await?,
            Some((index, Piece::Text { text, tokens })) => send(&mut events, chunks.text(index, text, tokens)).await?,
            Some((index, Piece::Done { finish, usage })) => {
                ends[index] = Some(usage);
                send(&mut events, Some(chunks.done(index, finish))).await?;
            }
            Some((_, Piece::Failed(error))) => return fail(&mut events, error, how.language).await,
            None => break,
        }
    }
    let Some(ends) = ends.into_iter().collect::<Option<Vec<_>>>() else {
        return fail(&mut events, GenerateError::Lost, how.language).await;
    };
    send(&mut events, chunks.usage(Usage::of(&ends, how.choices))).await?;
    events.done().await
}

async fn send<C: Serialize>(events: &mut Events, chunk: Option<C>) -> Result<(), Gone> {
    match chunk {
        Some(chunk) => events.data(&chunk).await,
        None => Ok(()),
    }
}

async fn fail(events: &mut Events, error: GenerateError, language: Lang) -> Result<(), Gone> {
    tracing::warn!(%error, "a stream failed");
    events.data(&refusal(error, "prompt").body(language)).await
}

/// A generation's error as an API error; `input` is the field that holds the prompt.
pub fn refusal(error: GenerateError, input: &str) -> ApiError {
    match error {
        GenerateError::ContextLength { limit, prompt, completion } => {
            ApiError::about(input, Problem::ContextLength { limit, prompt, completion })
        }
        GenerateError::EmptyPrompt => ApiError::invalid(input, Reason::Empty),
        GenerateError::PromptToken { id, vocabulary } => {
            ApiError::invalid(input, Reason::TokenId { id: id.into(), vocabulary })
        }
        GenerateError::BiasToken { id, vocabulary } => {
            ApiError::invalid("logit_bias", Reason::TokenId { id: id.into(), vocabulary })
        }
        GenerateError::MinTokens => ApiError::invalid("min_tokens", Reason::Above("max_tokens")),
        GenerateError::Template(detail) => ApiError::about(input, Problem::Template(detail)),
        GenerateError::Text(detail) => ApiError::about(input, Problem::Malformed(detail)),
        GenerateError::QueueFull { retry_after } => Problem::Overloaded(retry_after).into(),
        GenerateError::Resting { retry_after } => Problem::ModelResting(retry_after).into(),
        GenerateError::Limited(refusal) => Problem::RateLimited(refusal).into(),
        GenerateError::Short { account, resets_at } => Problem::Quota { account, resets_at }.into(),
        GenerateError::Reused => Problem::IdempotencyReused.into(),
        GenerateError::Ledger => Problem::Store.into(),
        GenerateError::Closed => Problem::Stopping.into(),
        GenerateError::Deadline => Problem::Deadline.into(),
        GenerateError::Engine(error) => Problem::Engine(error).into(),
        GenerateError::Lost => Problem::Internal.into(),
    }
}
