//! The root-mean-square norm (Zhang & Sennrich, 2019).

use candle_core::Tensor;

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
        Ok(step.compute.rms_norm(&step.hidden, &self.weight, self.eps, &step.normed)?)
    }
}
