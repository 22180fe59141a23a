//! Why the model did not answer.

use std::time::Duration;

use crate::engine::{EngineError, SubmitError};
use crate::ledger::{Account, LedgerError};
use crate::limits::Refusal;
use crate::resilience::BreakerOpen;
use crate::store::Moment;
use crate::text::TextError;

/// A generation that was refused or failed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum GenerateError {
    /// Prompt and answer do not fit.
    #[error("{prompt} prompt tokens and {completion} for the answer do not fit into {limit}")]
    ContextLength {
        /// Tokens that fit.
        limit: usize,
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens asked for, at least 1.
        completion: usize,
    },
    /// The prompt has no token.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// A token id of the prompt is outside the vocabulary.
    #[error("token {id} is outside the vocabulary of {vocabulary}")]
    PromptToken {
        /// The id.
        id: u32,
        /// Ids that exist.
        vocabulary: usize,
    },
    /// A token id of the bias is outside the vocabulary.
    #[error("token {id} is outside the vocabulary of {vocabulary}")]
    BiasToken {
        /// The id.
        id: u32,
        /// Ids that exist.
        vocabulary: usize,
    },
    /// `min_tokens` is above `max_tokens`.
    #[error("min_tokens is above max_tokens")]
    MinTokens,
    /// The template refused the messages.
    #[error("{0}")]
    Template(String),
    /// The text or the stop strings cannot be used.
    #[error("{0}")]
    Text(String),
    /// A limit is reached.
    #[error("a limit is reached")]
    Limited(Box<Refusal>),
    /// The balance or a budget cannot pay for this.
    #[error("{account} cannot pay for this")]
    Short {
        /// Which.
        account: Account,
        /// When it is full again; never by itself when none.
        resets_at: Option<Moment>,
    },
    /// The idempotency key was used for another request.
    #[error("the idempotency key belongs to another request")]
    Reused,
    /// The ledger does not answer, and nothing may run without it.
    #[error("the ledger does not answer")]
    Ledger,
    /// The queue is full.
    #[error("the queue is full")]
    QueueFull {
        /// Expected wait.
        retry_after: Duration,
    },
    /// The model failed lately and is left alone.
    #[error("the model failed lately and is left alone")]
    Resting {
        /// When asking again may help.
        retry_after: Duration,
    },
    /// The engine takes no requests.
    #[error("the engine takes no requests")]
    Closed,
    /// The answer took too long.
    #[error("the answer took longer than allowed")]
    Deadline,
    /// The engine failed on this request.
    #[error("{0}")]
    Engine(EngineError),
    /// A bug: a task ended without a word.
    #[error("the answer ended without a reason")]
    Lost,
}

impl From<LedgerError> for GenerateError {
    fn from(error: LedgerError) -> Self {
        match error {
            LedgerError::Short { account, resets_at, .. } => Self::Short { account, resets_at },
            other => {
                tracing::error!("{other}");
                Self::Ledger
            }
        }
    }
}

impl From<BreakerOpen> for GenerateError {
    fn from(open: BreakerOpen) -> Self {
        Self::Resting { retry_after: open.retry_in }
    }
}

impl From<TextError> for GenerateError {
    fn from(error: TextError) -> Self {
        match error {
            TextError::Render(message) => Self::Template(message),
            other => Self::Text(other.to_string()),
        }
    }
}

impl GenerateError {
    /// The kind of reason, for traces.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Limited(_) => "rate_limit",
            Self::Short { .. } => "insufficient_quota",
            Self::Ledger => "ledger",
            Self::QueueFull { .. } => "queue_full",
            Self::Resting { .. } | Self::Closed | Self::Engine(_) | Self::Lost => "unavailable",
            Self::Deadline => "timeout",
            _ => "invalid_request",
        }
    }

    /// The engine's refusal of a prompt of `prompt` tokens.
    pub(super) fn refused(error: SubmitError, prompt: usize) -> Self {
        match error {
            SubmitError::TooLong { needed, limit } => {
                Self::ContextLength { limit, prompt, completion: needed.saturating_sub(prompt) }
            }
            SubmitError::QueueFull { retry_after } => Self::QueueFull { retry_after },
            SubmitError::Invalid(message) => Self::Text(message),
            SubmitError::Closed => Self::Closed,
        }
    }
}
