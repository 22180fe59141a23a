//! What a caller asks of the model, in text and options; nothing here is resolved yet.

use serde_json::Value as Json;

use crate::manifest::SamplingDefaults;

/// What the answer follows.
#[derive(Debug, Clone, PartialEq)]
pub enum Prompt {
    /// Chat messages, objects with `role` and `content`: rendered by the model's template.
    Chat(Vec<Json>),
    /// Plain text, continued as it stands.
    Text(String),
    /// Token ids, continued as they stand.
    Tokens(Vec<u32>),
}

impl Prompt {
    /// Bytes of text to be tokenised, where they are easily counted.
    pub(super) fn bytes(&self) -> Option<usize> {
        match self {
            Self::Chat(messages) => messages.iter().map(|message| Some(message["content"].as_str()?.len() + 16)).sum(),
            Self::Text(text) => Some(text.len()),
            Self::Tokens(_) => Some(0),
        }
    }
}

/// One prompt and how it is to be answered. What is absent comes from the model's manifest, its file, or the API's
/// defaults, in this order.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateRequest {
    /// What the answer follows.
    pub prompt: Prompt,
    /// Sampling parameters that the request states.
    pub sampling: SamplingDefaults,
    /// Makes the answer reproducible.
    pub seed: Option<u64>,
    /// `(token id, bias)`.
    pub logit_bias: Vec<(u32, f32)>,
    /// Tokens at most; absent: the configured default or the room that is left.
    pub max_tokens: Option<usize>,
    /// End tokens are not chosen before so many tokens.
    pub min_tokens: usize,
    /// End tokens do not end the answer.
    pub ignore_eos: bool,
    /// The answer ends before any of these.
    pub stop: Vec<String>,
    /// Report log-probabilities, with so many alternatives.
    pub logprobs: Option<u8>,
    /// Report the prompt's log-probabilities too.
    pub prompt_logprobs: Option<u8>,
    /// Tell nothing but the prompt.
    pub only_prompt: bool,
    /// Higher goes first.
    pub priority: i32,
}

impl GenerateRequest {
    /// A request with nothing stated but its prompt.
    pub fn new(prompt: Prompt) -> Self {
        Self {
            prompt,
            sampling: SamplingDefaults::default(),
            seed: None,
            logit_bias: Vec::new(),
            max_tokens: None,
            min_tokens: 0,
            ignore_eos: false,
            stop: Vec::new(),
            logprobs: None,
            prompt_logprobs: None,
            only_prompt: false,
            priority: 0,
        }
    }
}
