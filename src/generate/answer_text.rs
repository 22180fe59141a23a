//! The text side of one answer: tokens become characters, stop strings end it, and log-probabilities wait for the text
//! of their token, so that nothing past a stop string is told.

use std::collections::VecDeque;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::engine::TokenLogprob;
use crate::text::{Detokenizer, StopStrings, Tokenizer};

/// A token with its log-probability, in text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenText {
    /// The token as text for people.
    pub text: String,
    /// The bytes it writes.
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability; none for the first token of a prompt.
    pub logprob: Option<f32>,
    /// Alternatives, likeliest first.
    pub top: Vec<(String, Vec<u8>, f32)>,
}

impl TokenText {
    pub(super) fn new(tokenizer: &Tokenizer, id: u32, logprob: Option<&TokenLogprob>) -> Self {
        let alternative =
            |&(id, logprob): &(u32, f32)| (tokenizer.piece(id), tokenizer.token_bytes(id).to_vec(), logprob);
        Self {
            text: tokenizer.piece(id),
            bytes: tokenizer.token_bytes(id).to_vec(),
            logprob: logprob.map(|l| l.logprob),
            top: logprob.map(|l| l.top.iter().map(alternative).collect()).unwrap_or_default(),
        }
    }
}

/// What a token added.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Step {
    /// Text that may be shown.
    pub text: String,
    /// Tokens whose text begins in what has been shown so far.
    pub tokens: Vec<TokenText>,
    /// A stop string is complete: the answer ends here.
    pub stopped: bool,
}

/// The state of one answer's text.
#[derive(Debug)]
pub(super) struct AnswerText {
    tokenizer: Arc<Tokenizer>,
    detokenizer: Detokenizer,
    stops: StopStrings,
    /// Bytes out of the detokenizer.
    decoded: usize,
    /// Bytes shown.
    shown: usize,
    /// Tokens not told yet, each with the place in the decoded text where it begins.
    waiting: VecDeque<(usize, TokenText)>,
}

impl AnswerText {
    pub fn new(tokenizer: Arc<Tokenizer>, stops: StopStrings, continuing: bool) -> Self {
        let detokenizer = if continuing {
            Detokenizer::continuing(Arc::clone(&tokenizer))
        } else {
            Detokenizer::new(Arc::clone(&tokenizer))
        };
        Self { tokenizer, detokenizer, stops, decoded: 0, shown: 0, waiting: VecDeque::new() }
    }

    /// Adds a token.
    pub fn push(&mut self, id: u32, logprob: Option<&TokenLogprob>) -> Step {
        if logprob.is_some() {
            self.waiting.push_back((self.decoded, TokenText::new(&self.tokenizer, id, logprob)));
        }
        let text = self.detokenizer.push(id);
        self.decoded += text.len();
        let step = self.stops.push(&text);
        self.shown += step.text.len();
        let stopped = step.matched.is_some();
        Step { text: step.text, tokens: self.told(), stopped }
    }

    /// Ends the answer for another reason than a stop string.
    pub fn finish(&mut self) -> Step {
        let tail = self.detokenizer.finish();
        let step = self.stops.push(&tail);
        let stopped = step.matched.is_some();
        let mut text = step.text;
        if !stopped {
            text.push_str(&self.stops.finish());
        }
        self.shown += text.len();
        let tokens = if stopped { self.told() } else { self.waiting.drain(..).map(|(_, token)| token).collect() };
        Step { text, tokens, stopped }
    }

    fn told(&mut self) -> Vec<TokenText> {
        let count = self.waiting.iter().take_while(|(start, _)| *start < self.shown).count();
        self.waiting.drain(..count).map(|(_, token)| token).collect()
    }
}
