//! The inner loops of attention, for every instruction set. Each output row is computed on its own, in an order that
//! its neighbours do not change.
#![expect(clippy::inline_always, reason = "whatever is not inlined into the kernel loses its instruction set")]

use std::ops::Range;

use half::f16;

use super::PARTITION;
use crate::kv::BLOCK_SIZE;
use crate::simd::{Kernel, LANES, Simd};

/// Elements of a page: as stored, or f32 when many rows share the conversion.
pub(super) trait Element: Copy {
    /// Whether the elements lie in the cache of keys and values, and may have to come from memory.
    const STORED: bool;

    fn load<S: Simd>(simd: S, from: &[Self; LANES]) -> S::V;
    fn to_f32(self) -> f32;
}

/// Elements of the cache.
pub(super) trait Stored: Element + Send + Sync {
    /// The factors of a half page's positions, from what follows its elements, if it has any.
    fn scales(rest: &[Self]) -> Option<[f32; BLOCK_SIZE]>;
}

impl Stored for f16 {
    fn scales(_: &[Self]) -> Option<[f32; BLOCK_SIZE]> {
        None
    }
}

impl Stored for u8 {
    fn scales(rest: &[Self]) -> Option<[f32; BLOCK_SIZE]> {
        let scales = rest.as_chunks().0;
        Some(std::array::from_fn(|i| f32::from_le_bytes(scales[i])))
    }
}

impl Element for f16 {
    const STORED: bool = true;

    #[inline(always)]
    fn load<S: Simd>(simd: S, from: &[Self; LANES]) -> S::V {
        simd.load_f16(from)
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self.to_f32()
    }
}

/// A signed byte.
impl Element for u8 {
    const STORED: bool = true;

    #[inline(always)]
    fn load<S: Simd>(simd: S, from: &[Self; LANES]) -> S::V {
        simd.load_i8(from)
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from(self.cast_signed())
    }
}

impl Element for f32 {
    const STORED: bool = false;

    #[inline(always)]
    fn load<S: Simd>(simd: S, from: &[Self; LANES]) -> S::V {
        simd.load(from)
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
}

/// `c = a · b`, or `c += a · b`. An element of `c` is one chain of multiply-adds over `depth` in order.
pub(super) struct Product<'a, B> {
    pub rows: usize,
    /// `(rows, a_stride)`, of whose rows the first `depth` elements count.
    pub a: &'a [f32],
    pub a_stride: usize,
    /// `(depth, columns)`.
    pub b: &'a [B],
    pub depth: usize,
    /// A multiple of [`LANES`].
    pub columns: usize,
    /// `(rows, c_stride)`, of whose rows the first `columns` elements count.
    pub c: &'a mut [f32],
    pub c_stride: usize,
    /// Whether to add to what `c` holds.
    pub add: bool,
    /// What will be needed soon, brought into the cache meanwhile: a row with every row of `b`; or empty.
    pub ahead: &'a [B],
}

impl<B: Element> Kernel for Product<'_, B> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let last = self.rows.saturating_sub(1);
        assert!(self.columns.is_multiple_of(LANES) && self.b.len() >= self.depth * self.columns);
        assert!(self.rows == 0 || self.a.len() >= last * self.a_stride + self.depth);
        assert!(self.rows == 0 || self.c.len() >= last * self.c_stride + self.columns);
        let wide = S::REGISTERS >= 32;
        let mut product = self;
        let mut row = 0;
        while row < product.rows {
            // SAFETY: the assertions above cover every row below `rows`.
            row += unsafe {
                match product.rows - row {
                    1 => product.panels::<S, 1, 4>(simd, row),
                    2 if wide => product.panels::<S, 2, 4>(simd, row),
                    2 => product.panels::<S, 2, 2>(simd, row),
                    3 if wide => product.panels::<S, 3, 4>(simd, row),
                    3 => product.panels::<S, 3, 1>(simd, row),
                    4 if wide => product.panels::<S, 4, 4>(simd, row),
                    4 => product.panels::<S, 4, 1>(simd, row),
                    5 if wide => product.panels::<S, 5, 4>(simd, row),
                    5 => product.panels::<S, 5, 1>(simd, row),
                    _ if wide => product.panels::<S, 6, 4>(simd, row),
                    _ => product.panels::<S, 6, 1>(simd, row),
                }
            };
        }
    }
}

impl<B: Element> Product<'_, B> {
    /// All columns of `M` rows from `row`, `N` vectors at a time as long as there are so many. Returns `M`.
    ///
    /// # Safety
    /// The rows must lie inside `a` and `c`, and `b` must have `depth` rows.
    #[inline(always)]
    unsafe fn panels<S: Simd, const M: usize, const N: usize>(&mut self, simd: S, row: usize) -> usize {
        let mut column = 0;
        // SAFETY: the caller's promise, and columns stay below `self.columns`, a multiple of `LANES`.
        unsafe {
            while column + N * LANES <= self.columns {
                self.panel::<S, M, N>(simd, row, column);
                column += N * LANES;
            }
            while N > 2 && column + 2 * LANES <= self.columns {
                self.panel::<S, M, 2>(simd, row, column);
                column += 2 * LANES;
            }
            while column < self.columns {
                self.panel::<S, M, 1>(simd, row, column);
                column += LANES;
            }
        }
        M
    }

    /// `M` rows by `N` vectors of columns.
    ///
    /// # Safety
    /// As for [`Product::panels`], with `column + N * LANES <= columns`.
    #[inline(always)]
    unsafe fn panel<S: Simd, const M: usize, const N: usize>(&mut self, simd: S, row: usize, column: usize) {
        let mut sums = [[simd.splat(0.0); N]; M];
        // SAFETY: the caller's promise covers every index below; a prefetch may miss.
        unsafe {
            let c = self.c.as_mut_ptr().add(row * self.c_stride + column);
            if self.add {
                for (m, sums) in sums.iter_mut().enumerate() {
                    for (n, sum) in sums.iter_mut().enumerate() {
                        *sum = simd.load(&*c.add(m * self.c_stride + n * LANES).cast());
                    }
                }
            }
            let a = self.a.as_ptr().add(row * self.a_stride);
            let b = self.b.as_ptr().add(column);
            let ahead = if row == 0 && !self.ahead.is_empty() { self.ahead } else { self.b };
            let ahead = ahead.as_ptr().wrapping_add(column);
            for k in 0..self.depth {
                let b = b.add(k * self.columns);
                if B::STORED {
                    for line in 0..(N * LANES * size_of::<B>()).div_ceil(64) {
                        simd.prefetch(ahead.wrapping_add(k * self.columns).wrapping_byte_add(line * 64));
                    }
                }
                if M < 4 {
                    let mut factors = [simd.splat(0.0); M];
                    for (m, factor) in factors.iter_mut().enumerate() {
                        *factor = simd.splat(*a.add(m * self.a_stride + k));
                    }
                    for n in 0..N {
                        let value = B::load(simd, &*b.add(n * LANES).cast());
                        for (sums, factor) in sums.iter_mut().zip(factors) {
                            sums[n] = simd.mul_add(factor, value, sums[n]);
                        }
                    }
                } else {
                    let mut values = [simd.splat(0.0); N];
                    for (n, value) in values.iter_mut().enumerate() {
                        *value = B::load(simd, &*b.add(n * LANES).cast());
                    }
                    for (m, sums) in sums.iter_mut().enumerate() {
                        let factor = simd.splat(*a.add(m * self.a_stride + k));
                        for (sum, value) in sums.iter_mut().zip(values) {
                            *sum = simd.mul_add(factor, value, *sum);
                        }
                    }
                }
            }
            for (m, sums) in sums.iter().enumerate() {
                for (n, sum) in sums.iter().enumerate() {
                    simd.store(*sum, &mut *c.add(m * self.c_stride + n * LANES).cast());
                }
            }
        }
    }
}

/// Scores of a partition become weights against the row's largest score.
pub(super) struct Softmax<'a> {
    /// `(rows, PARTITION)`: scores, then weights, where seen and up to the next whole vector.
    pub scores: &'a mut [f32],
    /// The positions that the rows see.
    pub seen: Range<usize>,
    /// `(rows)`, written: the largest score.
    pub max: &'a mut [f32],
    /// `(rows)`, written: the sum of the weights.
    pub sum: &'a mut [f32],
}

impl Kernel for Softmax<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Range { start, end } = self.seen;
        let (first, last) = (start / LANES, end.div_ceil(LANES));
        let rows = self.scores.as_chunks_mut::<PARTITION>().0;
        for ((scores, max), sum) in rows.iter_mut().zip(self.max).zip(self.sum) {
            scores[first * LANES..start].fill(f32::NEG_INFINITY);
            scores[end..last * LANES].fill(f32::NEG_INFINITY);
            let vectors = &mut scores.as_chunks_mut::<LANES>().0[first..last];
            let mut largest = simd.splat(f32::NEG_INFINITY);
            for scores in &*vectors {
                largest = simd.max(largest, simd.load(scores));
            }
            *max = simd.max_lane(largest);
            let (largest, mut total) = (simd.splat(*max), simd.splat(0.0));
            for scores in vectors {
                let weights = simd.exp(simd.sub(simd.load(scores), largest));
                simd.store(weights, scores);
                total = simd.add(total, weights);
            }
            *sum = simd.sum(total);
        }
    }
}

/// Merges the softmax of later positions into that of earlier ones (Milakov & Gimelshein, 2018), all not yet normalised.
pub(super) struct Merge<'a> {
    /// `(rows, columns)`, columns a multiple of [`LANES`]: values times weights.
    pub values: &'a mut [f32],
    /// `(rows)`: the largest score.
    pub max: &'a mut [f32],
    /// `(rows)`: the sum of weights.
    pub weights: &'a mut [f32],
    pub later_values: &'a [f32],
    pub later_max: &'a [f32],
    /// 0 in a row that has seen nothing there.
    pub later_weights: &'a [f32],
}

impl Kernel for Merge<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let vectors = self.values.len() / self.max.len() / LANES;
        let values = self.values.as_chunks_mut::<LANES>().0.chunks_exact_mut(vectors);
        let later_values = self.later_values.as_chunks::<LANES>().0.chunks_exact(vectors);
        for (row, (values, later_values)) in values.zip(later_values).enumerate() {
            if self.later_weights[row] == 0.0 {
                continue;
            }
            let max = self.max[row].max(self.later_max[row]);
            let old = simd.exp(simd.splat(self.max[row] - max));
            let new = simd.exp(simd.splat(self.later_max[row] - max));
            self.max[row] = max;
            self.weights[row] =
                self.weights[row] * simd.to_array(old)[0] + self.later_weights[row] * simd.to_array(new)[0];
            for (value, later) in values.iter_mut().zip(later_values) {
                let sum = simd.mul_add(simd.load(value), old, simd.mul(simd.load(later), new));
                simd.store(sum, value);
            }
        }
    }
}

/// Multiplies the columns of a block by factors of their positions.
pub(super) struct Scale<'a> {
    /// `(rows, PARTITION)`, from the block's first column on: of each row as many elements as there are factors.
    pub rows: &'a mut [f32],
    pub factors: &'a [f32; BLOCK_SIZE],
}

impl Kernel for Scale<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let factors = self.factors.as_chunks::<LANES>().0;
        for row in self.rows.chunks_mut(PARTITION) {
            for (values, factors) in row.as_chunks_mut::<LANES>().0.iter_mut().zip(factors) {
                simd.store(simd.mul(simd.load(values), simd.load(factors)), values);
            }
        }
    }
}

/// Converts stored elements to f32, unscaled.
pub(super) struct Convert<'a, B> {
    pub from: &'a [B],
    pub to: &'a mut [f32],
}

impl<B: Element> Kernel for Convert<'_, B> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (from, from_rest) = self.from.as_chunks::<LANES>();
        let (to, to_rest) = self.to.as_chunks_mut::<LANES>();
        for (from, to) in from.iter().zip(to) {
            simd.store(B::load(simd, from), to);
        }
        for (from, to) in from_rest.iter().zip(to_rest) {
            *to = from.to_f32();
        }
    }
}
