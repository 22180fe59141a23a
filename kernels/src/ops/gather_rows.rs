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
