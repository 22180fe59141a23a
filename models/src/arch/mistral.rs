//! Mistral (Jiang et al., 2023): Llama whose attention may see only a sliding window of the latest positions.

use kernels::KvLayer;

use super::Block;
use crate::{
    Result,
    layers::{Attention, FeedForward, RmsNorm, Step},
    weights::Weights,
};

/// As Llama's block, with windowed attention where the file states a window.
#[derive(Debug)]
pub(crate) struct MistralBlock {
    attention_norm: RmsNorm,
    attention: Attention,
    feed_forward_norm: RmsNorm,
    feed_forward: FeedForward,
}

impl Block for MistralBlock {
    fn load(weights: &mut Weights, layer: usize) -> Result<Self> {
        let window = weights.config().sliding_window;
        Ok(Self {
            attention_norm: RmsNorm::load(weights, &format!("blk.{layer}.attn_norm.weight"))?,
            attention: Attention::load(weights, layer, window)?,
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
