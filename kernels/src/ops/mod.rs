//! One operation per file: what it computes, its plain reference, its fast paths, its property test.

mod add_bias;
mod attention;
mod gather_rows;
mod rms_norm;
pub(crate) mod rope;
mod rope_and_store;
mod silu_mul;

use candle_core::Tensor;

use crate::{Compute, PackedMatrix, Result};

// Temporary signatures: each moves to its own file with its implementation.
#[expect(unused_variables, reason = "signatures only until the operations land")]
impl Compute {
    /// Writes row `ids[i]` of `table`, dequantised, to `out[i]`. `out`: f32 `(ids.len(), columns)`.
    pub fn embed(&self, table: &PackedMatrix, ids: &[u32], out: &Tensor) -> Result<()> {
        Ok(())
    }

    /// `out = x · Wᵀ`. `x`: f32 `(num_tokens, columns)`; `out`: f32 `(num_tokens, rows)`.
    pub fn linear(&self, weight: &PackedMatrix, x: &Tensor, out: &Tensor) -> Result<()> {
        Ok(())
    }

    /// `out += x · Wᵀ`: the projection back into the residual stream. Shapes as in [`Compute::linear`].
    pub fn linear_add(&self, weight: &PackedMatrix, x: &Tensor, out: &Tensor) -> Result<()> {
        Ok(())
    }
}
