//! Causal attention over the paged cache, read where it lies.

use candle_core::{CpuStorage, InplaceOp3, Layout, Tensor};
use half::f16;

use super::rope_and_store::query_heads;
use crate::kv::{BLOCK_SIZE, PageShape, check_spans};
use crate::{Compute, KvLayer, Result, Span, rows};

impl Compute {
    /// Causal attention of each span's queries over its pages. `qkv` as left by [`Compute::rope_and_store`] (only q is
    /// read); `out`: f32 `(num_tokens, num_heads * head_dim)`. `window`: only the last so many positions are seen.
    pub fn attention(
        &self,
        qkv: &Tensor,
        spans: &[Span],
        kv: &KvLayer,
        scale: f32,
        window: Option<usize>,
        out: &Tensor,
    ) -> Result<()> {
        const OP: &str = "attention";
        let (num_tokens, columns) = rows::matrix(OP, "qkv", qkv)?;
        let shape = kv.shape(OP)?;
        let num_heads = query_heads(OP, columns, shape)?;
        rows::expect(OP, "out", out, &[num_tokens, num_heads * shape.head_dim])?;
        check_spans(OP, spans, num_tokens, shape.num_blocks)?;
        if num_tokens == 0 {
            return Ok(());
        }
        Ok(out.inplace_op3(qkv, &kv.pages, &Attention { spans, columns, num_heads, shape, scale, window })?)
    }
}

struct Attention<'a> {
    spans: &'a [Span],
    columns: usize,
    num_heads: usize,
    shape: PageShape,
    scale: f32,
    window: Option<usize>,
}

impl InplaceOp3 for Attention<'_> {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        out: &mut CpuStorage,
        out_layout: &Layout,
        qkv: &CpuStorage,
        qkv_layout: &Layout,
        pages: &CpuStorage,
        pages_layout: &Layout,
    ) -> candle_core::Result<()> {
        let (qkv, pages) = (rows::f32s(qkv, qkv_layout)?, rows::f16s(pages, pages_layout)?);
        let out = rows::f32s_mut(out, out_layout)?;
        let head_dim = self.shape.head_dim;
        let mut weights = Vec::new();
        for span in self.spans {
            for i in 0..span.query_len {
                let row = span.query_start + i;
                for head in 0..self.num_heads {
                    let query = &qkv[row * self.columns + head * head_dim..][..head_dim];
                    let out = &mut out[(row * self.num_heads + head) * head_dim..][..head_dim];
                    self.one_query(query, span, span.first_position() + i, head, pages, &mut weights, out);
                }
            }
        }
        Ok(())
    }
}

impl Attention<'_> {
    /// One head of one token at `position`: softmax over the scores of all positions it sees, then the mean of values.
    #[expect(clippy::too_many_arguments, reason = "the plain reference names everything it reads")]
    fn one_query(
        &self,
        query: &[f32],
        span: &Span,
        position: usize,
        head: usize,
        pages: &[f16],
        weights: &mut Vec<f32>,
        out: &mut [f32],
    ) {
        let (head_dim, kv_head) = (query.len(), head / (self.num_heads / self.shape.num_kv_heads));
        let first = self.window.map_or(0, |window| (position + 1).saturating_sub(window));
        weights.clear();
        weights.extend((first..=position).map(|p| {
            let keys = &pages[self.shape.keys(span.block_table[p / BLOCK_SIZE], kv_head)..];
            let key = |d: usize| keys[d * BLOCK_SIZE + p % BLOCK_SIZE].to_f32();
            query.iter().enumerate().map(|(d, q)| q * key(d)).sum::<f32>() * self.scale
        }));
        let max = weights.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        for weight in &mut *weights {
            *weight = (*weight - max).exp();
        }
        let sum: f32 = weights.iter().sum();
        out.fill(0.0);
        for (p, weight) in (first..=position).zip(&*weights) {
            let values = &pages[self.shape.values(span.block_table[p / BLOCK_SIZE], kv_head)..];
            for (out, value) in out.iter_mut().zip(&values[p % BLOCK_SIZE * head_dim..]) {
                *out += weight / sum * value.to_f32();
            }
        }
    }
}
