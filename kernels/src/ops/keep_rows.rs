//! Some rows of a matrix moved to its front: those whose logits are wanted, before the rest of the work on them.

use candle_core::{CpuStorage, InplaceOp1, Layout, Tensor};

use crate::{Compute, Error, Result, StepRows, rows};

impl Compute {
    /// Moves the rows of `x` that are the ids of `kept`, ascending, to its front; what the rows after them hold is left
    /// over. `x`: f32 `(num_tokens, n)`.
    ///
    /// # Errors
    /// When `x` has another shape or type, or the ids are not ascending rows of it.
    pub fn keep_rows(&self, x: &Tensor, kept: &StepRows<'_>) -> Result<()> {
        let rows = kept.ids;
        let (num_tokens, columns) = rows::matrix("keep_rows", "x", x)?;
        let is_inside = rows.last().is_none_or(|&row| (row as usize) < num_tokens);
        if !is_inside || !rows.is_sorted_by(|a, b| a < b) {
            let message = format!("the rows to keep are no ascending rows of {num_tokens}");
            return Err(Error::shape("keep_rows", message));
        }
        if rows.is_empty() {
            return Ok(());
        }
        if let Some(gpu) = self.gpu() {
            return gpu.keep_rows(x, kept.on_card("keep_rows")?.1);
        }
        Ok(x.inplace_op1(&KeepRows { rows, columns })?)
    }
}

struct KeepRows<'a> {
    rows: &'a [u32],
    columns: usize,
}

impl InplaceOp1 for KeepRows<'_> {
    fn name(&self) -> &'static str {
        "keep_rows"
    }

    fn cpu_fwd(&self, x: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let x = rows::f32s_mut(x, layout)?;
        // Rows are ascending, so that none is overwritten before it has moved.
        for (to, &from) in self.rows.iter().enumerate() {
            x.copy_within(from as usize * self.columns..(from as usize + 1) * self.columns, to * self.columns);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use candle_core::{Device, Tensor};

    use crate::StepRows;
    use crate::testing::compute;

    #[test]
    fn kept_rows_come_first_in_their_order() {
        let whole = Tensor::arange(0f32, 15.0, &Device::Cpu).unwrap().reshape((5, 3)).unwrap();
        let x = whole.narrow(0, 1, 4).unwrap();
        compute(1, None).keep_rows(&x, &StepRows::new(&[1, 3], &[])).unwrap();
        let rows = whole.to_vec2::<f32>().unwrap();
        assert_eq!(rows[..3], [[0.0, 1.0, 2.0], [6.0, 7.0, 8.0], [12.0, 13.0, 14.0]]);
        for refused in [&[2, 1][..], &[1, 1], &[0, 4]] {
            assert!(compute(1, None).keep_rows(&x, &StepRows::new(refused, &[])).is_err(), "{refused:?}");
        }
    }
}
