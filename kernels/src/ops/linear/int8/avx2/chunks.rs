//! Products with scales per 32 columns, for any machine with AVX2, given its way to multiply integers.
#![expect(clippy::inline_always, reason = "what is not inlined is not compiled for the instruction set")]
#![expect(clippy::needless_range_loop, reason = "register tiles are indexed by group and token")]

use std::arch::x86_64::{
    __m256, _mm256_broadcast_ss, _mm256_cvtepi32_ps, _mm256_fmadd_ps, _mm256_mul_ps, _mm256_setzero_ps,
};
use std::marker::PhantomData;
use std::ptr;

use super::{IntegerDot, Quads, load, load_tile, store_tile};
use crate::formats::scaling::Scaling;
use crate::formats::scaling::chunk::ChunkScaling;
use crate::formats::{CHUNK, Format, GROUP};
use crate::ops::linear::int8::{ChunkScale, MicroKernel, Sums, Tile};

/// The micro-kernel.
pub(in crate::ops::linear::int8) struct Chunks<D>(PhantomData<D>);

/// 32 columns of `G` groups.
struct Weights<const G: usize> {
    quants: [Quads; G],
    scales: [__m256; G],
    minima: [__m256; G],
}

impl<F: Format<Scaling: ChunkScaling>, D: IntegerDot> MicroKernel<F> for Chunks<D> {
    #[inline(always)]
    unsafe fn product<const G: usize, const T: usize, const STREAM: bool>(
        groups: [&[u8]; G],
        tile: &Tile<'_>,
        sums: &mut Sums,
    ) {
        let padded = tile.padded;
        debug_assert!(G * padded * GROUP <= sums.0.len() && padded.is_multiple_of(T));
        debug_assert!(!STREAM || padded == T);
        sums.0[..G * padded * GROUP].fill(0.0);
        let vectors = ptr::from_mut(sums).cast::<__m256>();
        // SAFETY: groups and tiles have the same columns; sums hold `G * padded` vectors as asserted.
        unsafe {
            let mut kept = [[_mm256_setzero_ps(); T]; G];
            for chunk in 0..groups[0].len() / F::BLOCK_BYTES {
                let blocks = groups.map(|group| group.as_ptr().add(chunk * F::BLOCK_BYTES));
                let quants = load::<F, D, G, STREAM>(blocks, 0);
                let mut weights =
                    Weights { quants, scales: [_mm256_setzero_ps(); G], minima: [_mm256_setzero_ps(); G] };
                for g in 0..G {
                    (weights.scales[g], weights.minima[g]) = F::Scaling::load(blocks[g]);
                }
                let (values, scales) = tile.chunk(chunk);
                let (values, scales) = (values.as_ptr(), scales.as_ptr());
                if STREAM {
                    add::<F, D, G, T>(&weights, values, scales, &mut kept);
                    continue;
                }
                for token in (0..padded).step_by(T) {
                    kept = load_tile(vectors, padded, token);
                    add::<F, D, G, T>(&weights, values.add(token * CHUNK), scales.add(token), &mut kept);
                    store_tile(vectors, padded, token, &kept);
                }
            }
            if STREAM {
                store_tile(vectors, padded, 0, &kept);
            }
        }
    }
}

/// Adds the products over 32 columns to `sums`.
///
/// # Safety
/// AVX2 and FMA; `T * 32` readable bytes at `values` and `T` scales at `activations`.
#[inline(always)]
unsafe fn add<F: Format<Scaling: ChunkScaling>, D: IntegerDot, const G: usize, const T: usize>(
    weights: &Weights<G>,
    values: *const u8,
    activations: *const ChunkScale,
    sums: &mut [[__m256; T]; G],
) {
    // SAFETY: the caller's promise.
    unsafe {
        let totals = D::dot::<F, G, T>(&weights.quants, values, activations, 0..8);
        for t in 0..T {
            let activation = &*activations.add(t);
            let (d, sum) = (_mm256_broadcast_ss(&activation.d), _mm256_broadcast_ss(&activation.sum));
            for g in 0..G {
                let total = _mm256_cvtepi32_ps(totals[g][t]);
                sums[g][t] = _mm256_fmadd_ps(_mm256_mul_ps(weights.scales[g], d), total, sums[g][t]);
                if F::Scaling::MINS {
                    sums[g][t] = _mm256_fmadd_ps(weights.minima[g], sum, sums[g][t]);
                }
            }
        }
    }
}
