//! The micro-kernel over 32-byte vectors of 8 rows by 4 columns, and the integer products of AVX2: four columns of a
//! row meet a token's four in `vpmaddubsw`.
#![expect(clippy::inline_always, reason = "what is not inlined is not compiled for the instruction set")]
#![expect(clippy::needless_range_loop, reason = "register tiles are indexed by group and token")]

use std::arch::x86_64::{
    __m256, __m256i, _MM_HINT_T0, _mm_prefetch, _mm256_abs_epi8, _mm256_add_epi16, _mm256_add_epi32,
    _mm256_broadcast_ss, _mm256_cvtepi32_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_madd_epi16, _mm256_maddubs_epi16,
    _mm256_mul_ps, _mm256_set1_epi16, _mm256_set1_epi32, _mm256_setzero_ps, _mm256_setzero_si256, _mm256_sign_epi8,
    _mm256_storeu_ps,
};
use std::marker::PhantomData;
use std::ops::Range;

use super::{MicroKernel, Output, Scale, Sums, Term, Tile};
use crate::formats::quants::Quants;
use crate::formats::scaling::{Scales, Scaling};
use crate::formats::{CHUNK, Format, GROUP};
use crate::packed::Part;

/// The walk with this micro-kernel, compiled for its instruction set.
///
/// # Safety
/// As of [`super::Multiply`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn multiply<F: Format>(part: &Part, groups: Range<usize>, x: Term<'_>, out: Output<'_>) {
    // SAFETY: the caller's promise.
    unsafe { super::multiply::<F, Vectors<MultiplyAdd>>(part, groups, x, out) }
}

/// The micro-kernel for any machine with AVX2, given its way to multiply integers.
pub(super) struct Vectors<D>(PhantomData<D>);

/// A way to multiply 8-bit integers.
pub(super) trait IntegerDot {
    /// Brings unpacked weights into the form that [`IntegerDot::dot`] takes.
    ///
    /// # Safety
    /// AVX2 must be there.
    #[inline(always)]
    unsafe fn prepare<F: Format>(quants: [__m256i; 8]) -> [__m256i; 8] {
        quants
    }

    /// Exact sums of products of `G` groups and `T` tokens over sub-block `sub` of 32 columns.
    ///
    /// # Safety
    /// The instruction set must be there; `T * 32` readable bytes at `values` and `T` scales at `activations`.
    unsafe fn dot<F: Format, const G: usize, const T: usize>(
        weights: &[Weights; G],
        values: *const u8,
        activations: *const Scale,
        sub: usize,
    ) -> [[__m256i; T]; G];
}

/// `vpmaddubsw` with sums in 16 bits as long as they fit.
enum MultiplyAdd {}

/// One group's chunk, unpacked: 8 rows by 32 columns.
#[derive(Clone, Copy)]
pub(super) struct Weights {
    pub(super) quants: [__m256i; 8],
    pub(super) scales: Scales<__m256>,
}

/// How far ahead of the weights being read memory is asked for, in bytes.
const PREFETCH: usize = 1024;

impl<D: IntegerDot> MicroKernel for Vectors<D> {
    #[inline(always)]
    unsafe fn product<F: Format, const G: usize, const T: usize, const STREAM: bool>(
        groups: [&[u8]; G],
        tile: &Tile<'_>,
        sums: &mut Sums,
    ) {
        let chunks = groups[0].len() / F::BLOCK_BYTES * F::Scaling::CHUNKS;
        let padded = tile.padded;
        debug_assert!(G * padded * GROUP <= sums.0.len() && padded.is_multiple_of(T));
        debug_assert!(!STREAM || padded == T);
        let sums = sums.0.as_mut_ptr();
        // SAFETY: groups hold `chunks` chunks and tiles as many; sums hold `G * padded` vectors as asserted.
        unsafe {
            let mut kept = [[_mm256_setzero_ps(); T]; G];
            if !STREAM {
                std::slice::from_raw_parts_mut(sums, G * padded * GROUP).fill(0.0);
            }
            for chunk in 0..chunks {
                let weights = load::<F, D, G, STREAM>(groups, chunk);
                let (values, scales) = tile.chunk(chunk);
                let (values, scales) = (values.as_ptr(), scales.as_ptr());
                if STREAM {
                    dot::<F, D, G, T>(&weights, values, scales, &mut kept);
                } else {
                    for token in (0..padded).step_by(T) {
                        let at = |g: usize, t: usize| sums.add((g * padded + token + t) * GROUP);
                        for g in 0..G {
                            for t in 0..T {
                                kept[g][t] = _mm256_loadu_ps(at(g, t));
                            }
                        }
                        dot::<F, D, G, T>(&weights, values.add(token * CHUNK), scales.add(token), &mut kept);
                        for g in 0..G {
                            for t in 0..T {
                                _mm256_storeu_ps(at(g, t), kept[g][t]);
                            }
                        }
                    }
                }
            }
            if STREAM {
                for g in 0..G {
                    for t in 0..T {
                        _mm256_storeu_ps(sums.add((g * T + t) * GROUP), kept[g][t]);
                    }
                }
            }
        }
    }
}

/// # Safety
/// AVX2 and F16C; groups are of format `F` and longer than `chunk` chunks.
#[inline(always)]
pub(super) unsafe fn load<F: Format, D: IntegerDot, const G: usize, const AHEAD: bool>(
    groups: [&[u8]; G],
    chunk: usize,
) -> [Weights; G] {
    let (block, index) = (chunk / F::Scaling::CHUNKS, chunk % F::Scaling::CHUNKS);
    // SAFETY: the caller's promise; prefetching reads nothing.
    unsafe {
        let zero = Scales { scale: [_mm256_setzero_ps(); 2], min: [_mm256_setzero_ps(); 2] };
        let mut weights = [Weights { quants: [_mm256_setzero_si256(); 8], scales: zero }; G];
        for g in 0..G {
            let header = groups[g].as_ptr().add(block * F::BLOCK_BYTES);
            let quants = header.add(F::Scaling::BYTES + index * F::Quants::BYTES);
            if AHEAD {
                for line in 0..F::Quants::BYTES.div_ceil(64) {
                    _mm_prefetch::<_MM_HINT_T0>(quants.wrapping_add(PREFETCH + line * 64).cast());
                }
            }
            weights[g] =
                Weights { quants: D::prepare::<F>(F::Quants::load(quants)), scales: F::Scaling::load(header, index) };
        }
        weights
    }
}

/// Adds the products of `G` groups and `T` tokens over 32 columns to `sums`.
///
/// # Safety
/// AVX2 and FMA; `T * 32` readable bytes at `values` and `T` scales at `activations`.
#[inline(always)]
unsafe fn dot<F: Format, D: IntegerDot, const G: usize, const T: usize>(
    weights: &[Weights; G],
    values: *const u8,
    activations: *const Scale,
    sums: &mut [[__m256; T]; G],
) {
    // SAFETY: the caller's promise.
    unsafe {
        for sub in 0..F::Scaling::SUB {
            let totals = D::dot::<F, G, T>(weights, values, activations, sub);
            for t in 0..T {
                let activation = &*activations.add(t);
                let d = _mm256_broadcast_ss(&activation.d);
                let sum = if F::Scaling::SUB == 1 { &activation.sum } else { &activation.half_sums[sub] };
                let sum = _mm256_broadcast_ss(sum);
                for g in 0..G {
                    let Scales { scale, min } = &weights[g].scales;
                    let total = _mm256_cvtepi32_ps(totals[g][t]);
                    sums[g][t] = _mm256_fmadd_ps(_mm256_mul_ps(scale[sub], d), total, sums[g][t]);
                    if F::Scaling::MINS {
                        sums[g][t] = _mm256_fmadd_ps(min[sub], sum, sums[g][t]);
                    }
                }
            }
        }
    }
}

impl IntegerDot for MultiplyAdd {
    #[inline(always)]
    unsafe fn dot<F: Format, const G: usize, const T: usize>(
        weights: &[Weights; G],
        values: *const u8,
        _: *const Scale,
        sub: usize,
    ) -> [[__m256i; T]; G] {
        let vectors = 8 / F::Scaling::SUB;
        let run = F::Quants::RUN.min(vectors);
        // SAFETY: the caller's promise.
        unsafe {
            let ones = _mm256_set1_epi16(1);
            let mut totals = [[_mm256_setzero_si256(); T]; G];
            for start in (0..vectors).step_by(run) {
                let mut products = [[_mm256_setzero_si256(); T]; G];
                for i in 0..run {
                    let v = sub * vectors + start + i;
                    for t in 0..T {
                        let x = _mm256_set1_epi32(values.add(t * CHUNK + v * 4).cast::<i32>().read_unaligned());
                        for g in 0..G {
                            let product = multiply_add::<F>(weights[g].quants[v], x);
                            products[g][t] =
                                if i == 0 { product } else { pin(_mm256_add_epi16(products[g][t], product)) };
                        }
                    }
                }
                for t in 0..T {
                    for g in 0..G {
                        let wide = _mm256_madd_epi16(products[g][t], ones);
                        totals[g][t] = if start == 0 { wide } else { pin(_mm256_add_epi32(totals[g][t], wide)) };
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
