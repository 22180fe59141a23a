//! Matrix products with packed weights: checks shapes, splits rows of weights over the threads, picks the kernel.
//!
//! Every output is summed over columns in one order that depends on nothing but the format, so it has the same bits
//! whatever rows stand beside it. Weights stream from memory once for all tokens of a product.

mod activations;
mod float;
mod int8;
mod operand;

use std::ops::Range;
use std::sync::{Arc, PoisonError};

use candle_core::{CpuStorage, DType, Device, InplaceOp2, InplaceOp3, Layout, Tensor};

pub(crate) use activations::ActivationBuffer;
use activations::Quantised;
pub use operand::Operand;
use operand::Source;

use crate::formats::GROUP;
use crate::gpu::OutputKind;
use crate::gpu::norm::NormedRows;
use crate::packed::Part;
use crate::shared::Shared;
use crate::{Activations, Compute, Norm, PackedMatrix, Residual, Result, rows};

impl Compute {
    /// `out = x · Wᵀ`. `x`: `(num_tokens, columns)`; `out`: f32 `(num_tokens, rows)`, in another storage.
    ///
    /// # Errors
    /// When a shape or type is another.
    pub fn linear(&self, weight: &PackedMatrix, x: Operand<'_>, out: &Tensor) -> Result<()> {
        Linear { name: "linear", compute: self, weight, x, output: OutputKind::Store }.run(out)
    }

    /// `out += x · Wᵀ`: the projection back into the residual stream, of which `next` is the norm that a product takes
    /// next, if any. Shapes as in [`Compute::linear`].
    ///
    /// # Errors
    /// When a shape or type is another.
    pub fn linear_add(
        &self,
        weight: &PackedMatrix,
        x: Operand<'_>,
        out: &Residual,
        next: Option<Norm<'_>>,
    ) -> Result<()> {
        let next = out.normed.as_ref().zip(next);
        Linear { name: "linear_add", compute: self, weight, x, output: OutputKind::Add }.run_before(out.rows(), next)
    }

    /// What [`Operand::Gated`] takes, of a matrix that has gate's rows, then as many of up: `out` as
    /// [`Compute::gated_rows`] makes it.
    ///
    /// # Errors
    /// When a shape or type is another.
    pub fn linear_gated(&self, weight: &PackedMatrix, x: Operand<'_>, out: &Tensor) -> Result<()> {
        Linear { name: "linear_gated", compute: self, weight, x, output: OutputKind::Gate }.run(out)
    }

    /// Zeros for what attention gives and a product takes, `max_tokens` rows of `columns`: f32, or on a card an operand.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn attended_rows(&self, max_tokens: usize, columns: usize) -> Result<Tensor> {
        match self.gpu() {
            Some(gpu) => gpu.operand(max_tokens, columns),
            None => Ok(Tensor::zeros((max_tokens, columns), DType::F32, &Device::Cpu)?),
        }
    }

    /// Zeros for `max_tokens` rows that [`Operand::Gated`] makes `columns` of: f32 with gate and up beside each other,
    /// or on a card an operand of what they make.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn gated_rows(&self, max_tokens: usize, columns: usize) -> Result<Tensor> {
        self.attended_rows(max_tokens, if self.gpu().is_some() { columns } else { 2 * columns })
    }

    /// The first rows of what [`Compute::attended_rows`] or [`Compute::gated_rows`] has made; an operand of a card, whose
    /// rows do not follow each other, as it is.
    ///
    /// # Errors
    /// When there are not so many.
    pub fn first_rows(&self, operand: &Tensor, num_tokens: usize) -> Result<Tensor> {
        if self.gpu().is_some() { Ok(operand.clone()) } else { Ok(operand.narrow(0, 0, num_tokens)?) }
    }

    /// Makes the memory that products with at most so many columns of gate, or of up, work in, before a step is recorded.
    ///
    /// # Errors
    /// When the card has none.
    pub fn reserve(&self, max_columns: usize) -> Result<()> {
        self.gpu().map_or(Ok(()), |gpu| gpu.reserve(max_columns))
    }
}

struct Linear<'a> {
    name: &'static str,
    compute: &'a Compute,
    weight: &'a PackedMatrix,
    x: Operand<'a>,
    output: OutputKind,
}

impl Linear<'_> {
    fn run(&self, out: &Tensor) -> Result<()> {
        self.run_before(out, None)
    }

    fn run_before(&self, out: &Tensor, next: Option<(&NormedRows, Norm<'_>)>) -> Result<()> {
        self.weight.check_place(self.name, self.compute)?;
        if let Some(gpu) = self.compute.gpu() {
            return gpu.linear(self.weight, self.x, (self.output, out), next);
        }
        let (num_tokens, _) = rows::matrix(self.name, "out", out)?;
        self.x.check(self.name, num_tokens, self.weight.columns())?;
        rows::expect(self.name, "out", out, &[num_tokens, self.weight.rows()])?;
        if num_tokens == 0 {
            return Ok(());
        }
        match self.x {
            Operand::Normed(x, norm) => out.inplace_op3(x.rows(), norm.weight, self)?,
            Operand::Rows(rows) | Operand::Gated(rows) => out.inplace_op2(rows, self)?,
        }
        Ok(())
    }
}

impl InplaceOp2 for Linear<'_> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, out: &mut CpuStorage, out_l: &Layout, x: &CpuStorage, x_l: &Layout) -> candle_core::Result<()> {
        let source = if matches!(self.x, Operand::Gated(_)) { Source::Gated } else { Source::Plain };
        self.multiply(rows::f32s_mut(out, out_l)?, rows::f32s(x, x_l)?, source);
        Ok(())
    }
}

impl InplaceOp3 for Linear<'_> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(
        &self,
        out: &mut CpuStorage,
        out_l: &Layout,
        x: &CpuStorage,
        x_l: &Layout,
        weight: &CpuStorage,
        weight_l: &Layout,
    ) -> candle_core::Result<()> {
        let weight = rows::f32s(weight, weight_l)?;
        let source = match self.x {
            Operand::Normed(_, Norm { eps, .. }) => Source::Normed { weight, eps },
            Operand::Rows(_) | Operand::Gated(_) => Source::Plain,
        };
        self.multiply(rows::f32s_mut(out, out_l)?, rows::f32s(x, x_l)?, source);
        Ok(())
    }
}

impl Linear<'_> {
    fn multiply(&self, out: &mut [f32], x: &[f32], source: Source<'_>) {
        let x = Input { values: x, columns: self.weight.columns(), source };
        let width = self.weight.rows();
        let out =
            Output { values: Shared::new(out), width, first_column: 0, accumulate: self.output == OutputKind::Add };
        let tasks = Tasks::new(self.weight, x.num_tokens(), self.compute.threads());
        let int8 = self.compute.activations() == Activations::Int8;
        let is_float = |part: &Arc<Part>| !int8 || part.is_float();
        let mut buffer = self.compute.activation_buffer().lock().unwrap_or_else(PoisonError::into_inner);
        let ActivationBuffer { terms, rows } = &mut *buffer;
        let x = if self.weight.parts().iter().any(is_float) { x.materialised(self.compute, rows) } else { x };
        let quantised =
            (!self.weight.parts().iter().all(is_float)).then(|| Quantised::new(self.compute, x, self.weight, terms));
        self.compute.parallel_for(tasks.count, |task| self.run_block(&tasks.get(task), x, quantised, out));
    }

    /// Multiplies one block of weights, in int8 where the activations were quantised and the weights are.
    fn run_block(&self, block: &Block<'_>, x: Input<'_>, quantised: Option<Quantised<'_>>, out: Output<'_>) {
        let out = Output { first_column: block.first_column, ..out };
        let isa = self.compute.isa();
        let kernel = int8::kernel(isa, block.part.ggml_type);
        match quantised.zip(kernel) {
            // SAFETY: the handle's instruction set was detected, the kernel is of the part's type, activations have the
            // matrix's columns, and each task has row groups of its own.
            Some((quantised, kernel)) => unsafe {
                kernel(block.part, block.groups.clone(), quantised.first, out);
                if let Some(residual) = quantised.residual {
                    kernel(block.part, block.groups.clone(), residual, Output { accumulate: true, ..out });
                }
            },
            None => float::multiply(isa, block.part, block.groups.clone(), x, out),
        }
    }
}

/// The activations of a product, `(num_tokens, columns)`, or what they are made of.
#[derive(Debug, Clone, Copy)]
struct Input<'a> {
    values: &'a [f32],
    columns: usize,
    source: Source<'a>,
}

impl<'a> Input<'a> {
    fn num_tokens(&self) -> usize {
        self.values.len() / self.stored_columns()
    }

    /// A token's row as it lies in memory.
    fn stored(&self, token: usize) -> &'a [f32] {
        let columns = self.stored_columns();
        &self.values[token * columns..][..columns]
    }

    fn stored_columns(&self) -> usize {
        if matches!(self.source, Source::Gated) { 2 * self.columns } else { self.columns }
    }
}

/// Where the outputs of one part of a matrix go: columns from `first_column` on of rows of `width`.
#[derive(Debug, Clone, Copy)]
struct Output<'a> {
    values: Shared<'a, f32>,
    width: usize,
    first_column: usize,
    accumulate: bool,
}

impl Output<'_> {
    /// Stores (or adds) one token's outputs of consecutive weight rows.
    ///
    /// # Safety
    /// No other thread stores the same outputs during this product.
    #[inline]
    unsafe fn store(&self, token: usize, first_row: usize, sums: &[f32]) {
        let start = token * self.width + self.first_column + first_row;
        // SAFETY: the caller's promise.
        let out = unsafe { self.values.slice(start, sums.len()) };
        // One or two vectors for a whole group, a loop for the last one of a matrix.
        if let ([out], [sums]) = (out.as_chunks_mut::<GROUP>().0, sums.as_chunks::<GROUP>().0) {
            *out = if self.accumulate { std::array::from_fn(|i| out[i] + sums[i]) } else { *sums };
            return;
        }
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = if self.accumulate { *out + sum } else { *sum };
        }
    }
}

/// A product cut into blocks of row groups, over all parts of a matrix.
struct Tasks<'a> {
    parts: &'a [Arc<Part>],
    groups_per_task: usize,
    count: usize,
}

/// One task: consecutive row groups of one part.
struct Block<'a> {
    part: &'a Part,
    groups: Range<usize>,
    /// The output column of the part's first row.
    first_column: usize,
}

impl<'a> Tasks<'a> {
    fn new(weight: &'a PackedMatrix, num_tokens: usize, threads: usize) -> Self {
        /// Multiply-adds that are worth handing to a thread.
        const MIN_TASK: usize = 1 << 18;
        /// Row groups of a task at most when there are many tokens: their weights then stay in cache between tiles.
        const MAX_GROUPS: usize = 8;
        let parts = weight.parts();
        let groups: usize = parts.iter().map(|part| part.rows.div_ceil(GROUP)).sum();
        let group_work = GROUP * weight.columns() * num_tokens;
        let smallest = MIN_TASK.div_ceil(group_work).next_multiple_of(4);
        let mut groups_per_task = groups.div_ceil(threads * 16).next_multiple_of(4).max(smallest);
        if num_tokens > 32 {
            groups_per_task = groups_per_task.min(MAX_GROUPS);
        }
        let count = parts.iter().map(|part| part.rows.div_ceil(GROUP).div_ceil(groups_per_task)).sum();
        Self { parts, groups_per_task, count }
    }

    fn get(&self, mut task: usize) -> Block<'a> {
        let mut first_column = 0;
        let mut parts = self.parts.iter();
        loop {
            let part = parts.next().map_or_else(|| unreachable!("a task beyond the last"), AsRef::as_ref);
            let groups = part.rows.div_ceil(GROUP);
            let tasks = groups.div_ceil(self.groups_per_task);
            if task < tasks {
                let start = task * self.groups_per_task;
                return Block { part, groups: start..groups.min(start + self.groups_per_task), first_column };
            }
            task -= tasks;
            first_column += part.rows;
        }
    }
}

#[cfg(test)]
mod tests;
