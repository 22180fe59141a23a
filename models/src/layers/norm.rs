//! The root-mean-square norm (Zhang & Sennrich, 2019).

use candle_core::Tensor;
use kernels::{Norm, Operand};

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

    /// `norm(hidden)`, for a product to take.
    pub(crate) fn of<'a>(&'a self, step: &'a Step) -> Operand<'a> {
        Operand::Normed(&step.hidden, self.norm())
    }

    /// As operations take it.
    pub(crate) fn norm(&self) -> Norm<'_> {
        Norm { weight: &self.weight, eps: self.eps }
    }
}
