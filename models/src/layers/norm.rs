//! The root-mean-square norm (Zhang & Sennrich, 2019).

use candle_core::Tensor;
use kernels::Compute;

use super::Step;
use crate::{Result, weights::Weights};

/// Norm of the residual stream.
#[derive(Debug)]
pub(crate) struct RmsNorm {
    weight: Tensor,
    eps: f32,
}

impl RmsNorm {
    pub(crate) fn load(weights: &mut Weights, name: &str) -> Result<Self> {
        Ok(Self { weight: weights.vector(name)?, eps: weights.config().rms_norm_eps })
    }

    /// `normed = norm(hidden)`.
    pub(crate) fn forward(&self, step: &Step) -> Result<()> {
        self.apply(step.compute, &step.hidden, &step.normed)
    }

    /// `out = norm(x)`, both f32 `(num_tokens, hidden_size)`.
    pub(crate) fn apply(&self, compute: &Compute, x: &Tensor, out: &Tensor) -> Result<()> {
        Ok(compute.rms_norm(x, &self.weight, self.eps, out)?)
    }
}
