//! Grouped-query self-attention over the paged cache (Ainslie et al., 2023).

use candle_core::Tensor;
use kernels::{KvLayer, PackedMatrix};

use super::Step;
use crate::{Result, weights::Weights};

/// Projections of one block's attention, q, k and v stacked into one matrix.
#[derive(Debug)]
pub(crate) struct Attention {
    qkv: PackedMatrix,
    output: PackedMatrix,
    scale: f32,
    window: Option<usize>,
}

impl Attention {
    /// Reads block `layer`; `window`: only the last so many positions are seen.
    pub(crate) fn load(weights: &mut Weights, layer: usize, window: Option<usize>) -> Result<Self> {
        let config = weights.config();
        let (hidden, head_dim) = (config.hidden_size, config.head_dim);
        let (q_size, kv_size) = (config.num_heads * head_dim, config.num_kv_heads * head_dim);
        let q = weights.matrix(&format!("blk.{layer}.attn_q.weight"), q_size, hidden)?;
        let k = weights.matrix(&format!("blk.{layer}.attn_k.weight"), kv_size, hidden)?;
        let v = weights.matrix(&format!("blk.{layer}.attn_v.weight"), kv_size, hidden)?;
        let qkv = weights.stack(vec![q, k, v])?;
        Ok(Self {
            qkv: weights.precise(qkv),
            output: weights.matrix(&format!("blk.{layer}.attn_output.weight"), hidden, q_size)?,
            scale: 1.0 / (head_dim as f32).sqrt(),
            window,
        })
    }

    /// `qkv = normed · Wᵀ`, not yet rotated.
    pub(crate) fn project(&self, step: &Step) -> Result<()> {
        Ok(step.compute.linear(&self.qkv, &step.normed, &step.qkv)?)
    }

    /// Rotates q and k, stores k and v, attends, and adds the output projection to `hidden`.
    pub(crate) fn attend(&self, step: &Step, kv: &KvLayer) -> Result<()> {
        step.compute.rope_and_store(&step.qkv, step.rope, step.spans, kv)?;
        step.compute.attention(&step.qkv, step.spans, kv, self.scale, self.window, &step.attended)?;
        Ok(step.compute.linear_add(&self.output, &step.attended, &step.hidden)?)
    }
}

/// Biases of q, k and v, one after the other: f32 `((num_heads + 2 * num_kv_heads) * head_dim)`.
#[derive(Debug)]
pub(crate) struct QkvBias {
    bias: Tensor,
}

impl QkvBias {
    pub(crate) fn load(weights: &mut Weights, layer: usize) -> Result<Self> {
        let config = weights.config();
        let (q_size, kv_size) = (config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim);
        let q = weights.vector(&format!("blk.{layer}.attn_q.bias"), q_size)?;
        let k = weights.vector(&format!("blk.{layer}.attn_k.bias"), kv_size)?;
        let v = weights.vector(&format!("blk.{layer}.attn_v.bias"), kv_size)?;
        Ok(Self { bias: Tensor::cat(&[q, k, v], 0)? })
    }

    /// Adds the biases to every row of `qkv`.
    pub(crate) fn forward(&self, step: &Step) -> Result<()> {
        Ok(step.compute.add_bias(&step.qkv, &self.bias)?)
    }
}
