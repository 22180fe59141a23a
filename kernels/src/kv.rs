//! The paged key/value cache of one layer, and the description of a step's sequences that attention works from.
//! Must not know who owns a block: ids come from above.

use candle_core::{DType, Device, Tensor};

use crate::Result;

/// Tokens in one block of the paged KV cache.
pub const BLOCK_SIZE: usize = 32;

/// Keys and values of one layer: two f16 tensors of shape `(num_blocks, num_kv_heads, BLOCK_SIZE, head_dim)`.
#[derive(Debug, Clone)]
pub struct KvLayer {
    /// Rotated keys.
    pub keys: Tensor,
    /// Values.
    pub values: Tensor,
}

impl KvLayer {
    /// A zeroed layer on `device`.
    pub fn new(num_blocks: usize, num_kv_heads: usize, head_dim: usize, device: &Device) -> Result<Self> {
        let shape = (num_blocks, num_kv_heads, BLOCK_SIZE, head_dim);
        Ok(Self { keys: Tensor::zeros(shape, DType::F16, device)?, values: Tensor::zeros(shape, DType::F16, device)? })
    }
}

/// One sequence's part of a step: `query_len` rows of the batch, starting at `query_start`, are its tokens at
/// positions `context_len - query_len .. context_len`.
///
/// Invariant: `block_table.len() * BLOCK_SIZE >= context_len`, and KV exists in those blocks for all positions before
/// the query (the step itself writes the query's).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// First row of this sequence in the batch.
    pub query_start: usize,
    /// Rows of this sequence in the batch, at least 1.
    pub query_len: usize,
    /// Tokens of the sequence once this step is done.
    pub context_len: usize,
    /// Block ids in the order of positions.
    pub block_table: Vec<u32>,
}

impl Span {
    /// The position of the span's first row.
    pub fn first_position(&self) -> usize {
        self.context_len - self.query_len
    }

    /// The slot (`block * BLOCK_SIZE + offset`) of a position in the cache.
    pub fn slot(&self, position: usize) -> usize {
        self.block_table[position / BLOCK_SIZE] as usize * BLOCK_SIZE + position % BLOCK_SIZE
    }
}
