//! What goes into the engine and what comes out: a request over token ids, a stream of token events.

use std::time::{Duration, Instant};

pub use kernels::sampling::Logprob as TokenLogprob;
use serde::{Deserialize, Serialize};

use tokio::sync::mpsc;

/// How the next token is chosen. Zero or one values that mean "off" are noted per field.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// 0 is greedy.
    pub temperature: f32,
    /// Keep the k most likely tokens; 0 is off.
    pub top_k: u32,
    /// Nucleus; 1 is off.
    pub top_p: f32,
    /// Keep tokens at least this share as likely as the best; 0 is off.
    pub min_p: f32,
    /// Locally typical sampling; 1 is off.
    pub typical_p: f32,
    /// Divides positive and multiplies negative logits of tokens in prompt or output; 1 is off.
    pub repetition_penalty: f32,
    /// Subtracted per occurrence in the output; 0 is off.
    pub frequency_penalty: f32,
    /// Subtracted once if the token is in the output; 0 is off.
    pub presence_penalty: f32,
    /// Added to logits, `(token id, bias)`.
    pub logit_bias: Vec<(u32, f32)>,
    /// Counter-based: the same seed and prompt give the same answer whatever runs beside it.
    pub seed: Option<u64>,
    /// Report the chosen token's log-probability and so many alternatives.
    pub logprobs: Option<u8>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: None,
            logprobs: None,
        }
    }
}

/// Who may share cached prompt blocks with this request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheScope {
    /// Whole blocks within so many leading tokens are shared by the installation (an administrator's system prompt).
    pub shared_tokens: usize,
    /// Salt of the tenant from the next block on.
    pub tenant: u64,
}

/// One generation to run.
#[derive(Debug, Clone)]
pub struct EngineRequest {
    /// Prompt token ids, at least one.
    pub prompt: Vec<u32>,
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// Tokens to generate at most, at least 1.
    pub max_tokens: usize,
    /// End tokens are not chosen before so many tokens.
    pub min_tokens: usize,
    /// Token ids that end the answer; the end token is not part of the events but is counted as generated. Empty when
    /// the client asked to ignore end tokens.
    pub stop_token_ids: Vec<u32>,
    /// Key of fair queueing: one per user.
    pub user: u64,
    /// Share of the user in fair queueing; 1 is ordinary.
    pub weight: u32,
    /// Higher goes first; 0 is ordinary.
    pub priority: i32,
    /// Who may share its prompt blocks.
    pub scope: CacheScope,
    /// Ended with [`FinishReason::Deadline`] at this time.
    pub deadline: Option<Instant>,
    /// Report log-probabilities of the prompt's tokens, with so many alternatives each (skips prefix hits).
    pub prompt_logprobs: Option<u8>,
}

/// In whose turn a request waits and is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Key of fair queueing.
    pub user: u64,
    /// Share of the user.
    pub weight: u32,
    /// Higher goes first.
    pub priority: i32,
}

/// Tokens that a request used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TokenUsage {
    /// Prompt length.
    pub prompt_tokens: usize,
    /// Of these, tokens whose keys and values came from the prefix cache.
    pub cached_tokens: usize,
    /// Tokens generated, an end token included.
    pub completion_tokens: usize,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// A stop token.
    Stop,
    /// `max_tokens` reached.
    Length,
    /// The deadline passed.
    Deadline,
}

/// Why a running request failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The logits of this request were not finite.
    #[error("the model produced a value that is not a number")]
    NotFinite,
    /// The step that this request was in failed.
    #[error("the step failed: {0}")]
    Step(String),
    /// The engine has stopped.
    #[error("the engine has stopped")]
    Stopped,
}

/// Why a request was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// Prompt and `max_tokens` can never fit into the context or the KV pool.
    #[error("{needed} tokens are needed, {limit} is the most that fits")]
    TooLong {
        /// Prompt plus `max_tokens`.
        needed: usize,
        /// Tokens that fit.
        limit: usize,
    },
    /// The queue is full; try again after the given time.
    #[error("the queue is full")]
    QueueFull {
        /// Expected wait.
        retry_after: Duration,
    },
    /// The request makes no sense: an empty prompt, a token that is not in the vocabulary, no token to generate.
    #[error("{0}")]
    Invalid(String),
    /// The server is shutting down or the engine has failed.
    #[error("the engine takes no requests")]
    Closed,
}

/// What a running request reports, in this order: `Started`, `Prompt`?, `Token`*, then one of the last two.
#[derive(Debug, Clone, PartialEq)]
pub enum TokenEvent {
    /// Left the queue.
    Started {
        /// Time spent waiting.
        queue_wait: Duration,
        /// Prompt tokens found in the prefix cache.
        cached_tokens: usize,
    },
    /// Log-probabilities of the prompt, asked for by `prompt_logprobs`; none for the first token.
    Prompt(Vec<Option<TokenLogprob>>),
    /// One more token.
    Token {
        /// Its id.
        id: u32,
        /// Its log-probability, when asked for.
        logprob: Option<TokenLogprob>,
    },
    /// The answer is complete.
    Finished {
        /// Why.
        reason: FinishReason,
        /// What it used.
        usage: TokenUsage,
    },
    /// The answer ended early.
    Failed(EngineError),
}

/// The receiving end of one request. Dropping it cancels the request; its blocks are free at the next step.
#[derive(Debug)]
pub struct Generation {
    /// The request's name within its engine.
    pub id: u64,
    /// Requests ahead of this one when it was taken.
    pub queue_position: usize,
    /// Wait that the engine expected then.
    pub expected_wait: Duration,
    pub(super) events: mpsc::UnboundedReceiver<TokenEvent>,
    pub(super) ended: bool,
}

impl Generation {
    /// The next event; `None` after the last one. If the engine dies without a last event, that is
    /// `Failed(EngineError::Stopped)`: every request ends exactly once.
    pub async fn next(&mut self) -> Option<TokenEvent> {
        if self.ended {
            return None;
        }
        let event = self.events.recv().await.unwrap_or(TokenEvent::Failed(EngineError::Stopped));
        self.ended = matches!(event, TokenEvent::Finished { .. } | TokenEvent::Failed(_));
        Some(event)
    }
}
