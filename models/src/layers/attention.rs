//! Grouped-query self-attention over the paged cache (Ainslie et al., 2023).

use kernels::{KvLayer, Operand, PackedMatrix};

use super::{RmsNorm, Step};
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
    pub(crate) fn load(weights: &mut Weights, layer: usize) -> Result<Self> {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        let config = weights.config();
        let qkv = weights.stacked(&["attn_q", "attn_k", "attn_v"].map(name))?;
        Ok(Self {
            qkv: weights.precise(qkv),
            output: weights.matrix(&name("attn_output"))?,
            scale: 1.0 / (config.head_dim as f32).sqrt(),
            window: config.sliding_window,
        })
    }

    /// `qkv = norm(hidden) · Wᵀ`, not yet rotated.
    pub(crate) fn project(&self, step: &Step, norm: &RmsNorm) -> Result<()> {
        Ok(step.compute.linear(&self.qkv, norm.of(step), &step.qkv)?)
    }

    /// Attends from q to what is stored, and adds the output projection to `hidden`, whose norm `next` is taken then.
    pub(crate) fn attend(&self, step: &Step, kv: &KvLayer, next: &RmsNorm) -> Result<()> {
        step.compute.attention(&step.qkv, &step.rows, kv, self.scale, self.window, &step.attended)?;
        Ok(step.compute.linear_add(&self.output, Operand::Rows(&step.attended), &step.hidden, Some(next.norm()))?)
    }
}
