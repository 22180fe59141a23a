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

    /// Makes q, k and v of `hidden`, q and k rotated, and writes k and v into `kv`.
    pub(super) fn store(&self, step: &Step, kv: &KvLayer) -> Result<()> {
        self.attention.project(step, &self.attention_norm)?;
        self.variant.adjust_qkv(step)?;
        step.store(kv)
    }

    /// Adds attention of q to all that `kv` holds, then the feed-forward network, to `hidden`, whose norm `next` is taken
    /// then.
    pub(super) fn attend(&self, step: &Step, kv: &KvLayer, next: Option<&RmsNorm>) -> Result<()> {
        self.attention.attend(step, kv, &self.feed_forward_norm)?;
        self.feed_forward.forward(step, &self.feed_forward_norm, next)
    }

    /// The norm that the block begins with.
    pub(super) fn norm(&self) -> &RmsNorm {
        &self.attention_norm
    }
}
