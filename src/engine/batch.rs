//! What crosses the seam to an executor: one step's rows on the way in, sampled tokens on the way out. Plain data.
//!
//! A running sequence is known to the executor by its slot, a small number that is its own until it is listed in
//! `ended`. Tokens and blocks are sent once, when they are new: a step's size does not grow with what was generated.
//! Where steps overlap, a row's token may be one that the step before it samples: it is never sent at all.

use std::sync::Arc;

pub use kernels::sampling::SampledToken;

use super::{SamplingParams, TokenLogprob};

/// Everything that choosing a sequence's tokens depends on, besides its logits.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingSpec {
    /// The request's parameters.
    pub params: SamplingParams,
    /// The request's seed, or one that the engine drew.
    pub seed: u64,
    /// End tokens are not chosen before so many tokens.
    pub min_tokens: usize,
    /// Ids that end the answer.
    pub stop_token_ids: Vec<u32>,
    /// Alternatives to report with each prompt token.
    pub prompt_logprobs: Option<u8>,
}

/// A sequence that takes a slot.
#[derive(Debug, Clone)]
pub struct SequenceStart {
    /// Its slot until it ends.
    pub slot: usize,
    /// How its tokens are chosen.
    pub spec: Arc<SamplingSpec>,
    /// Prompt, and what had been generated before a preemption.
    pub tokens: Vec<u32>,
    /// Tokens of the prompt.
    pub prompt_len: usize,
}

/// Rows of one sequence's logits that a step needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogitRows {
    /// The prompt is not at its end: nothing is sampled.
    None,
    /// So many last rows, to sample from: the last known token's, and one of each draft behind it.
    Last(usize),
    /// Every row, for log-probabilities of the prompt; the last one is sampled from if `sample`.
    All {
        /// The chunk reaches the end of the sequence.
        sample: bool,
    },
}

impl LogitRows {
    /// Whether a token is sampled.
    pub fn samples(self) -> bool {
        matches!(self, Self::Last(_) | Self::All { sample: true })
    }

    /// Rows whose tokens are guesses.
    pub fn num_drafts(self) -> usize {
        if let Self::Last(rows) = self { rows - 1 } else { 0 }
    }
}

/// Stands in [`StepBatch::token_ids`] for a token that only the executor knows. Of every vocabulary, so that a kernel
/// which reads it before it is replaced stays inside its table.
pub const PENDING_TOKEN: u32 = 0;

/// One sequence's part of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SequenceStep {
    /// Which sequence.
    pub slot: usize,
    /// Position of its first row.
    pub first_position: usize,
    /// Its rows of the step, drafts included.
    pub num_tokens: usize,
    /// The token of its one row is the one that its slot's latest step samples, which was submitted and is not yet
    /// collected: the executor takes it from its own memory, [`PENDING_TOKEN`] stands in its place.
    ///
    /// Invariant: `num_tokens` is 1, and that step samples from exactly one row of the slot. If it turns out to have
    /// sampled nothing, because its logits were not finite or because it failed, then nobody looks at what this row
    /// brings; it may have any token, and must not make its own step fail.
    pub is_pending: bool,
    /// Blocks that its table grew by.
    pub num_new_blocks: usize,
    /// Logits that are wanted.
    pub logits: LogitRows,
}

impl SequenceStep {
    /// Log-probabilities of prompt tokens that it brings: one of the token after each row, and the prompt's last has none
    /// after it.
    pub fn num_prompt_logprobs(&self) -> usize {
        if let LogitRows::All { sample } = self.logits { self.num_tokens - usize::from(sample) } else { 0 }
    }
}

/// One step. The sequences' tokens and new blocks lie one after the other in the order of `sequences`.
///
/// Drafts are tokens that the sequence may turn out to have. A draft's row is sampled from if it is the token that was
/// sampled from the row before; what the rows behind the first wrong one write into the KV cache is written again later.
///
/// Invariant: when a step begins on the device, after all those submitted before it, KV exists for all positions of a
/// sequence before its `first_position`.
#[derive(Debug, Clone, Default)]
pub struct StepBatch {
    /// Slots whose sequences are gone; to be forgotten before `started` is read. Every step with a row of them has been
    /// collected: what an executor keeps by slot is needed by no step in flight.
    pub ended: Vec<usize>,
    /// Sequences new in this step; each has an entry in `sequences`.
    pub started: Vec<SequenceStart>,
    /// The parts of this step.
    pub sequences: Vec<SequenceStep>,
    /// Token ids, `(num_tokens)`.
    pub token_ids: Vec<u32>,
    /// New entries of the block tables.
    pub new_blocks: Vec<u32>,
}

impl StepBatch {
    /// Empties the batch, keeping its memory.
    pub fn clear(&mut self) {
        self.ended.clear();
        self.started.clear();
        self.sequences.clear();
        self.token_ids.clear();
        self.new_blocks.clear();
    }
}

/// What a step brought one sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SequenceOutput {
    /// So many entries of [`StepOutput::tokens`]; 0 inside a prompt, else one more than drafts were right.
    Tokens(usize),
    /// The logits were not finite.
    NotFinite,
}

/// What a step brought.
#[derive(Debug, Clone, Default)]
pub struct StepOutput {
    /// One entry per entry of [`StepBatch::sequences`].
    pub sequences: Vec<SequenceOutput>,
    /// The sampled tokens, one sequence after the other.
    pub tokens: Vec<SampledToken>,
    /// For each sequence with [`LogitRows::All`], one after the other: the log-probability of the token after each
    /// row, for rows before the prompt's last.
    pub prompt_logprobs: Vec<TokenLogprob>,
}
