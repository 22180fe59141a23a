//! The gated feed-forward network `SwiGLU` (Shazeer, 2020).

use kernels::{Operand, PackedMatrix};

use super::{RmsNorm, Step};
use crate::{Result, weights::Weights};

/// Projections of one block's feed-forward network, gate and up stacked into one matrix.
#[derive(Debug)]
pub(crate) struct FeedForward {
    gate_up: PackedMatrix,
    down: PackedMatrix,
}

impl FeedForward {
    pub(crate) fn load(weights: &mut Weights, layer: usize) -> Result<Self> {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        Ok(Self {
            gate_up: weights.stacked(&["ffn_gate", "ffn_up"].map(name))?,
            down: weights.matrix(&name("ffn_down"))?,
        })
    }

    /// `hidden += down · (silu(gate · normed) * (up · normed))` with `normed = norm(hidden)`; `next` is the norm that is
    /// taken then.
    pub(crate) fn forward(&self, step: &Step, norm: &RmsNorm, next: Option<&RmsNorm>) -> Result<()> {
        step.compute.linear_gated(&self.gate_up, norm.of(step), &step.gated)?;
        let next = next.map(RmsNorm::norm);
        Ok(step.compute.linear_add(&self.down, Operand::Gated(&step.gated), &step.hidden, next)?)
    }
}
