//! A bias added to every row (Qwen2's q, k and v).

use candle_core::{CpuStorage, InplaceOp2, Layout, Tensor};

use crate::{Compute, Result, rows};

impl Compute {
    /// `x[i] += bias` for every row. `x`: f32 `(num_tokens, n)`; `bias`: f32 `(n)`.
    pub fn add_bias(&self, x: &Tensor, bias: &Tensor) -> Result<()> {
        let (num_tokens, columns) = rows::matrix("add_bias", "x", x)?;
        rows::expect("add_bias", "bias", bias, &[columns])?;
        if num_tokens == 0 || columns == 0 {
            return Ok(());
        }
        Ok(x.inplace_op2(bias, &AddBias)?)
    }
}

struct AddBias;

impl InplaceOp2 for AddBias {
    fn name(&self) -> &'static str {
        "add_bias"
    }

    fn cpu_fwd(
        &self,
        x: &mut CpuStorage,
        x_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> candle_core::Result<()> {
        let bias = rows::f32s(bias, bias_layout)?;
        for row in rows::f32s_mut(x, x_layout)?.chunks_exact_mut(bias.len()) {
            for (x, bias) in row.iter_mut().zip(bias) {
                *x += bias;
            }
        }
        Ok(())
    }
}
