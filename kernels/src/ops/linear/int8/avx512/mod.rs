//! AVX-512 VNNI from four tokens on: 64-byte vectors, two groups side by side. Fewer tokens take 32-byte vectors, for
//! then the weights' way from memory is what counts.
#![expect(clippy::inline_always, reason = "what is not inlined is not compiled for the instruction set")]
#![expect(clippy::needless_range_loop, reason = "register tiles are indexed by group and token")]

mod blocks;
mod chunks;

use std::arch::x86_64::{
    __m256, __m256i, __m512, __m512i, _mm256_castps_pd, _mm256_storeu_pd, _mm512_castpd_ps, _mm512_castpd256_pd512,
    _mm512_castpd512_pd256, _mm512_castps_pd, _mm512_castsi256_si512, _mm512_dpbusd_epi32, _mm512_extractf64x4_pd,
    _mm512_insertf64x4, _mm512_inserti64x4, _mm512_set1_epi32, _mm512_setzero_si512,
};
use std::marker::PhantomData;
use std::ops::Range;

pub(super) use blocks::Blocks;
pub(super) use chunks::Chunks;

use super::avx2::Quads;
use super::{ChunkScale, MicroKernel, Output, Sums, Term, Tile};
use crate::formats::quants::Quants;
use crate::formats::{CHUNK, Format, GROUP};
use crate::packed::Part;

/// The walk with a micro-kernel, compiled for this instruction set.
///
/// # Safety
/// As of [`super::Multiply`].
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512vl,avx512vnni")]
pub(super) unsafe fn multiply<F: Format, K: MicroKernel<F>>(
    part: &Part,
    groups: Range<usize>,
    x: Term<'_>,
    out: Output<'_>,
) {
    // SAFETY: the caller's promise.
    unsafe { super::multiply::<F, K>(part, groups, x, out) }
}

/// Products of two groups with a few tokens.
pub(super) trait Slice<F: Format> {
    /// What one or two tokens or one group take instead.
    type Narrow: MicroKernel<F>;

    /// The sums of `T` tokens from `token` on, in registers over all columns. With `AHEAD`, memory is asked for ahead.
    ///
    /// # Safety
    /// As of [`MicroKernel::product`]; the tile has those tokens.
    unsafe fn slice<const T: usize, const AHEAD: bool>(
        groups: [&[u8]; 2],
        tile: &Tile<'_>,
        token: usize,
    ) -> [__m512; T];
}

/// Narrow for one or two tokens or one group, slices of eight or four tokens otherwise.
pub(super) struct Wide<S>(PhantomData<S>);

impl<F: Format, S: Slice<F>> MicroKernel<F> for Wide<S> {
    const PAIRS: bool = true;

    #[inline(always)]
    unsafe fn product<const G: usize, const T: usize, const STREAM: bool>(
        groups: [&[u8]; G],
        tile: &Tile<'_>,
        sums: &mut Sums,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            if G != 2 || T < 4 {
                return S::Narrow::product::<G, T, STREAM>(groups, tile, sums);
            }
            let pair = [groups[0], groups[G - 1]];
            // The first pass over the groups brings them into the cache.
            if T == 8 || tile.padded >= 8 {
                store(&S::slice::<8, true>(pair, tile, 0), tile, 0, sums);
            } else {
                return store(&S::slice::<4, true>(pair, tile, 0), tile, 0, sums);
            }
            let mut token = 8;
            while token + 8 <= tile.padded {
                store(&S::slice::<8, false>(pair, tile, token), tile, token, sums);
                token += 8;
            }
            if token < tile.padded {
                store(&S::slice::<4, false>(pair, tile, token), tile, token, sums);
            }
        }
    }
}

/// Stores two groups' sums of `T` tokens from `token` on.
///
/// # Safety
/// AVX-512.
#[inline(always)]
unsafe fn store<const T: usize>(slice: &[__m512; T], tile: &Tile<'_>, token: usize, sums: &mut Sums) {
    assert!(token + T <= tile.padded && 2 * tile.padded * GROUP <= sums.0.len());
    for (t, slice) in slice.iter().enumerate() {
        // SAFETY: the caller's promise; inside the sums as asserted.
        unsafe {
            let slice = _mm512_castps_pd(*slice);
            let low = sums.0.as_mut_ptr().add((token + t) * GROUP);
            _mm256_storeu_pd(low.cast(), _mm512_castpd512_pd256(slice));
            _mm256_storeu_pd(low.add(tile.padded * GROUP).cast(), _mm512_extractf64x4_pd::<1>(slice));
        }
    }
}

/// Exact sums of products of two groups and `T` tokens over some vectors of a chunk.
///
/// # Safety
/// AVX-512 VNNI; `T * 32` readable bytes at `values` and `T` scales at `activations`.
#[inline(always)]
unsafe fn dot<F: Format, const T: usize>(
    [low, high]: &[Quads; 2],
    values: *const u8,
    activations: *const ChunkScale,
    vectors: Range<usize>,
) -> [__m512i; T] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut totals = [_mm512_setzero_si512(); T];
        if F::Quants::SIGNED {
            for t in 0..T {
                totals[t] = _mm512_set1_epi32(-128 * (*activations.add(t)).integer_sum);
            }
        }
        for v in vectors {
            let quants = integers(low[v], high[v]);
            for t in 0..T {
                let x = _mm512_set1_epi32(values.add(t * CHUNK + v * 4).cast::<i32>().read_unaligned());
                totals[t] = _mm512_dpbusd_epi32(totals[t], quants, x);
            }
        }
        totals
    }
}

/// Two groups' integers side by side.
///
/// # Safety
/// AVX-512.
#[inline(always)]
unsafe fn integers(low: __m256i, high: __m256i) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe { _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high) }
}

/// Two groups' numbers side by side.
///
/// # Safety
/// AVX-512.
#[inline(always)]
unsafe fn floats(low: __m256, high: __m256) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe {
        let low = _mm512_castpd256_pd512(_mm256_castps_pd(low));
        _mm512_castpd_ps(_mm512_insertf64x4::<1>(low, _mm256_castps_pd(high)))
    }
}
