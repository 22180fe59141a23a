//! The step's q and k are rotated in place by their positions, and k and v go into the paged cache as f16.

use candle_core::{CpuStorage, InplaceOp1, InplaceOp2, Layout, Tensor};
use half::f16;

use super::rope::{StepAngles, rotate};
use crate::kv::{BLOCK_SIZE, PageShape, check_spans};
use crate::{Compute, Error, KvLayer, Result, RopeStyle, RopeTable, Span, rows};

impl Compute {
    /// Rotates q and k of `qkv` in place by their positions and stores k and v into the cache at the spans' slots.
    /// `qkv`: f32 `(num_tokens, (num_heads + 2 * num_kv_heads) * head_dim)`.
    pub fn rope_and_store(&self, qkv: &Tensor, rope: &RopeTable, spans: &[Span], kv: &KvLayer) -> Result<()> {
        const OP: &str = "rope_and_store";
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
        let rotated_heads = num_heads + shape.num_kv_heads;
        qkv.inplace_op1(&Rotate { style: rope.style(), angles: &angles, columns, rotated_heads, shape })?;
        Ok(kv.pages.inplace_op2(qkv, &Store { spans, columns, num_heads, shape })?)
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
    style: RopeStyle,
    angles: &'a StepAngles,
    columns: usize,
    rotated_heads: usize,
    shape: PageShape,
}

impl InplaceOp1 for Rotate<'_> {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn cpu_fwd(&self, qkv: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let head_dim = self.shape.head_dim;
        for (i, row) in rows::f32s_mut(qkv, layout)?.chunks_exact_mut(self.columns).enumerate() {
            let (cos, sin) = self.angles.row(i, head_dim / 2);
            for head in row[..self.rotated_heads * head_dim].chunks_exact_mut(head_dim) {
                rotate(self.style, head, cos, sin);
            }
        }
        Ok(())
    }
}

struct Store<'a> {
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
        let (pages, qkv) = (rows::f16s_mut(pages, pages_layout)?, rows::f32s(qkv, qkv_layout)?);
        let PageShape { num_kv_heads, head_dim, .. } = self.shape;
        for span in self.spans {
            for i in 0..span.query_len {
                let row = &qkv[(span.query_start + i) * self.columns..][..self.columns];
                let (keys, values) = row[self.num_heads * head_dim..].split_at(num_kv_heads * head_dim);
                let slot = span.slot(span.first_position() + i);
                let (block, offset) = ((slot / BLOCK_SIZE) as u32, slot % BLOCK_SIZE);
                for kv_head in 0..num_kv_heads {
                    let head = kv_head * head_dim..(kv_head + 1) * head_dim;
                    let key_page = &mut pages[self.shape.keys(block, kv_head)..][..BLOCK_SIZE * head_dim];
                    for (d, &key) in keys[head.clone()].iter().enumerate() {
                        key_page[d * BLOCK_SIZE + offset] = f16::from_f32(key);
                    }
                    let value_page = &mut pages[self.shape.values(block, kv_head)..][..BLOCK_SIZE * head_dim];
                    for (d, &value) in values[head].iter().enumerate() {
                        value_page[offset * head_dim + d] = f16::from_f32(value);
                    }
                }
            }
        }
        Ok(())
    }
}
