//! The inner loops of attention over one block of keys and values, for every instruction set. Each output row is
//! computed on its own, in an order that its neighbours do not change.
#![expect(clippy::inline_always, reason = "whatever is not inlined into the kernel loses its instruction set")]

use half::f16;

use crate::kv::BLOCK_SIZE;
use crate::simd::{Kernel, Simd};

/// Elements of a cache page: f16 as stored, f32 when many rows share the conversion.
pub(super) trait Element: Copy {
    fn load<S: Simd>(simd: S, from: &[Self; 8]) -> S::V;
}

impl Element for f16 {
    #[inline(always)]
    fn load<S: Simd>(simd: S, from: &[Self; 8]) -> S::V {
        simd.load_f16(from)
    }
}

impl Element for f32 {
    #[inline(always)]
    fn load<S: Simd>(simd: S, from: &[Self; 8]) -> S::V {
        simd.load(from)
    }
}

/// `c = a · b`, or `c = keep · c + a · b`. An element of `c` is one chain of multiply-adds over `depth` in order.
pub(super) struct Product<'a, B> {
    /// `(rows, a_stride)`, of whose rows the first `depth` elements count.
    pub a: &'a [f32],
    pub a_stride: usize,
    /// `(depth, columns)`.
    pub b: &'a [B],
    pub depth: usize,
    /// A multiple of 16.
    pub columns: usize,
    /// `(rows, columns)`.
    pub c: &'a mut [f32],
    /// `(rows)`: factors on what `c` holds; without them it holds nothing yet.
    pub keep: Option<&'a [f32]>,
}

impl<B: Element> Kernel for Product<'_, B> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let rows = self.c.len() / self.columns;
        assert!(self.columns.is_multiple_of(16) && self.b.len() >= self.depth * self.columns);
        assert!(rows == 0 || self.a.len() >= (rows - 1) * self.a_stride + self.depth);
        assert!(self.keep.is_none_or(|keep| keep.len() >= rows));
        let mut row = 0;
        let mut product = self;
        while row < rows {
            // SAFETY: the assertions above cover every row up to `rows`.
            let done = unsafe {
                match rows - row {
                    1 => product.rows::<S, 1, 4>(simd, row),
                    2 => product.rows::<S, 2, 4>(simd, row),
                    3 => product.rows::<S, 3, 4>(simd, row),
                    4 => product.rows::<S, 4, 2>(simd, row),
                    5 => product.rows::<S, 5, 2>(simd, row),
                    _ => product.rows::<S, 6, 2>(simd, row),
                }
            };
            row += done;
        }
    }
}

impl<B: Element> Product<'_, B> {
    /// All columns of `M` rows from `row`, `N` vectors at a time as long as there are so many.
    ///
    /// # Safety
    /// The rows must lie inside `a`, `c` and `keep`, and `b` must have `depth` rows.
    #[inline(always)]
    unsafe fn rows<S: Simd, const M: usize, const N: usize>(&mut self, simd: S, row: usize) -> usize {
        let mut column = 0;
        // SAFETY: the caller's promise, and columns stay below `self.columns`, a multiple of 16.
        unsafe {
            while column + 8 * N <= self.columns {
                self.panel::<S, M, N>(simd, row, column);
                column += 8 * N;
            }
            while column < self.columns {
                self.panel::<S, M, 2>(simd, row, column);
                column += 16;
            }
        }
        M
    }

    /// `M` rows by `N` vectors of columns.
    ///
    /// # Safety
    /// As for [`Product::rows`], with `column + 8 * N <= columns`.
    #[inline(always)]
    unsafe fn panel<S: Simd, const M: usize, const N: usize>(&mut self, simd: S, row: usize, column: usize) {
        let mut sums = [[simd.splat(0.0); N]; M];
        // SAFETY: the caller's promise covers every index below.
        unsafe {
            let c = self.c.as_mut_ptr().add(row * self.columns + column);
            if let Some(keep) = self.keep {
                for (m, sums) in sums.iter_mut().enumerate() {
                    let keep = simd.splat(*keep.get_unchecked(row + m));
                    for (n, sum) in sums.iter_mut().enumerate() {
                        *sum = simd.mul(keep, simd.load(&*c.add(m * self.columns + 8 * n).cast()));
                    }
                }
            }
            let a = self.a.as_ptr().add(row * self.a_stride);
            let b = self.b.as_ptr().add(column);
            for k in 0..self.depth {
                let b = b.add(k * self.columns);
                let mut values = [simd.splat(0.0); N];
                for (n, value) in values.iter_mut().enumerate() {
                    *value = B::load(simd, &*b.add(8 * n).cast());
                }
                for (m, sums) in sums.iter_mut().enumerate() {
                    let factor = simd.splat(*a.add(m * self.a_stride + k));
                    for (sum, value) in sums.iter_mut().zip(values) {
                        *sum = simd.mul_add(factor, value, *sum);
                    }
                }
            }
            for (m, sums) in sums.iter().enumerate() {
                for (n, sum) in sums.iter().enumerate() {
                    simd.store(*sum, &mut *c.add(m * self.columns + 8 * n).cast());
                }
            }
        }
    }
}

/// One step of the online softmax (Milakov & Gimelshein, 2018): scores become weights against the largest score so far.
pub(super) struct Softmax<'a> {
    /// `(rows, BLOCK_SIZE)`: scores, minus infinity where masked; then weights, 0 where masked.
    pub scores: &'a mut [f32],
    /// `(rows)`: the largest score so far.
    pub max: &'a mut [f32],
    /// `(rows)`: the sum of weights so far.
    pub sum: &'a mut [f32],
    /// `(rows)`, written: the factor from the old maximum to the new on all that was summed before.
    pub keep: &'a mut [f32],
}

impl Kernel for Softmax<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let rows = self.scores.as_chunks_mut::<BLOCK_SIZE>().0;
        for (((scores, max), sum), keep) in rows.iter_mut().zip(self.max).zip(self.sum).zip(self.keep) {
            let vectors = scores.as_chunks_mut::<8>().0;
            let mut largest = simd.load(&vectors[0]);
            for scores in &vectors[1..] {
                largest = simd.max(largest, simd.load(scores));
            }
            let new_max = max.max(simd.max_lane(largest));
            // The factor of an unchanged maximum is e^0, exactly 1.
            *keep = if *max < new_max { simd.to_array(simd.exp(simd.splat(*max - new_max)))[0] } else { 1.0 };
            *max = new_max;
            let (new_max, mut total) = (simd.splat(new_max), simd.splat(0.0));
            for scores in vectors {
                let weights = simd.exp(simd.sub(simd.load(scores), new_max));
                simd.store(weights, scores);
                total = simd.add(total, weights);
            }
            *sum = *sum * *keep + simd.sum(total);
        }
    }
}

/// Converts stored elements to f32.
pub(super) struct Convert<'a> {
    pub from: &'a [f16],
    pub to: &'a mut [f32],
}

impl Kernel for Convert<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (from, from_rest) = self.from.as_chunks::<8>();
        let (to, to_rest) = self.to.as_chunks_mut::<8>();
        for (from, to) in from.iter().zip(to) {
            simd.store(simd.load_f16(from), to);
        }
        for (from, to) in from_rest.iter().zip(to_rest) {
            *to = from.to_f32();
        }
    }
}

/// `e^x` of every element.
pub(super) struct Exp<'a>(pub &'a mut [f32; 8]);

impl Kernel for Exp<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        simd.store(simd.exp(simd.load(self.0)), self.0);
    }
}
