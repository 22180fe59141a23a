//! `usage` and log-probabilities as OpenAI's clients read them.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use crate::engine::TokenUsage;
use crate::generate::TokenText;

/// Tokens that a request used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, ToSchema)]
pub struct Usage {
    /// Tokens of the prompts.
    pub prompt_tokens: usize,
    /// Tokens of all answers.
    pub completion_tokens: usize,
    /// Their sum.
    pub total_tokens: usize,
    /// More about the prompts.
    pub prompt_tokens_details: PromptTokensDetails,
}

/// More about the prompts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, ToSchema)]
pub struct PromptTokensDetails {
    /// Tokens whose keys and values were in the prefix cache.
    pub cached_tokens: usize,
}

impl Usage {
    /// Sums answers; a prompt counts once, whatever number of choices it has.
    pub fn of(answers: &[TokenUsage], choices: usize) -> Self {
        let firsts = || answers.iter().step_by(choices.max(1));
        let prompt_tokens = firsts().map(|usage| usage.prompt_tokens).sum();
        let completion_tokens = answers.iter().map(|usage| usage.completion_tokens).sum();
        let cached_tokens = firsts().map(|usage| usage.cached_tokens).sum();
        Self {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens + completion_tokens,
            prompt_tokens_details: PromptTokensDetails { cached_tokens },
        }
    }
}

/// Log-probabilities of a chat answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatLogprobs {
    /// One entry per token.
    pub content: Vec<ChatToken>,
    /// Always null.
    #[schema(value_type = Option<Vec<ChatToken>>)]
    pub refusal: (),
}

/// A token of a chat answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatToken {
    /// The token as text.
    pub token: String,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// Its bytes; tokens may be parts of a character.
    pub bytes: Vec<u8>,
    /// The likeliest tokens at this place.
    pub top_logprobs: Vec<ChatAlternative>,
}

/// A token that could have stood there.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatAlternative {
    /// The token as text.
    pub token: String,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl ChatLogprobs {
    /// In chat form.
    pub fn new(tokens: Vec<TokenText>) -> Self {
        let alternative = |(token, bytes, logprob)| ChatAlternative { token, logprob: finite(logprob), bytes };
        let token = |token: TokenText| ChatToken {
            token: token.text,
            logprob: finite(token.logprob.unwrap_or(f32::NEG_INFINITY)),
            bytes: token.bytes,
            top_logprobs: token.top.into_iter().map(alternative).collect(),
        };
        Self { content: tokens.into_iter().map(token).collect(), refusal: () }
    }
}

/// Log-probabilities of a completion.
#[derive(Debug, Serialize, ToSchema)]
pub struct CompletionLogprobs {
    /// The tokens as text.
    pub tokens: Vec<String>,
    /// Natural logarithms of their probabilities; null for the first token of an echoed prompt.
    pub token_logprobs: Vec<Option<f32>>,
    /// The likeliest tokens at each place and the chosen one.
    pub top_logprobs: Vec<Option<BTreeMap<String, f32>>>,
    /// Where each token begins in the text, characters.
    pub text_offset: Vec<usize>,
}

impl CompletionLogprobs {
    /// In completion form; the first token begins at character `offset`, which moves on.
    pub fn new(tokens: Vec<TokenText>, offset: &mut usize) -> Self {
        let mut logprobs =
            Self { tokens: Vec::new(), token_logprobs: Vec::new(), top_logprobs: Vec::new(), text_offset: Vec::new() };
        for token in tokens {
            let chosen = token.logprob.map(|logprob| (token.text.clone(), finite(logprob)));
            let top = token.top.into_iter().map(|(text, _, logprob)| (text, finite(logprob)));
            logprobs.top_logprobs.push(chosen.is_some().then(|| top.chain(chosen).collect()));
            logprobs.token_logprobs.push(token.logprob.map(finite));
            logprobs.text_offset.push(*offset);
            *offset += token.text.chars().count();
            logprobs.tokens.push(token.text);
        }
        logprobs
    }
}

/// JSON has no infinity; OpenAI writes this for it.
fn finite(logprob: f32) -> f32 {
    if logprob.is_finite() { logprob } else { -9999.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_counts_once_for_all_its_choices() {
        let answer = |prompt_tokens, cached_tokens, completion_tokens| TokenUsage {
            prompt_tokens,
            cached_tokens,
            completion_tokens,
        };
        let usage = Usage::of(&[answer(10, 0, 3), answer(10, 8, 4), answer(20, 5, 1), answer(20, 16, 2)], 2);
        assert_eq!((usage.prompt_tokens, usage.completion_tokens, usage.total_tokens), (30, 10, 40));
        assert_eq!(usage.prompt_tokens_details.cached_tokens, 5);
    }
}
