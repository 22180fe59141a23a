//! What a step looks like to a model: rows of tokens, the spans they belong to, and the paged cache.

use kernels::{Compute, KvLayer, Span};

use crate::{ModelConfig, Result};

/// The rows of one step, of all its sequences.
#[derive(Debug, Clone, Default)]
pub struct ForwardBatch {
    /// Token ids, `(num_tokens)`.
    pub token_ids: Vec<u32>,
    /// The sequences' parts; together they cover all rows, in order.
    pub spans: Vec<Span>,
    /// Rows whose logits are wanted, ascending.
    pub logit_rows: Vec<u32>,
}

/// Keys and values of every layer.
#[derive(Debug, Clone)]
pub struct KvCache {
    /// One entry per transformer block.
    pub layers: Vec<KvLayer>,
    /// Blocks in every layer.
    pub num_blocks: usize,
}

impl KvCache {
    /// A zeroed cache of `num_blocks` blocks per layer.
    pub fn new(config: &ModelConfig, num_blocks: usize, compute: &Compute) -> Result<Self> {
        let layer = |_| KvLayer::new(num_blocks, config.num_kv_heads, config.head_dim, compute.device());
        let layers = (0..config.num_layers).map(layer).collect::<kernels::Result<_>>()?;
        Ok(Self { layers, num_blocks })
    }

    /// Bytes that one block takes over all layers, keys and values.
    pub fn block_bytes(config: &ModelConfig) -> usize {
        config.num_layers * 2 * config.num_kv_heads * config.head_dim * kernels::BLOCK_SIZE * 2
    }
}
