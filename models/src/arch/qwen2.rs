//! Qwen2 and 2.5 (Yang et al., 2024): biases on q, k and v.

use candle_core::Tensor;

use super::Variant;
use crate::{Result, layers::Step, weights::Weights};

#[derive(Debug)]
pub(crate) struct Qwen2 {
    /// Of q, k and v, one after the other: f32 `((num_heads + 2 * num_kv_heads) * head_dim)`.
    qkv_bias: Tensor,
}

impl Variant for Qwen2 {
    fn load(weights: &mut Weights, layer: usize) -> Result<Self> {
        let mut bias = |part: &str| weights.vector(&format!("blk.{layer}.{part}.bias"));
        Ok(Self { qkv_bias: Tensor::cat(&[bias("attn_q")?, bias("attn_k")?, bias("attn_v")?], 0)? })
    }

    fn adjust_qkv(&self, step: &Step) -> Result<()> {
        Ok(step.compute.add_bias(&step.qkv, &self.qkv_bias)?)
    }
}
