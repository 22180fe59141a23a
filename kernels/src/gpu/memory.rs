//! How much of a card's memory operations take, told before anything is allocated.

use super::CardInfo;
use super::attention_memory::AttentionMemory;
use super::linear::{OPERAND_TOKENS, split_bytes};
use super::tiles::TILE_COLUMNS;
use crate::sampling::SamplerSizes;

/// What the driver keeps for a process, kernels and recorded steps included. An estimate; what is told at the start is
/// what is free before the program has taken any of it.
const DRIVER_BYTES: usize = 768 << 20;

/// The largest steps that a card works on.
#[derive(Debug, Clone, Copy)]
pub struct CardSteps {
    /// Rows of logits.
    pub max_logit_rows: usize,
    /// Columns of the widest product.
    pub max_columns: usize,
    /// Tokens of the vocabulary.
    pub vocab_size: usize,
}

impl CardInfo {
    /// Bytes that operations take for such steps, besides the tensors that they are called with.
    pub fn work_bytes(&self, steps: &CardSteps) -> usize {
        let CardSteps { max_logit_rows, max_columns, vocab_size } = *steps;
        let sizes = SamplerSizes { vocab: vocab_size, max_slots: max_logit_rows, max_rows: max_logit_rows };
        let gates = 2 * OPERAND_TOKENS * max_columns * size_of::<f32>();
        DRIVER_BYTES + gates + split_bytes(self) + AttentionMemory::bytes(self) + sizes.bytes()
    }

    /// Bytes of an operand, as [`crate::Compute::attended_rows`] makes them.
    pub fn operand_bytes(max_tokens: usize, columns: usize) -> usize {
        max_tokens.next_multiple_of(OPERAND_TOKENS) * columns.next_multiple_of(TILE_COLUMNS) * size_of::<u16>()
    }
}
