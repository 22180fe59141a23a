//! Rows picked out of a matrix: the hidden states whose logits are wanted.

use candle_core::{CpuStorage, InplaceOp2, Layout, Tensor};

use crate::{Compute, Error, Result, rows};

impl Compute {
    /// `out[i] = x[rows[i]]`. `x`: f32 `(num_tokens, n)`; `out`: f32 `(rows.len(), n)`.
    pub fn gather_rows(&self, x: &Tensor, rows: &[u32], out: &Tensor) -> Result<()> {
        let (num_tokens, columns) = rows::matrix("gather_rows", "x", x)?;
        rows::expect("gather_rows", "out", out, &[rows.len(), columns])?;
        if let Some(row) = rows.iter().find(|&&row| row as usize >= num_tokens) {
            return Err(Error::shape("gather_rows", format!("row {row} of a matrix of {num_tokens} rows")));
        }
        if rows.is_empty() || columns == 0 {
            return Ok(());
        }
        Ok(out.inplace_op2(x, &GatherRows { rows, columns })?)
    }
}

struct GatherRows<'a> {
    rows: &'a [u32],
    columns: usize,
}

impl InplaceOp2 for GatherRows<'_> {
    fn name(&self) -> &'static str {
        "gather_rows"
    }

    fn cpu_fwd(
        &self,
        out: &mut CpuStorage,
        out_layout: &Layout,
        x: &CpuStorage,
        x_layout: &Layout,
    ) -> candle_core::Result<()> {
        let x = rows::f32s(x, x_layout)?;
        for (&row, out) in self.rows.iter().zip(rows::f32s_mut(out, out_layout)?.chunks_exact_mut(self.columns)) {
            out.copy_from_slice(&x[row as usize * self.columns..][..self.columns]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use candle_core::{DType, Device, Tensor};

    use crate::testing::compute;

    #[test]
    fn rows_are_picked_in_order_and_checked() {
        let x = Tensor::arange(0f32, 12.0, &Device::Cpu).unwrap().reshape((4, 3)).unwrap().narrow(0, 1, 3).unwrap();
        let out = Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap();
        compute(1, None).gather_rows(&x, &[2, 0], &out).unwrap();
        assert_eq!(out.to_vec2::<f32>().unwrap(), [[9.0, 10.0, 11.0], [3.0, 4.0, 5.0]]);
        let error = compute(1, None).gather_rows(&x, &[0, 3], &out).unwrap_err();
        assert_eq!(error.to_string(), "gather_rows: row 3 of a matrix of 3 rows");
        assert!(compute(1, None).gather_rows(&x, &[0], &out).is_err());
    }
}
