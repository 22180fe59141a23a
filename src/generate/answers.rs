//! The answers to one request as they are read: live, or from the prompt cache. Dropping them leaves the run, which ends
//! when nobody is left.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::answer_text::TokenText;
use super::flight::{Place, Told};
use super::{CacheOutcome, GenerateError};
use crate::engine::TokenUsage;
use crate::limits::Rates;

/// Why an answer is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Finish {
    /// An end token or a stop string.
    Stop,
    /// `max_tokens` reached.
    Length,
}

/// One part of an answer, in this order: `Prompt`?, `Text`*, then `Done` or `Failed`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Piece {
    /// The prompt's tokens with their log-probabilities.
    Prompt(Vec<TokenText>),
    /// More text.
    Text {
        /// The text; may be empty while tokens are told.
        text: String,
        /// Tokens with log-probabilities, when asked for.
        tokens: Vec<TokenText>,
    },
    /// Complete.
    Done {
        /// Why.
        finish: Finish,
        /// What is counted: up to the token that completed a stop.
        usage: TokenUsage,
    },
    /// Ended early.
    #[serde(skip)]
    Failed(GenerateError),
}

/// The merged answers of all choices.
#[derive(Debug)]
pub struct Answers {
    /// What the request was told when it was taken.
    pub terms: Terms,
    source: Source,
}

/// What a request is told when it is taken.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// What the prompt cache did.
    pub cache: CacheOutcome,
    /// How old an answer from the cache is.
    pub age: Option<Duration>,
    /// What is left of the limits.
    pub rates: Rates,
    /// Requests ahead when it was taken.
    pub queue_position: usize,
    /// Wait expected then.
    pub expected_wait: Duration,
}

#[derive(Debug)]
enum Source {
    Live {
        receiver: mpsc::UnboundedReceiver<Told>,
        deadline: Instant,
        /// Leaves the run at last.
        _place: Place,
    },
    Stored(VecDeque<Told>),
    Over,
}

impl Answers {
    pub(super) fn live(terms: Terms, receiver: mpsc::UnboundedReceiver<Told>, place: Place, deadline: Instant) -> Self {
        Self { terms, source: Source::Live { receiver, deadline, _place: place } }
    }

    pub(super) fn stored(terms: Terms, told: Vec<Told>) -> Self {
        Self { terms, source: Source::Stored(told.into()) }
    }

    /// The next piece of any choice; `None` after the last piece of the last one, when all is settled.
    pub async fn next(&mut self) -> Option<(usize, Piece)> {
        match &mut self.source {
            Source::Live { receiver, deadline, .. } => {
                let told = tokio::time::timeout_at((*deadline).into(), receiver.recv()).await;
                told.unwrap_or_else(|_| {
                    self.source = Source::Over;
                    Some((0, Piece::Failed(GenerateError::Deadline)))
                })
            }
            Source::Stored(told) => told.pop_front(),
            Source::Over => None,
        }
    }
}
