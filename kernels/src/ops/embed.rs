//! Token embedding: a gather of dequantised rows. One path; it is bound by memory.

use candle_core::{CpuStorage, InplaceOp1, Layout, Tensor};

use crate::shared::Shared;
use crate::{Compute, Error, PackedMatrix, Result, rows};

impl Compute {
    /// Writes row `ids[i]` of `table`, dequantised, to `out[i]`. `out`: f32 `(ids.len(), columns)`.
    ///
    /// # Errors
    /// When `out` has another shape or type, or an id is no row of the table.
    pub fn embed(&self, table: &PackedMatrix, ids: &[u32], out: &Tensor) -> Result<()> {
        rows::expect("embed", "out", out, &[ids.len(), table.columns()])?;
        if let Some(id) = ids.iter().find(|&&id| id as usize >= table.rows()) {
            return Err(Error::shape("embed", format!("id {id} in a table of {} rows", table.rows())));
        }
        Ok(out.inplace_op1(&Embed { compute: self, table, ids })?)
    }
}

struct Embed<'a> {
    compute: &'a Compute,
    table: &'a PackedMatrix,
    ids: &'a [u32],
}

impl InplaceOp1 for Embed<'_> {
    fn name(&self) -> &'static str {
        "embed"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let shared = Shared::new(rows::f32s_mut(storage, layout)?);
        let columns = self.table.columns();
        self.compute.parallel_for(self.ids.len(), |i| {
            // SAFETY: every row of `out` is taken once, and rows do not overlap.
            let out = unsafe { shared.slice(i * columns, columns) };
            let mut row = self.ids[i] as usize;
            for part in self.table.parts() {
                if row < part.rows {
                    return part.dequantise(row, 0, out);
                }
                row -= part.rows;
            }
        });
        Ok(())
    }
}
