//! Qwen3 (Yang et al., 2025): every head of q and k is normed.

use candle_core::Tensor;

use super::Variant;
use crate::{Result, layers::Step, weights::Weights};

#[derive(Debug)]
pub(crate) struct Qwen3 {
    /// f32 `(head_dim)`.
    q_norm: Tensor,
    /// f32 `(head_dim)`.
    k_norm: Tensor,
    eps: f32,
    num_heads: usize,
    num_kv_heads: usize,
}

impl Variant for Qwen3 {
    fn load(weights: &mut Weights, layer: usize) -> Result<Self> {
        let config = weights.config();
        Ok(Self {
            q_norm: weights.vector(&format!("blk.{layer}.attn_q_norm.weight"))?,
            k_norm: weights.vector(&format!("blk.{layer}.attn_k_norm.weight"))?,
            eps: config.rms_norm_eps,
            num_heads: config.num_heads,
            num_kv_heads: config.num_kv_heads,
        })
    }

    fn adjust_qkv(&self, step: &Step) -> Result<()> {
        step.compute.head_norm(&step.qkv, 0, self.num_heads, &self.q_norm, self.eps)?;
        Ok(step.compute.head_norm(&step.qkv, self.num_heads, self.num_kv_heads, &self.k_norm, self.eps)?)
    }
}
