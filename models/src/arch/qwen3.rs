//! Qwen3 (Yang et al., 2025): Llama whose query and key heads are normed before they are rotated.

use kernels::KvLayer;

use super::Block;
use crate::{
    Result,
    layers::{Attention, FeedForward, HeadNorm, RmsNorm, Step},
    weights::Weights,
};

/// Pre-normed attention with normed heads of q and k, and gated feed-forward network.
#[derive(Debug)]
pub(crate) struct Qwen3Block {
    attention_norm: RmsNorm,
    attention: Attention,
    query_norm: HeadNorm,
    key_norm: HeadNorm,
    feed_forward_norm: RmsNorm,
    feed_forward: FeedForward,
}

impl Block for Qwen3Block {
    fn load(weights: &mut Weights, layer: usize) -> Result<Self> {
        Ok(Self {
            attention_norm: RmsNorm::load(weights, &format!("blk.{layer}.attn_norm.weight"))?,
            attention: Attention::load(weights, layer, None)?,
            query_norm: HeadNorm::load_query(weights, layer)?,
            key_norm: HeadNorm::load_key(weights, layer)?,
            feed_forward_norm: RmsNorm::load(weights, &format!("blk.{layer}.ffn_norm.weight"))?,
            feed_forward: FeedForward::load(weights, layer)?,
        })
    }

    fn forward(&self, step: &Step, kv: &KvLayer) -> Result<()> {
        self.attention_norm.forward(step)?;
        self.attention.project(step)?;
        self.query_norm.forward(step)?;
        self.key_norm.forward(step)?;
        self.attention.attend(step, kv)?;
        self.feed_forward_norm.forward(step)?;
        self.feed_forward.forward(step)
    }
}
