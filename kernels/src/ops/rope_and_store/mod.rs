//! The step's q and k are rotated in place by their positions, and k and v go into the paged cache, in its type.
#![expect(clippy::inline_always, reason = "whatever is not inlined into the kernel loses its instruction set")]

mod row;
#[cfg(test)]
mod tests;

use candle_core::{CpuStorage, DType, InplaceOp1, InplaceOp2, Layout, Tensor};

use self::row::StoreRow;
use super::rope::{StepAngles, rotate};
use crate::hadamard::{self, hadamard};
use crate::kv::{BLOCK_SIZE, PageShape, check_spans};
use crate::shared::Shared;
use crate::simd::{Kernel, Simd, dispatch};
use crate::{Compute, Error, KvLayer, Result, RopeStyle, RopeTable, Span, StepRows, rows};

impl Compute {
    /// Rotates q and k of `qkv` in place by their positions and stores k and v into the cache at the spans' slots; on a
    /// card this may be left to [`Compute::attention`], which must follow. For
    /// a cache of bytes q and k are transformed, too, which leaves their products as they are.
    /// `qkv`: f32 `(step.padded_len(), (num_heads + 2 * num_kv_heads) * head_dim)`.
    ///
    /// # Errors
    /// When shapes do not fit each other.
    pub fn rope_and_store(&self, qkv: &Tensor, rope: &RopeTable, step: &StepRows<'_>, kv: &KvLayer) -> Result<()> {
        const OP: &str = "rope_and_store";
        if let Some(gpu) = self.gpu() {
            let (card, tables) = step.on_card(OP)?;
            return gpu.rope_and_store(qkv, card.angles(gpu, tables)?, tables, kv);
        }
        let spans = step.spans;
        let (num_tokens, columns) = rows::matrix(OP, "qkv", qkv)?;
        let shape = kv.shape(OP)?;
        let num_heads = query_heads(OP, columns, shape)?;
        if rope.inverse_frequencies().len() * 2 != shape.head_dim {
            let pairs = rope.inverse_frequencies().len();
            return Err(Error::shape(OP, format!("{pairs} frequencies for heads of {} elements", shape.head_dim)));
        }
        check_spans(OP, spans, num_tokens, shape.num_blocks)?;
        if num_tokens == 0 {
            return Ok(());
        }
        let angles = rope.angles(spans);
        qkv.inplace_op1(&Rotate {
            compute: self,
            style: rope.style(),
            angles: &angles,
            columns,
            num_heads,
            shape,
            spread: kv.pages.dtype() == DType::U8,
        })?;
        Ok(kv.pages.inplace_op2(qkv, &Store { compute: self, spans, columns, num_heads, shape })?)
    }
}

/// The number of query heads in a row of `columns` elements that ends with the cache's heads of k and v.
pub(crate) fn query_heads(op: &'static str, columns: usize, shape: PageShape) -> Result<usize> {
    let PageShape { num_kv_heads, head_dim, .. } = shape;
    let heads = (columns / head_dim).saturating_sub(2 * num_kv_heads);
    if columns.is_multiple_of(head_dim) && heads > 0 && heads.is_multiple_of(num_kv_heads) {
        return Ok(heads);
    }
    let cache = format!("a cache of {num_kv_heads} heads of {head_dim}");
    Err(Error::shape(op, format!("qkv has rows of {columns} elements, which do not fit {cache}")))
}

struct Rotate<'a> {
    compute: &'a Compute,
    style: RopeStyle,
    angles: &'a StepAngles,
    columns: usize,
    num_heads: usize,
    shape: PageShape,
    /// Whether to spread what is large in a key over its elements, and to turn the queries with them.
    spread: bool,
}

impl InplaceOp1 for Rotate<'_> {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn cpu_fwd(&self, qkv: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let head_dim = self.shape.head_dim;
        self.compute.for_each_row(rows::f32s_mut(qkv, layout)?, self.columns, |i, row| {
            let (cos, sin) = self.angles.row(i, head_dim / 2);
            let rotated = &mut row[..(self.num_heads + self.shape.num_kv_heads) * head_dim];
            rotated.chunks_exact_mut(head_dim).for_each(|head| rotate(self.style, head, cos, sin));
            if self.spread {
                let (queries, keys) = rotated.split_at_mut(self.num_heads * head_dim);
                dispatch(self.compute.isa(), Spread { queries, keys, head_dim });
            }
        });
        Ok(())
    }
}

/// Transforms the heads of a token, and leaves the products of queries and keys as they are.
struct Spread<'a> {
    queries: &'a mut [f32],
    keys: &'a mut [f32],
    head_dim: usize,
}

impl Kernel for Spread<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Self { queries, keys, head_dim } = self;
        queries.chunks_exact_mut(head_dim).for_each(hadamard);
        keys.chunks_exact_mut(head_dim).for_each(hadamard);
        let factor = 1.0 / hadamard::width(head_dim) as f32;
        for x in queries {
            *x *= factor;
        }
    }
}

struct Store<'a> {
    compute: &'a Compute,
    spans: &'a [Span],
    columns: usize,
    num_heads: usize,
    shape: PageShape,
}

impl InplaceOp2 for Store<'_> {
    fn name(&self) -> &'static str {
        "kv_store"
    }

    fn cpu_fwd(
        &self,
        pages: &mut CpuStorage,
        pages_layout: &Layout,
        qkv: &CpuStorage,
        qkv_layout: &Layout,
    ) -> candle_core::Result<()> {
        let qkv = rows::f32s(qkv, qkv_layout)?;
        match pages {
            CpuStorage::U8(_) => self.store(qkv, Shared::new(rows::u8s_mut(pages, pages_layout)?)),
            _ => self.store(qkv, Shared::new(rows::f16s_mut(pages, pages_layout)?)),
        }
        Ok(())
    }
}

impl Store<'_> {
    fn store<B: Copy + Send>(&self, qkv: &[f32], pages: Shared<'_, B>)
    where
        for<'a> StoreRow<'a, B>: Kernel,
    {
        /// Elements that are worth handing to another thread.
        const MIN_PARALLEL: usize = 1 << 15;
        // Threads share by heads: two spans may name the same block, but no two heads share a page.
        let num_kv_heads = self.shape.num_kv_heads;
        if 2 * qkv.len() / self.columns * num_kv_heads * self.shape.head_dim < MIN_PARALLEL {
            (0..num_kv_heads).for_each(|kv_head| self.store_head(kv_head, qkv, pages));
        } else {
            self.compute.parallel_for(num_kv_heads, |kv_head| self.store_head(kv_head, qkv, pages));
        }
    }

    /// Stores one head of all rows.
    fn store_head<B: Copy + Send>(&self, kv_head: usize, qkv: &[f32], pages: Shared<'_, B>)
    where
        for<'a> StoreRow<'a, B>: Kernel,
    {
        let PageShape { num_kv_heads, head_dim, half_len, .. } = self.shape;
        let keys_at = (self.num_heads + kv_head) * head_dim;
        let values_at = keys_at + num_kv_heads * head_dim;
        for span in self.spans {
            for i in 0..span.query_len {
                let row = &qkv[(span.query_start + i) * self.columns..][..self.columns];
                let slot = span.slot(span.first_position() + i);
                let block = (slot / BLOCK_SIZE) as u32;
                // SAFETY: this task alone writes this head's pages.
                let page = unsafe { pages.slice(self.shape.keys(block, kv_head), 2 * half_len) };
                let (keys, values) = (&row[keys_at..][..head_dim], &row[values_at..][..head_dim]);
                dispatch(self.compute.isa(), StoreRow { keys, values, page, offset: slot % BLOCK_SIZE });
            }
        }
    }
}
