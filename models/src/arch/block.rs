//! The transformer block that all architectures share: pre-normed attention and a pre-normed gated feed-forward network.

use kernels::KvLayer;

use super::Variant;
use crate::{
    Result,
    layers::{Attention, FeedForward, RmsNorm, Step},
    weights::Weights,
};

/// One block, with what its architecture adds.
#[derive(Debug)]
pub(crate) struct Block<V> {
    attention_norm: RmsNorm,
    attention: Attention,
    variant: V,
    feed_forward_norm: RmsNorm,
    feed_forward: FeedForward,
}

impl<V: Variant> Block<V> {
    /// Reads and packs the weights of block `layer`.
    pub(super) fn load(weights: &mut Weights, layer: usize) -> Result<Self> {
        Ok(Self {
            attention_norm: RmsNorm::load(weights, &format!("blk.{layer}.attn_norm.weight"))?,
            attention: Attention::load(weights, layer)?,
            variant: V::load(weights, layer)?,
            feed_forward_norm: RmsNorm::load(weights, &format!("blk.{layer}.ffn_norm.weight"))?,
            feed_forward: FeedForward::load(weights, layer)?,
        })
    }

    /// Adds this block's attention and feed-forward network to `step.hidden`, writing the step's keys and values into
    /// `kv`.
    pub(super) fn forward(&self, step: &Step, kv: &KvLayer) -> Result<()> {
        self.attention_norm.forward(step)?;
        self.attention.project(step)?;
        self.variant.adjust_qkv(step)?;
        step.store(kv)?;
        self.attention.attend(step, kv)?;
        self.feed_forward_norm.forward(step)?;
        self.feed_forward.forward(step)
    }
}
