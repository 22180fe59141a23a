//! What the sampler on the card takes and gives, as plain data. The meaning of every parameter is that of the engine's
//! own sampler, which is the reference: penalties, biases and held-back stops change the logits, then temperature, then
//! `top_k`, `top_p`, `min_p` and `typical_p` in this order, then a draw in the order of ids.

pub use crate::gpu::sample::{DeviceSampler, SampleTicket, SamplerSizes};

/// Alternatives that can be reported with a token.
pub const MAX_ALTERNATIVES: u8 = 20;

/// Marks a pending id; `PENDING` in `cuda/embed.cu`.
const PENDING: u32 = 1 << 31;

/// Stands among a step's ids for the last token that was sampled in a slot, which only the card knows.
pub const fn pending(slot: usize) -> u32 {
    PENDING | slot as u32
}

/// The slot of a pending id.
pub const fn pending_slot(id: u32) -> Option<usize> {
    if id & PENDING == 0 { None } else { Some((id & !PENDING) as usize) }
}

/// How the tokens of one sequence are chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SamplerParams<'a> {
    /// Below 1e-5 the first of the largest logits is taken.
    pub temperature: f32,
    /// Keep the k most likely tokens; 0 is off.
    pub top_k: u32,
    /// Keep the best tokens that have this share of the probability; 1 is off.
    pub top_p: f32,
    /// Keep tokens at least this share as likely as the best; 0 is off.
    pub min_p: f32,
    /// Keep the share of the probability whose surprise is nearest to the entropy; 1 is off.
    pub typical_p: f32,
    /// Divides positive and multiplies negative logits of tokens in prompt or output; 1 is off.
    pub repetition_penalty: f32,
    /// Subtracted per occurrence in the output; 0 is off.
    pub frequency_penalty: f32,
    /// Subtracted once if the token is in the output; 0 is off.
    pub presence_penalty: f32,
    /// Added to logits, `(token id, bias)`.
    pub logit_bias: &'a [(u32, f32)],
    /// Ids that are not chosen before `min_tokens` tokens.
    pub stop_token_ids: &'a [u32],
    /// Tokens before the first of `stop_token_ids`.
    pub min_tokens: usize,
    /// With the number of a token in its answer this gives the draw.
    pub seed: u64,
    /// Report the log-probabilities of the chosen token and of so many alternatives, at most [`MAX_ALTERNATIVES`].
    pub logprobs: Option<u8>,
}

impl Default for SamplerParams<'_> {
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
            logit_bias: &[],
            stop_token_ids: &[],
            min_tokens: 0,
            seed: 0,
            logprobs: None,
        }
    }
}

/// What rows of a step's logits are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SampleTask<'a> {
    /// The sequence.
    pub slot: usize,
    /// Its first row of the step's logits.
    pub first_row: usize,
    /// What to do with it.
    pub kind: SampleKind<'a>,
}

/// What to do with a row and those behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SampleKind<'a> {
    /// Choose a token from the row, and from the next one while the token is the one drafted there.
    Sample {
        /// The tokens that the rows behind the first were computed from.
        drafts: &'a [u32],
        /// Row of the step's masks for the first row; the next one's is the next.
        first_mask: Option<usize>,
    },
    /// Tell how likely a token of the prompt was.
    PromptLogprob {
        /// The token.
        token: u32,
        /// Alternatives to report, at most [`MAX_ALTERNATIVES`].
        alternatives: u8,
    },
}

/// A token's log-probability by the model's own logits, and the likeliest tokens at its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Logprob {
    /// Natural logarithm of the probability.
    pub logprob: f32,
    /// `(token id, logprob)`, likeliest first, of equal ones the lower id.
    pub top: Vec<(u32, f32)>,
}

/// A token that was chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct SampledToken {
    /// Its id.
    pub id: u32,
    /// Its log-probability, when the sequence asked.
    pub logprob: Option<Logprob>,
}

/// What came of a task.
#[derive(Debug, Clone, PartialEq)]
pub enum SampleOutcome {
    /// So many entries of [`SampleResults::tokens`], one more than drafts were right.
    Tokens(usize),
    /// Of a [`SampleKind::PromptLogprob`].
    Logprob(Logprob),
    /// The logits of the first row are not finite.
    NotFinite,
    /// The mask of the first row allows no token.
    NothingAllowed,
}

/// What came of a step.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SampleResults {
    /// One per task.
    pub outcomes: Vec<SampleOutcome>,
    /// The tokens chosen, one task's after the other's.
    pub tokens: Vec<SampledToken>,
}
