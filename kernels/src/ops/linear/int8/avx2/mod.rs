//! 32-byte vectors of 8 rows by 4 columns, and the integer products of AVX2: four columns of a row meet a token's four
//! in `vpmaddubsw`.
#![expect(clippy::inline_always, reason = "what is not inlined is not compiled for the instruction set")]
#![expect(clippy::needless_range_loop, reason = "register tiles are indexed by group and token")]

mod blocks;
mod chunks;

use std::arch::x86_64::{
    __m128i, __m256i, _MM_HINT_T0, _mm_prefetch, _mm_unpacklo_epi8, _mm256_abs_epi8, _mm256_add_epi16,
    _mm256_add_epi32, _mm256_cvtepi8_epi16, _mm256_cvtepi8_epi32, _mm256_madd_epi16, _mm256_maddubs_epi16,
    _mm256_mullo_epi32, _mm256_set1_epi16, _mm256_set1_epi32, _mm256_setzero_si256, _mm256_sign_epi8,
};
use std::ops::Range;

pub(super) use blocks::Blocks;
pub(super) use chunks::Chunks;

use super::{ChunkScale, MicroKernel, Output, Term};
use crate::formats::quants::Quants;
use crate::formats::scaling::Scaling;
use crate::formats::{CHUNK, Format};
use crate::packed::Part;

/// The walk with a micro-kernel, compiled for this instruction set.
///
/// # Safety
/// As of [`super::Multiply`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn multiply<F: Format, K: MicroKernel<F>>(
    part: &Part,
    groups: Range<usize>,
    x: Term<'_>,
    out: Output<'_>,
) {
    // SAFETY: the caller's promise.
    unsafe { super::multiply::<F, K>(part, groups, x, out) }
}

/// 8 rows by 32 columns of integers, a byte each: vector `v` holds columns `4v..4v + 4` of every row.
pub(super) type Quads = [__m256i; 8];

/// A way to multiply 8-bit integers. All sums are exact, for `G` groups of 8 rows and `T` tokens over some vectors of a
/// chunk.
pub(super) trait IntegerDot {
    /// Brings unpacked weights into the form that is multiplied.
    ///
    /// # Safety
    /// AVX2 must be there.
    #[inline(always)]
    unsafe fn prepare<F: Format>(quants: Quads) -> Quads {
        quants
    }

    /// Sums of products.
    ///
    /// # Safety
    /// The instruction set must be there; `T * 32` readable bytes at `values` and `T` scales at `activations`.
    unsafe fn dot<F: Format, const G: usize, const T: usize>(
        weights: &[Quads; G],
        values: *const u8,
        activations: *const ChunkScale,
        vectors: Range<usize>,
    ) -> [[__m256i; T]; G];

    /// Brings 8 rows' signed bytes into the form that [`IntegerDot::scaled_dot`] takes.
    ///
    /// # Safety
    /// AVX2 must be there.
    #[inline(always)]
    unsafe fn factors(bytes: __m128i) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { _mm256_cvtepi8_epi32(bytes) }
    }

    /// Sums of products, each row's times its factor.
    ///
    /// # Safety
    /// As of [`IntegerDot::dot`].
    #[inline(always)]
    unsafe fn scaled_dot<F: Format, const G: usize, const T: usize>(
        weights: &[Quads; G],
        factors: &[__m256i; G],
        values: *const u8,
        activations: *const ChunkScale,
        vectors: Range<usize>,
    ) -> [[__m256i; T]; G] {
        // SAFETY: the caller's promise.
        unsafe {
            let mut totals = Self::dot::<F, G, T>(weights, values, activations, vectors);
            for g in 0..G {
                for t in 0..T {
                    totals[g][t] = _mm256_mullo_epi32(totals[g][t], factors[g]);
                }
            }
            totals
        }
    }
}

/// `vpmaddubsw` with sums in 16 bits as long as they fit.
pub(super) enum MultiplyAdd {}

/// How far ahead of the weights being read memory is asked for, in bytes.
const PREFETCH: usize = 1024;

/// Integers of chunk `index` of the blocks at `blocks`, one of each group.
///
/// # Safety
/// AVX2, and whole blocks of format `F`.
#[inline(always)]
pub(super) unsafe fn load<F: Format, D: IntegerDot, const G: usize, const AHEAD: bool>(
    blocks: [*const u8; G],
    index: usize,
) -> [Quads; G] {
    // SAFETY: the caller's promise; prefetching reads nothing.
    unsafe {
        let mut weights = [[_mm256_setzero_si256(); 8]; G];
        let start = F::Scaling::BYTES + index * F::Quants::BYTES;
        for g in 0..G {
            let quants = blocks[g].add(start);
            if AHEAD {
                for line in 0..F::Quants::BYTES.div_ceil(64) {
                    _mm_prefetch::<_MM_HINT_T0>(quants.wrapping_add(PREFETCH + line * 64).cast());
                }
            }
            weights[g] = D::prepare::<F>(F::Quants::load(quants));
        }
        weights
    }
}

/// Vectors of `G` groups and `T` tokens from `token` on, in memory as `[group][token: padded]`.
///
/// # Safety
/// AVX2; the vectors are readable.
#[inline(always)]
unsafe fn load_tile<V: Copy, const G: usize, const T: usize>(
    vectors: *const V,
    padded: usize,
    token: usize,
) -> [[V; T]; G] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut tile = [[vectors.add(token).read_unaligned(); T]; G];
        for g in 0..G {
            for t in 0..T {
                tile[g][t] = vectors.add(g * padded + token + t).read_unaligned();
            }
        }
        tile
    }
}

/// Puts them back.
///
/// # Safety
/// AVX2; the vectors are writable.
#[inline(always)]
unsafe fn store_tile<V: Copy, const G: usize, const T: usize>(
    vectors: *mut V,
    padded: usize,
    token: usize,
    tile: &[[V; T]; G],
) {
    for g in 0..G {
        for t in 0..T {
            // SAFETY: the caller's promise.
            unsafe { vectors.add(g * padded + token + t).write_unaligned(tile[g][t]) };
        }
    }
}

/// Signed bytes of two sub-blocks of 8 rows as pairs of 16 bits.
///
/// # Safety
/// AVX2.
#[inline(always)]
pub(super) unsafe fn pairs(first: __m128i, second: __m128i) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe { _mm256_cvtepi8_epi16(_mm_unpacklo_epi8(first, second)) }
}

impl IntegerDot for MultiplyAdd {
    #[inline(always)]
    unsafe fn dot<F: Format, const G: usize, const T: usize>(
        weights: &[Quads; G],
        values: *const u8,
        activations: *const ChunkScale,
        vectors: Range<usize>,
    ) -> [[__m256i; T]; G] {
        // SAFETY: the caller's promise.
        unsafe { Self::scaled_dot::<F, G, T>(weights, &[_mm256_set1_epi16(1); G], values, activations, vectors) }
    }

    #[inline(always)]
    unsafe fn factors(bytes: __m128i) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { pairs(bytes, bytes) }
    }

    /// The addition of neighbours that makes 32 bits of 16 multiplies as well.
    #[inline(always)]
    unsafe fn scaled_dot<F: Format, const G: usize, const T: usize>(
        weights: &[Quads; G],
        factors: &[__m256i; G],
        values: *const u8,
        _: *const ChunkScale,
        vectors: Range<usize>,
    ) -> [[__m256i; T]; G] {
        let run = F::Quants::RUN.min(vectors.len());
        // SAFETY: the caller's promise.
        unsafe {
            let mut totals = [[_mm256_setzero_si256(); T]; G];
            for start in vectors.clone().step_by(run) {
                let mut products = [[_mm256_setzero_si256(); T]; G];
                for v in start..start + run {
                    for t in 0..T {
                        let x = _mm256_set1_epi32(values.add(t * CHUNK + v * 4).cast::<i32>().read_unaligned());
                        for g in 0..G {
                            let product = multiply_add::<F>(weights[g][v], x);
                            products[g][t] =
                                if v == start { product } else { pin(_mm256_add_epi16(products[g][t], product)) };
                        }
                    }
                }
                for t in 0..T {
                    for g in 0..G {
                        let wide = _mm256_madd_epi16(products[g][t], factors[g]);
                        totals[g][t] =
                            if start == vectors.start { wide } else { pin(_mm256_add_epi32(totals[g][t], wide)) };
                    }
                }
            }
            totals
        }
    }
}

/// Sums of two neighbouring products in 16 bits each. Signed weights give their sign to the activations, as the
/// instruction takes one unsigned factor; |w| <= 128 and |x| <= 127 keep that inside 16 bits.
///
/// # Safety
/// AVX2.
#[inline(always)]
unsafe fn multiply_add<F: Format>(quants: __m256i, x: __m256i) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        if F::Quants::SIGNED {
            _mm256_maddubs_epi16(_mm256_abs_epi8(quants), _mm256_sign_epi8(x, quants))
        } else {
            _mm256_maddubs_epi16(quants, x)
        }
    }
}

/// Keeps the compiler from reordering chains of additions, which costs it registers. Emits no instruction.
///
/// # Safety
/// AVX2.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn pin(mut v: __m256i) -> __m256i {
    // SAFETY: an empty instruction sequence.
    unsafe { std::arch::asm!("/* {0} */", inout(ymm_reg) v, options(pure, nomem, nostack, preserves_flags)) };
    v
}
