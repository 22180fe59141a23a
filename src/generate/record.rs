//! Complete answers as the prompt cache keeps them, so that they can be told again piece by piece.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Piece;
use super::bill::total;
use super::flight::Told;
use crate::engine::TokenUsage;

/// All answers of a request.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    /// What was asked, in short.
    pub identity: String,
    told: Vec<Told>,
}

impl Record {
    /// Of everything that a run has told; none where it is not complete.
    pub fn new(identity: &str, told: Vec<Told>, answers: usize) -> Option<Self> {
        let done = told.iter().filter(|(_, piece)| matches!(piece, Piece::Done { .. })).count();
        let failed = told.iter().any(|(_, piece)| matches!(piece, Piece::Failed(_)));
        (done == answers && !failed).then(|| Self { identity: identity.to_owned(), told })
    }

    /// The pieces again. All of a prompt comes from the cache now.
    pub fn tell(mut self) -> Vec<Told> {
        for (_, piece) in &mut self.told {
            if let Piece::Done { usage, .. } = piece {
                usage.cached_tokens = usage.prompt_tokens;
            }
        }
        self.told
    }

    /// The answers, each in one piece.
    pub fn texts(&self) -> Arc<[String]> {
        let mut texts: Vec<String> = Vec::new();
        for (index, piece) in &self.told {
            if let Piece::Text { text, .. } = piece {
                texts.resize(texts.len().max(index + 1), String::new());
                texts[*index].push_str(text);
            }
        }
        texts.into()
    }

    /// The same for another prompt, of so many tokens.
    pub fn lent_to(mut self, prompt_tokens: usize) -> Self {
        for (_, piece) in &mut self.told {
            if let Piece::Done { usage, .. } = piece {
                usage.prompt_tokens = prompt_tokens;
            }
        }
        self
    }

    /// The first answer, in one piece.
    pub fn text(&self) -> String {
        self.texts().first().cloned().unwrap_or_default()
    }

    /// What all answers together are told to have used, `choices` to each prompt.
    pub fn usage(&self, choices: usize) -> TokenUsage {
        let mut ends: Vec<(usize, TokenUsage)> = self
            .told
            .iter()
            .filter_map(|(index, piece)| match piece {
                Piece::Done { usage, .. } => Some((*index, *usage)),
                _ => None,
            })
            .collect();
        ends.sort_unstable_by_key(|(index, _)| *index);
        let usages: Vec<TokenUsage> = ends.into_iter().map(|(_, usage)| usage).collect();
        total(&usages, choices)
    }
}
