//! The step's q and k are rotated in place by their positions, and k and v go into the paged cache, in its type.
#![expect(clippy::inline_always, reason = "whatever is not inlined into the kernel loses its instruction set")]

use candle_core::{CpuStorage, InplaceOp1, InplaceOp2, Layout, Tensor};
use half::f16;

use super::rope::{StepAngles, rotate};
use crate::kv::{BLOCK_SIZE, PageShape, check_spans, scale_bytes};
use crate::shared::Shared;
use crate::simd::{Kernel, LANES, Simd, dispatch};
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
        qkv.inplace_op1(&Rotate {
            compute: self,
            style: rope.style(),
            angles: &angles,
            columns,
            rotated_heads,
            shape,
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
    rotated_heads: usize,
    shape: PageShape,
}

impl InplaceOp1 for Rotate<'_> {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn cpu_fwd(&self, qkv: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let head_dim = self.shape.head_dim;
        self.compute.for_each_row(rows::f32s_mut(qkv, layout)?, self.columns, |i, row| {
            let (cos, sin) = self.angles.row(i, head_dim / 2);
            for head in row[..self.rotated_heads * head_dim].chunks_exact_mut(head_dim) {
                rotate(self.style, head, cos, sin);
            }
        });
        Ok(())
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

/// Keys and values of one head of one token, and the page of their block: keys `(head_dim, BLOCK_SIZE)`, then values
/// `(BLOCK_SIZE, head_dim)`, each followed by its scales where the type has any.
struct StoreRow<'a, B> {
    keys: &'a [f32],
    values: &'a [f32],
    page: &'a mut [B],
    offset: usize,
}

impl Kernel for StoreRow<'_, f16> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let head_dim = self.keys.len();
        let (key_page, value_page) = self.page.split_at_mut(BLOCK_SIZE * head_dim);
        let mut lanes = [f16::ZERO; LANES];
        let (keys, rest) = self.keys.as_chunks::<LANES>();
        for (keys, columns) in keys.iter().zip(key_page.chunks_exact_mut(LANES * BLOCK_SIZE)) {
            simd.store_f16(simd.load(keys), &mut lanes);
            for (key, column) in lanes.iter().zip(columns.chunks_exact_mut(BLOCK_SIZE)) {
                column[self.offset] = *key;
            }
        }
        for (d, key) in (head_dim - rest.len()..).zip(rest) {
            key_page[d * BLOCK_SIZE + self.offset] = f16::from_f32(*key);
        }
        let (values, rest) = self.values.as_chunks::<LANES>();
        let (to, to_rest) = value_page[self.offset * head_dim..][..head_dim].as_chunks_mut::<LANES>();
        for (values, to) in values.iter().zip(to) {
            simd.store_f16(simd.load(values), to);
        }
        for (to, value) in to_rest.iter_mut().zip(rest) {
            *to = f16::from_f32(*value);
        }
    }
}

impl Kernel for StoreRow<'_, u8> {
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let head_dim = self.keys.len();
        let (key_page, value_page) = self.page.split_at_mut(self.page.len() / 2);
        let (columns, scales) = key_page.split_at_mut(BLOCK_SIZE * head_dim);
        let scale = scale_of(self.keys);
        scales[scale_bytes(self.offset)].copy_from_slice(&scale.to_le_bytes());
        for (key, column) in self.keys.iter().zip(columns.chunks_exact_mut(BLOCK_SIZE)) {
            column[self.offset] = quantised(*key, scale);
        }
        let (rows, scales) = value_page.split_at_mut(BLOCK_SIZE * head_dim);
        let scale = scale_of(self.values);
        scales[scale_bytes(self.offset)].copy_from_slice(&scale.to_le_bytes());
        for (value, to) in self.values.iter().zip(&mut rows[self.offset * head_dim..][..head_dim]) {
            *to = quantised(*value, scale);
        }
    }
}

/// The scale by which the largest magnitude becomes 127; NaN where a value is not finite, so that it stays visible.
#[inline(always)]
fn scale_of(values: &[f32]) -> f32 {
    let (mut largest, mut poison) = (0_f32, 0_f32);
    for value in values {
        largest = if value.abs() > largest { value.abs() } else { largest };
        poison += value * 0.0;
    }
    (largest + poison) / 127.0
}

/// The signed byte next to `value / scale`, ties to even; 0 for NaN.
#[inline(always)]
fn quantised(value: f32, scale: f32) -> u8 {
    ((value / scale).round_ties_even() as i8).cast_unsigned()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use candle_core::{Device, Tensor};
    use half::f16;

    use crate::testing::{compute, isas, normal_rows};
    use crate::{BLOCK_SIZE, Isa, KvCacheType, KvLayer, RopeStyle, RopeTable, Span};

    fn frequencies(head_dim: usize) -> Vec<f32> {
        (0..head_dim / 2).map(|i| 500_000f32.powf(-2.0 * i as f32 / head_dim as f32)).collect()
    }

    /// Rotation of one head in f64.
    fn rotated(style: RopeStyle, head: &[f32], position: usize, magnitude: f64) -> Vec<f64> {
        let pairs = head.len() / 2;
        let mut out = vec![0.0; head.len()];
        for (i, frequency) in frequencies(head.len()).into_iter().enumerate() {
            let (a, b) = match style {
                RopeStyle::Interleaved => (2 * i, 2 * i + 1),
                RopeStyle::Neox => (i, i + pairs),
            };
            let (sin, cos) = (position as f64 * f64::from(frequency)).sin_cos();
            let (x, y) = (f64::from(head[a]), f64::from(head[b]));
            out[a] = (x * cos - y * sin) * magnitude;
            out[b] = (y * cos + x * sin) * magnitude;
        }
        out
    }

    /// Two spans, one of them far out, among other blocks.
    fn spans() -> [Span; 2] {
        let far = 131_072;
        let mut block_table = vec![0; far / BLOCK_SIZE];
        block_table[far / BLOCK_SIZE - 2..].copy_from_slice(&[4, 2]);
        [
            Span { query_start: 0, query_len: 40, context_len: 45, block_table: vec![1, 3] },
            Span { query_start: 40, query_len: 60, context_len: far, block_table },
        ]
    }

    #[test]
    fn q_and_k_turn_by_position_and_k_and_v_land_in_their_slots() {
        let mut rng = fastrand::Rng::with_seed(1);
        let (num_heads, num_kv_heads, magnitude) = (4, 2, 1.25);
        for (isa, style, head_dim) in [
            (Isa::Scalar, RopeStyle::Neox, 12),
            (Isa::Scalar, RopeStyle::Interleaved, 64),
            (Isa::detect(), RopeStyle::Neox, 128),
            (Isa::detect(), RopeStyle::Interleaved, 20),
        ] {
            let columns = (num_heads + 2 * num_kv_heads) * head_dim;
            let before = normal_rows(&mut rng, 100 * columns, 1.0);
            let qkv = Tensor::from_slice(&before, (100, columns), &Device::Cpu).unwrap();
            let rope = RopeTable::new(style, frequencies(head_dim), magnitude);
            let layer = KvLayer::new(5, num_kv_heads, head_dim, KvCacheType::F16, &Device::Cpu).unwrap();
            compute(2, Some(isa)).rope_and_store(&qkv, &rope, &spans(), &layer).unwrap();
            let after = qkv.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let pages = layer.pages.flatten_all().unwrap().to_vec1::<f16>().unwrap();
            for span in spans() {
                for i in 0..span.query_len {
                    let (row, position) = (span.query_start + i, span.first_position() + i);
                    for head in 0..num_heads + 2 * num_kv_heads {
                        let at = row * columns + head * head_dim;
                        let (before, after) = (&before[at..at + head_dim], &after[at..at + head_dim]);
                        let is_value = head >= num_heads + num_kv_heads;
                        if is_value {
                            assert_eq!(before, after, "v is not rotated");
                        } else {
                            let wanted = rotated(style, before, position, magnitude.into());
                            for (found, wanted) in after.iter().zip(wanted) {
                                assert!((f64::from(*found) - wanted).abs() < 2e-6, "{found} is not {wanted}");
                            }
                        }
                        let Some(kv_head) = head.checked_sub(num_heads) else { continue };
                        let (block, offset) = (span.slot(position) / BLOCK_SIZE, position % BLOCK_SIZE);
                        let page = (block * num_kv_heads + kv_head % num_kv_heads) * 2 * BLOCK_SIZE * head_dim;
                        for (d, value) in after.iter().enumerate() {
                            let of_value = (BLOCK_SIZE + offset) * head_dim + d;
                            let place = if is_value { of_value } else { d * BLOCK_SIZE + offset };
                            assert_eq!(pages[page + place], f16::from_f32(*value), "head {head} at {position}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn bytes_and_scales_land_in_their_slots_whatever_the_values() {
        let mut rng = fastrand::Rng::with_seed(2);
        let head_dim = 20;
        let mut rows = normal_rows(&mut rng, 6 * 3 * head_dim, 1.0);
        let values = |rows: &mut Vec<f32>, row: usize, factor: f32| {
            rows[(3 * row + 2) * head_dim..][..head_dim].iter_mut().for_each(|x| *x *= factor);
        };
        values(&mut rows, 1, 0.0);
        values(&mut rows, 2, 1e37);
        values(&mut rows, 3, 1e-39);
        rows[(3 * 4 + 2) * head_dim + 7] = f32::NAN;
        rows[(3 * 5 + 2) * head_dim + 7] = f32::NEG_INFINITY;
        for isa in isas() {
            let qkv = Tensor::from_slice(&rows, (6, 3 * head_dim), &Device::Cpu).unwrap();
            let rope = RopeTable::new(RopeStyle::Neox, frequencies(head_dim), 1.0);
            let layer = KvLayer::new(2, 1, head_dim, KvCacheType::Q8, &Device::Cpu).unwrap();
            let span = Span { query_start: 0, query_len: 6, context_len: 34, block_table: vec![1, 0] };
            compute(1, Some(isa)).rope_and_store(&qkv, &rope, &[span], &layer).unwrap();
            let pages = layer.pages.flatten_all().unwrap().to_vec1::<u8>().unwrap();
            let rotated = qkv.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let half = BLOCK_SIZE * (head_dim + 4);
            for (row, is_value) in (0..6).flat_map(|row| [(row, false), (row, true)]) {
                let (block, offset) = if row < 4 { (1, 28 + row) } else { (0, row - 4) };
                let page = &pages[(2 * block + usize::from(is_value)) * half..][..half];
                let scale = &page[BLOCK_SIZE * head_dim + 4 * offset..][..4];
                let scale = f32::from_le_bytes(scale.try_into().unwrap());
                if is_value && row >= 4 {
                    assert!(scale.is_nan(), "what is not finite stays visible");
                    continue;
                }
                let wanted = &rotated[(3 * row + 1 + usize::from(is_value)) * head_dim..][..head_dim];
                for (d, wanted) in wanted.iter().enumerate() {
                    let place = if is_value { offset * head_dim + d } else { d * BLOCK_SIZE + offset };
                    let found = f32::from(page[place].cast_signed()) * scale;
                    let error = (found - wanted).abs();
                    assert!(error <= scale * 0.50001 + 2e-44, "{isa:?} row {row}: {found} is not {wanted}");
                }
            }
        }
    }

    #[test]
    fn angles_are_those_of_the_step_at_hand() {
        let rope = RopeTable::new(RopeStyle::Neox, vec![1.0, 0.1], 1.0);
        let span = |first: usize, query_len| Span {
            query_start: 0,
            query_len,
            context_len: first + query_len,
            block_table: Vec::new(),
        };
        for (first, len) in [(0, 3), (3, 1), (4, 1), (4, 1), (1, 2), (100, 3)] {
            let angles = rope.angles(&[span(first, len)]);
            for i in 0..len {
                let (cos, sin) = angles.row(i, 2);
                let angle = (first + i) as f64;
                assert_eq!(cos, [angle.cos() as f32, (angle * f64::from(0.1f32)).cos() as f32]);
                assert_eq!(sin, [angle.sin() as f32, (angle * f64::from(0.1f32)).sin() as f32]);
            }
        }
    }
}
