//! Llama 2, 3, 3.1 and later (Touvron et al., 2023), and the models of their shape: SmolLM2, Saiga.

use kernels::KvLayer;

use super::Block;
use crate::{
    Result,
    layers::{Attention, FeedForward, RmsNorm, Step},
    weights::Weights,
};

/// Pre-normed attention and gated feed-forward network.
#[derive(Debug)]
pub(crate) struct LlamaBlock {
    attention_norm: RmsNorm,
    attention: Attention,
    feed_forward_norm: RmsNorm,
    feed_forward: FeedForward,
}

impl Block for LlamaBlock {
    fn load(weights: &mut Weights, layer: usize) -> Result<Self> {
        Ok(Self {
            attention_norm: RmsNorm::load(weights, &format!("blk.{layer}.attn_norm.weight"))?,
            attention: Attention::load(weights, layer, None)?,
            feed_forward_norm: RmsNorm::load(weights, &format!("blk.{layer}.ffn_norm.weight"))?,
            feed_forward: FeedForward::load(weights, layer)?,
        })
    }

    fn forward(&self, step: &Step, kv: &KvLayer) -> Result<()> {
        self.attention_norm.forward(step)?;
        self.attention.project(step)?;
        self.attention.attend(step, kv)?;
        self.feed_forward_norm.forward(step)?;
        self.feed_forward.forward(step)
    }
}
