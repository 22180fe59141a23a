//! Complete answers as the prompt cache keeps them, so that they can be told again piece by piece.

use serde::{Deserialize, Serialize};

use super::flight::Told;
use super::{Finish, Piece};
use crate::engine::TokenUsage;

/// All answers of a request.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    answers: Vec<Answer>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Answer {
    pieces: Vec<String>,
    /// The answer reached its limit of tokens.
    cut: bool,
    prompt_tokens: usize,
    completion_tokens: usize,
}

impl Record {
    /// Of everything that a run has told; none where it is not complete, or more than text.
    pub fn new(told: &[Told], answers: usize) -> Option<Self> {
        let mut record = Self { answers: Vec::new() };
        record.answers.resize_with(answers, Answer::default);
        let mut complete = 0;
        for (index, piece) in told {
            let answer = record.answers.get_mut(*index)?;
            match piece {
                Piece::Text { text, tokens } if tokens.is_empty() => answer.pieces.push(text.clone()),
                Piece::Done { finish, usage } => {
                    complete += 1;
                    answer.cut = *finish == Finish::Length;
                    answer.prompt_tokens = usage.prompt_tokens;
                    answer.completion_tokens = usage.completion_tokens;
                }
                _ => return None,
            }
        }
        (complete == answers).then_some(record)
    }

    /// The pieces again. All of a prompt comes from the cache now.
    pub fn tell(self) -> Vec<Told> {
        let mut told = Vec::new();
        for (index, answer) in self.answers.into_iter().enumerate() {
            let text = |text| (index, Piece::Text { text, tokens: Vec::new() });
            told.extend(answer.pieces.into_iter().map(text));
            let usage = TokenUsage {
                prompt_tokens: answer.prompt_tokens,
                cached_tokens: answer.prompt_tokens,
                completion_tokens: answer.completion_tokens,
            };
            let finish = if answer.cut { Finish::Length } else { Finish::Stop };
            told.push((index, Piece::Done { finish, usage }));
        }
        told
    }

    /// What each answer is told to have used.
    pub fn usages(&self) -> Vec<TokenUsage> {
        let usage = |answer: &Answer| TokenUsage {
            prompt_tokens: answer.prompt_tokens,
            cached_tokens: answer.prompt_tokens,
            completion_tokens: answer.completion_tokens,
        };
        self.answers.iter().map(usage).collect()
    }
}
