//! Products with scales per 256 columns, for any machine with AVX2, given its way to multiply integers.
#![expect(clippy::inline_always, reason = "what is not inlined is not compiled for the instruction set")]
#![expect(clippy::needless_range_loop, reason = "register tiles are indexed by group and token")]

use std::arch::x86_64::{
    __m256, __m256i, _mm_cvtsi32_si128, _mm256_add_epi32, _mm256_cvtepi32_ps, _mm256_fmadd_ps, _mm256_madd_epi16,
    _mm256_mul_ps, _mm256_mullo_epi32, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_ps, _mm256_setzero_si256,
    _mm256_sll_epi32, _mm256_sub_epi32,
};
use std::marker::PhantomData;
use std::ptr;

use super::{IntegerDot, Quads, load, load_tile, pairs, store_tile};
use crate::formats::quants::Quants;
use crate::formats::scaling::Scaling;
use crate::formats::scaling::superblock::SuperScaling;
use crate::formats::{CHUNK, Format, GROUP, SUPER};
use crate::ops::linear::activations::{BlockScale, TILE};
use crate::ops::linear::int8::{MicroKernel, Sums, Tile};

/// The micro-kernel.
pub(in crate::ops::linear::int8) struct Blocks<D>(PhantomData<D>);

/// A chunk of `G` groups.
struct Weights<const G: usize> {
    quants: [Quads; G],
    /// Of either sub-block.
    factors: [[__m256i; G]; 2],
}

impl<F: Format<Scaling: SuperScaling>, D: IntegerDot> MicroKernel<F> for Blocks<D> {
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
        // SAFETY: groups and tiles have the same columns; sums and totals hold `G * padded` vectors as asserted.
        unsafe {
            // Integer sums over the chunks of a block so far.
            let mut totals = [_mm256_setzero_si256(); 2 * TILE];
            let mut kept = [[_mm256_setzero_ps(); T]; G];
            for block in 0..groups[0].len() / F::BLOCK_BYTES {
                let blocks = groups.map(|group| group.as_ptr().add(block * F::BLOCK_BYTES));
                let activations = tile.block(block).as_ptr();
                let mut running = [[_mm256_setzero_si256(); T]; G];
                if STREAM {
                    for c in 0..SUPER {
                        let weights = weights::<F, D, G, STREAM>(blocks, c);
                        add::<F, D, G, T>(&weights, tile, block, c, 0, &mut running);
                    }
                    finish::<F, G, T>(blocks, activations, &running, &mut kept);
                    continue;
                }
                totals[..G * padded].fill(_mm256_setzero_si256());
                let totals = totals.as_mut_ptr();
                for c in 0..SUPER {
                    let weights = weights::<F, D, G, STREAM>(blocks, c);
                    for token in (0..padded).step_by(T) {
                        running = load_tile(totals, padded, token);
                        add::<F, D, G, T>(&weights, tile, block, c, token, &mut running);
                        store_tile(totals, padded, token, &running);
                    }
                }
                for token in (0..padded).step_by(T) {
                    running = load_tile(totals, padded, token);
                    kept = load_tile(vectors, padded, token);
                    finish::<F, G, T>(blocks, activations.add(token), &running, &mut kept);
                    store_tile(vectors, padded, token, &kept);
                }
            }
            if STREAM {
                store_tile(vectors, padded, 0, &kept);
            }
        }
    }
}

/// # Safety
/// As of [`load`].
#[inline(always)]
unsafe fn weights<F: Format<Scaling: SuperScaling>, D: IntegerDot, const G: usize, const AHEAD: bool>(
    blocks: [*const u8; G],
    chunk: usize,
) -> Weights<G> {
    // SAFETY: the caller's promise.
    unsafe {
        let mut factors = [[_mm256_setzero_si256(); G]; 2];
        for sub in 0..F::Scaling::SUB {
            for g in 0..G {
                factors[sub][g] = D::factors(F::Scaling::load_factors(blocks[g], chunk * F::Scaling::SUB + sub));
            }
        }
        Weights { quants: load::<F, D, G, AHEAD>(blocks, chunk), factors }
    }
}

/// Adds the products over chunk `c` of a block with `T` tokens from `token` on to `totals`.
///
/// # Safety
/// AVX2; the tile has those tokens and the block.
#[inline(always)]
unsafe fn add<F: Format<Scaling: SuperScaling>, D: IntegerDot, const G: usize, const T: usize>(
    weights: &Weights<G>,
    tile: &Tile<'_>,
    block: usize,
    c: usize,
    token: usize,
    totals: &mut [[__m256i; T]; G],
) {
    const { assert!(!F::Quants::SIGNED || F::Scaling::SUB == 1) }
    let (values, scales) = tile.chunk(block * SUPER + c);
    let vectors = 8 / F::Scaling::SUB;
    // SAFETY: the caller's promise.
    unsafe {
        let (values, scales) = (values.as_ptr().add(token * CHUNK), scales.as_ptr().add(token));
        let activations = tile.block(block).as_ptr().add(token);
        let mut products = D::scaled_dot::<F, G, T>(&weights.quants, &weights.factors[0], values, scales, 0..vectors);
        if F::Scaling::SUB == 2 {
            let high = D::scaled_dot::<F, G, T>(&weights.quants, &weights.factors[1], values, scales, vectors..8);
            for g in 0..G {
                for t in 0..T {
                    products[g][t] = _mm256_add_epi32(products[g][t], high[g][t]);
                }
            }
        }
        for t in 0..T {
            let shift = _mm_cvtsi32_si128((*activations.add(t)).shifts[c]);
            for g in 0..G {
                totals[g][t] = _mm256_add_epi32(totals[g][t], _mm256_sll_epi32(products[g][t], shift));
            }
        }
    }
}

/// Adds what a whole block comes to to `sums`.
///
/// # Safety
/// AVX2 and FMA; whole blocks, and `T` scales at `activations`.
#[inline(always)]
unsafe fn finish<F: Format<Scaling: SuperScaling>, const G: usize, const T: usize>(
    blocks: [*const u8; G],
    activations: *const BlockScale,
    totals: &[[__m256i; T]; G],
    sums: &mut [[__m256; T]; G],
) {
    let (sub, wants_minima) = (F::Scaling::SUB, F::Scaling::AFFINE || F::Scaling::OFFSET != 0);
    // SAFETY: the caller's promise.
    unsafe {
        for g in 0..G {
            let mut minima = [_mm256_setzero_si256(); T];
            if wants_minima {
                for i in 0..4 * sub {
                    let least = |half: usize| F::Scaling::load_minima(blocks[g], 2 * i + half);
                    let least = pairs(least(0), least(1));
                    for t in 0..T {
                        let sum = _mm256_set1_epi32((*activations.add(t)).sums(sub)[i]);
                        minima[t] = _mm256_add_epi32(minima[t], _mm256_madd_epi16(least, sum));
                    }
                }
            }
            let (scale, least) = F::Scaling::load_scales(blocks[g]);
            for t in 0..T {
                let d = _mm256_set1_ps((*activations.add(t)).d);
                let mut total = totals[g][t];
                if F::Scaling::OFFSET != 0 {
                    let offset = _mm256_set1_epi32(F::Scaling::OFFSET);
                    total = _mm256_sub_epi32(total, _mm256_mullo_epi32(minima[t], offset));
                }
                sums[g][t] = _mm256_fmadd_ps(_mm256_mul_ps(scale, d), _mm256_cvtepi32_ps(total), sums[g][t]);
                if F::Scaling::AFFINE {
                    let minima = _mm256_cvtepi32_ps(minima[t]);
                    sums[g][t] = _mm256_fmadd_ps(_mm256_mul_ps(least, d), minima, sums[g][t]);
                }
            }
        }
    }
}
