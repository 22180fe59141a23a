//! AVX-512 VNNI from four tokens on: 64-byte vectors, two groups side by side. Fewer tokens take 32-byte vectors, for
//! then the weights' way from memory is what counts.
#![expect(clippy::inline_always, reason = "what is not inlined is not compiled for the instruction set")]
#![expect(clippy::needless_range_loop, reason = "register tiles are indexed by group and token")]

use std::arch::x86_64::{
    __m256, __m512, _mm256_castps_pd, _mm256_storeu_pd, _mm512_castpd_ps, _mm512_castpd256_pd512,
    _mm512_castpd512_pd256, _mm512_castps_pd, _mm512_castsi256_si512, _mm512_cvtepi32_ps, _mm512_dpbusd_epi32,
    _mm512_extractf64x4_pd, _mm512_fmadd_ps, _mm512_insertf64x4, _mm512_inserti64x4, _mm512_mul_ps, _mm512_set1_epi32,
    _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512,
};
use std::ops::Range;

use super::avx2::{Vectors, Weights, load};
use super::vnni::{Evex, Vnni};
use super::{MicroKernel, Output, Scale, Sums, Term, Tile};
use crate::formats::quants::Quants;
use crate::formats::scaling::Scaling;
use crate::formats::{CHUNK, Format, GROUP};
use crate::packed::Part;

/// The walk with these products, compiled for their instruction set.
///
/// # Safety
/// As of [`super::Multiply`].
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512vl,avx512vnni")]
pub(super) unsafe fn multiply<F: Format>(part: &Part, groups: Range<usize>, x: Term<'_>, out: Output<'_>) {
    // SAFETY: the caller's promise.
    unsafe { super::multiply::<F, Wide>(part, groups, x, out) }
}

/// Narrow for one or two tokens or one group, wide otherwise.
enum Wide {}

impl MicroKernel for Wide {
    const PAIRS: bool = true;

    #[inline(always)]
    unsafe fn product<F: Format, const G: usize, const T: usize, const STREAM: bool>(
        groups: [&[u8]; G],
        tile: &Tile<'_>,
        sums: &mut Sums,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            if G != 2 || T < 4 {
                return Vectors::<Vnni<Evex>>::product::<F, G, T, STREAM>(groups, tile, sums);
            }
            let pair = [groups[0], groups[G - 1]];
            // The first pass over the groups brings them into the cache.
            if T == 8 || tile.padded >= 8 {
                slice::<F, 8, true>(pair, tile, 0, sums);
            } else {
                return slice::<F, 4, true>(pair, tile, 0, sums);
            }
            let mut token = 8;
            while token + 8 <= tile.padded {
                slice::<F, 8, false>(pair, tile, token, sums);
                token += 8;
            }
            if token < tile.padded {
                slice::<F, 4, false>(pair, tile, token, sums);
            }
        }
    }
}

/// Sums of two groups for `T` tokens from `token` on, kept in registers.
///
/// # Safety
/// As of [`MicroKernel::product`]; the tile has those tokens.
#[inline(always)]
unsafe fn slice<F: Format, const T: usize, const AHEAD: bool>(
    groups: [&[u8]; 2],
    tile: &Tile<'_>,
    token: usize,
    sums: &mut Sums,
) {
    let chunks = groups[0].len() / F::BLOCK_BYTES * F::Scaling::CHUNKS;
    assert!(token + T <= tile.padded && 2 * tile.padded * GROUP <= sums.0.len());
    // SAFETY: groups hold `chunks` chunks and tiles as many; tokens and sums are inside as asserted.
    unsafe {
        let mut kept = [_mm512_setzero_ps(); T];
        for chunk in 0..chunks {
            let weights = load::<F, Vnni<Evex>, 2, AHEAD>(groups, chunk);
            let (values, scales) = tile.chunk(chunk);
            let (values, scales) = (values.as_ptr().add(token * CHUNK), scales.as_ptr().add(token));
            dot::<F, T>(weights, values, scales, &mut kept);
        }
        for (t, kept) in kept.into_iter().enumerate() {
            let kept = _mm512_castps_pd(kept);
            let low = sums.0.as_mut_ptr().add((token + t) * GROUP);
            _mm256_storeu_pd(low.cast(), _mm512_castpd512_pd256(kept));
            _mm256_storeu_pd(low.add(tile.padded * GROUP).cast(), _mm512_extractf64x4_pd::<1>(kept));
        }
    }
}

/// Adds the products of two groups and `T` tokens over 32 columns to `sums`.
///
/// # Safety
/// AVX-512 VNNI; `T * 32` readable bytes at `values` and `T` scales at `activations`.
#[inline(always)]
unsafe fn dot<F: Format, const T: usize>(
    weights: [Weights; 2],
    values: *const u8,
    activations: *const Scale,
    sums: &mut [__m512; T],
) {
    let [low, high] = weights;
    let vectors = 8 / F::Scaling::SUB;
    // SAFETY: the caller's promise.
    unsafe {
        for sub in 0..F::Scaling::SUB {
            let scale = side_by_side(low.scales.scale[sub], high.scales.scale[sub]);
            let min = side_by_side(low.scales.min[sub], high.scales.min[sub]);
            let mut totals = [_mm512_setzero_si512(); T];
            if F::Quants::SIGNED {
                for t in 0..T {
                    totals[t] = _mm512_set1_epi32(-128 * (*activations.add(t)).integer_sum);
                }
            }
            for v in sub * vectors..(sub + 1) * vectors {
                let quants = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low.quants[v]), high.quants[v]);
                for t in 0..T {
                    let x = _mm512_set1_epi32(values.add(t * CHUNK + v * 4).cast::<i32>().read_unaligned());
                    totals[t] = _mm512_dpbusd_epi32(totals[t], quants, x);
                }
            }
            for t in 0..T {
                let activation = &*activations.add(t);
                let total = _mm512_cvtepi32_ps(totals[t]);
                sums[t] = _mm512_fmadd_ps(_mm512_mul_ps(scale, _mm512_set1_ps(activation.d)), total, sums[t]);
                if F::Scaling::MINS {
                    let sum = if F::Scaling::SUB == 1 { activation.sum } else { activation.half_sums[sub] };
                    sums[t] = _mm512_fmadd_ps(min, _mm512_set1_ps(sum), sums[t]);
                }
            }
        }
    }
}

/// # Safety
/// AVX-512.
#[inline(always)]
unsafe fn side_by_side(low: __m256, high: __m256) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe {
        let low = _mm512_castpd256_pd512(_mm256_castps_pd(low));
        _mm512_castpd_ps(_mm512_insertf64x4::<1>(low, _mm256_castps_pd(high)))
    }
}
