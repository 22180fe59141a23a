//! Token embedding: a gather of dequantised rows. One path; it is bound by memory.

use candle_core::{CpuStorage, InplaceOp1, Layout, Tensor};

use crate::gpu::Address;
use crate::sampling::pending_slot;
use crate::shared::Shared;
use crate::{Compute, Error, PackedMatrix, Result, StepRows, rows};

impl Compute {
    /// Writes the row of `table` that a step's row has the id of, dequantised, to each row of `out`, f32
    /// `(step.padded_len(), columns)`.
    ///
    /// # Errors
    /// When `out` has another shape or type, or an id is no row of the table.
    ///
    /// `last_tokens`: u32 on a card, the tokens of [pending](crate::sampling::pending) ids, all of them rows of the table.
    pub fn embed(
        &self,
        table: &PackedMatrix,
        step: &StepRows<'_>,
        last_tokens: Option<&Tensor>,
        out: &Tensor,
    ) -> Result<()> {
        const OP: &str = "embed";
        let ids = step.ids;
        rows::expect(OP, "out", out, &[step.padded_len(), table.columns()])?;
        table.check_place(OP, self)?;
        let is_row = |id: u32| (id as usize) < table.rows();
        let num_slots = last_tokens.map_or(0, Tensor::elem_count);
        if let Some(id) = ids.iter().find(|&&id| pending_slot(id).map_or(!is_row(id), |slot| slot >= num_slots)) {
            let known = format!("a table of {} rows, with {num_slots} last tokens", table.rows());
            return Err(Error::shape(OP, format!("id {id} in {known}")));
        }
        if let Some(gpu) = self.gpu() {
            let (_, tables) = step.on_card(OP)?;
            let last_tokens = last_tokens.map_or(Ok(Address::NULL), |tokens| gpu.address(tokens))?;
            return gpu.embed(table, (tables.ids(gpu)?, last_tokens), tables.padded_rows(), out);
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
