//! The integer products of VNNI in 32-byte vectors: `vpdpbusd` adds four products to 32 bits at once. AVX-512 VNNI and
//! AVX-VNNI are two encodings of the one instruction.
#![expect(clippy::inline_always, reason = "what is not inlined is not compiled for the instruction set")]
#![expect(clippy::needless_range_loop, reason = "register tiles are indexed by group and token")]

use std::arch::x86_64::{
    __m256i, _mm256_dpbusd_avx_epi32, _mm256_dpbusd_epi32, _mm256_set1_epi8, _mm256_set1_epi32, _mm256_setzero_si256,
    _mm256_xor_si256,
};
use std::marker::PhantomData;
use std::ops::Range;

use super::avx2::{IntegerDot, Quads};
use super::{ChunkScale, MicroKernel, Output, Term};
use crate::formats::quants::Quants;
use crate::formats::{CHUNK, Format};
use crate::packed::Part;

/// The walk with these products, compiled for AVX-VNNI.
///
/// # Safety
/// As of [`super::Multiply`].
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
pub(super) unsafe fn multiply<F: Format, K: MicroKernel<F>>(
    part: &Part,
    groups: Range<usize>,
    x: Term<'_>,
    out: Output<'_>,
) {
    // SAFETY: the caller's promise.
    unsafe { super::multiply::<F, K>(part, groups, x, out) }
}

/// An encoding of `vpdpbusd`.
pub(super) trait Encoding {
    /// Adds to each of 8 sums four products of unsigned and signed bytes.
    ///
    /// # Safety
    /// The instruction must be there in this encoding.
    unsafe fn add_products(sums: __m256i, unsigned: __m256i, signed: __m256i) -> __m256i;
}

/// AVX-512 VNNI with AVX-512 VL.
pub(super) enum Evex {}
/// AVX-VNNI.
pub(super) enum Vex {}

impl Encoding for Evex {
    #[inline(always)]
    unsafe fn add_products(sums: __m256i, unsigned: __m256i, signed: __m256i) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { _mm256_dpbusd_epi32(sums, unsigned, signed) }
    }
}

impl Encoding for Vex {
    #[inline(always)]
    unsafe fn add_products(sums: __m256i, unsigned: __m256i, signed: __m256i) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { _mm256_dpbusd_avx_epi32(sums, unsigned, signed) }
    }
}

/// `vpdpbusd` in one of its encodings.
pub(super) struct Vnni<E>(PhantomData<E>);

impl<E: Encoding> IntegerDot for Vnni<E> {
    /// One factor is unsigned: signed weights get 128 added, which the sum of the activations takes away again.
    #[inline(always)]
    unsafe fn prepare<F: Format>(mut quants: Quads) -> Quads {
        if F::Quants::SIGNED {
            for quants in &mut quants {
                // SAFETY: the caller's promise.
                *quants = unsafe { _mm256_xor_si256(*quants, _mm256_set1_epi8(-128)) };
            }
        }
        quants
    }

    #[inline(always)]
    unsafe fn dot<F: Format, const G: usize, const T: usize>(
        weights: &[Quads; G],
        values: *const u8,
        activations: *const ChunkScale,
        vectors: Range<usize>,
    ) -> [[__m256i; T]; G] {
        // SAFETY: the caller's promise.
        unsafe {
            let mut totals = [[_mm256_setzero_si256(); T]; G];
            if F::Quants::SIGNED {
                for t in 0..T {
                    let offset = _mm256_set1_epi32(-128 * (*activations.add(t)).integer_sum);
                    for g in 0..G {
                        totals[g][t] = offset;
                    }
                }
            }
            for v in vectors {
                for t in 0..T {
                    let x = _mm256_set1_epi32(values.add(t * CHUNK + v * 4).cast::<i32>().read_unaligned());
                    for g in 0..G {
                        totals[g][t] = E::add_products(totals[g][t], weights[g][v], x);
                    }
                }
            }
            totals
        }
    }
}
