//! Root-mean-square norms (Zhang & Sennrich, 2019) of rows and of single heads.

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
        let (size, eps) = (weights.config().hidden_size, weights.config().rms_norm_eps);
        Ok(Self { weight: weights.vector(name, size)?, eps })
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

/// Norm of each query or each key head within `qkv`.
#[derive(Debug)]
pub(crate) struct HeadNorm {
    weight: Tensor,
    eps: f32,
    first_head: usize,
    num_heads: usize,
}

impl HeadNorm {
    pub(crate) fn load_query(weights: &mut Weights, layer: usize) -> Result<Self> {
        let num_heads = weights.config().num_heads;
        Self::load(weights, &format!("blk.{layer}.attn_q_norm.weight"), 0, num_heads)
    }

    pub(crate) fn load_key(weights: &mut Weights, layer: usize) -> Result<Self> {
        let (num_heads, num_kv_heads) = (weights.config().num_heads, weights.config().num_kv_heads);
        Self::load(weights, &format!("blk.{layer}.attn_k_norm.weight"), num_heads, num_kv_heads)
    }

    fn load(weights: &mut Weights, name: &str, first_head: usize, num_heads: usize) -> Result<Self> {
        let (size, eps) = (weights.config().head_dim, weights.config().rms_norm_eps);
        Ok(Self { weight: weights.vector(name, size)?, eps, first_head, num_heads })
    }

    /// Norms the heads in place.
    pub(crate) fn forward(&self, step: &Step) -> Result<()> {
        Ok(step.compute.head_norm(&step.qkv, self.first_head, self.num_heads, &self.weight, self.eps)?)
    }
}
