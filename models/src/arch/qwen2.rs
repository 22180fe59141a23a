//! Qwen2 and 2.5 (Yang et al., 2024): Llama with biases on q, k and v.

use kernels::KvLayer;

use super::Block;
use crate::{
    Result,
    layers::{Attention, FeedForward, QkvBias, RmsNorm, Step},
    weights::Weights,
};

/// Pre-normed attention with biased q, k and v, and gated feed-forward network.
#[derive(Debug)]
pub(crate) struct Qwen2Block {
    attention_norm: RmsNorm,
    attention: Attention,
    qkv_bias: QkvBias,
    feed_forward_norm: RmsNorm,
    feed_forward: FeedForward,
}

impl Block for Qwen2Block {
    fn load(weights: &mut Weights, layer: usize) -> Result<Self> {
        Ok(Self {
            attention_norm: RmsNorm::load(weights, &format!("blk.{layer}.attn_norm.weight"))?,
            attention: Attention::load(weights, layer, None)?,
            qkv_bias: QkvBias::load(weights, layer)?,
            feed_forward_norm: RmsNorm::load(weights, &format!("blk.{layer}.ffn_norm.weight"))?,
            feed_forward: FeedForward::load(weights, layer)?,
        })
    }

    fn forward(&self, step: &Step, kv: &KvLayer) -> Result<()> {
        self.attention_norm.forward(step)?;
        self.attention.project(step)?;
        self.qkv_bias.forward(step)?;
        self.attention.attend(step, kv)?;
        self.feed_forward_norm.forward(step)?;
        self.feed_forward.forward(step)
    }
}
