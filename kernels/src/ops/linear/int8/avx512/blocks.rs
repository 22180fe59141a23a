//! Slices with scales per 256 columns.
#![expect(clippy::inline_always, reason = "what is not inlined is not compiled for the instruction set")]
#![expect(clippy::needless_range_loop, reason = "register tiles are indexed by token")]

use std::arch::asm;
use std::arch::x86_64::{
    __m512, __m512i, _mm512_add_epi32, _mm512_cvtepi32_ps, _mm512_dpwssd_epi32, _mm512_fmadd_ps, _mm512_mul_ps,
    _mm512_mullo_epi32, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512, _mm512_sub_epi32,
};

use super::{Slice, dot, floats, integers};
use crate::formats::scaling::Scaling;
use crate::formats::scaling::superblock::SuperScaling;
use crate::formats::{CHUNK, Format, SUPER};
use crate::ops::linear::activations::BlockScale;
use crate::ops::linear::int8::Tile;
use crate::ops::linear::int8::avx2::{self, IntegerDot, load, pairs};
use crate::ops::linear::int8::vnni::{Evex, Vnni};

pub(in crate::ops::linear::int8) enum Blocks {}

impl<F: Format<Scaling: SuperScaling>> Slice<F> for Blocks {
    type Narrow = avx2::Blocks<Vnni<Evex>>;

    #[inline(always)]
    unsafe fn slice<const T: usize, const AHEAD: bool>(
        groups: [&[u8]; 2],
        tile: &Tile<'_>,
        token: usize,
    ) -> [__m512; T] {
        // SAFETY: groups and tiles have the same columns, and the tile the tokens, as the caller promises.
        unsafe {
            let mut sums = [_mm512_setzero_ps(); T];
            for block in 0..groups[0].len() / F::BLOCK_BYTES {
                let at = block * F::BLOCK_BYTES;
                let blocks = [groups[0].as_ptr().add(at), groups[1].as_ptr().add(at)];
                let activations = tile.block(block).as_ptr().add(token);
                let mut totals = [_mm512_setzero_si512(); T];
                for c in 0..SUPER {
                    let weights = load::<F, Vnni<Evex>, 2, AHEAD>(blocks, c);
                    let products = products::<F, T>(blocks, &weights, tile, block * SUPER + c, token);
                    for t in 0..T {
                        let shifted = shift_left(products[t], &raw const (*activations.add(t)).shifts[c]);
                        totals[t] = _mm512_add_epi32(totals[t], shifted);
                    }
                }
                finish::<F, T>(blocks, activations, totals, &mut sums);
            }
            sums
        }
    }
}

/// Products over a chunk, times the factors of its sub-blocks.
///
/// # Safety
/// As of [`Slice::slice`].
#[inline(always)]
unsafe fn products<F: Format<Scaling: SuperScaling>, const T: usize>(
    blocks: [*const u8; 2],
    weights: &[avx2::Quads; 2],
    tile: &Tile<'_>,
    chunk: usize,
    token: usize,
) -> [__m512i; T] {
    let (values, scales) = tile.chunk(chunk);
    let (first, vectors) = (chunk % SUPER * F::Scaling::SUB, 8 / F::Scaling::SUB);
    // SAFETY: the caller's promise.
    unsafe {
        let (values, scales) = (values.as_ptr().add(token * CHUNK), scales.as_ptr().add(token));
        let mut products = [_mm512_setzero_si512(); T];
        for sub in 0..F::Scaling::SUB {
            let [low, high] = blocks.map(|block| Vnni::<Evex>::factors(F::Scaling::load_factors(block, first + sub)));
            let factors = integers(low, high);
            let totals = dot::<F, T>(weights, values, scales, sub * vectors..(sub + 1) * vectors);
            for t in 0..T {
                let scaled = _mm512_mullo_epi32(totals[t], factors);
                products[t] = if sub == 0 { scaled } else { _mm512_add_epi32(products[t], scaled) };
            }
        }
        products
    }
}

/// Adds what a whole block comes to to `sums`.
///
/// # Safety
/// AVX-512 VNNI; whole blocks, and `T` scales at `activations`.
#[inline(always)]
unsafe fn finish<F: Format<Scaling: SuperScaling>, const T: usize>(
    blocks: [*const u8; 2],
    activations: *const BlockScale,
    totals: [__m512i; T],
    sums: &mut [__m512; T],
) {
    let sub = F::Scaling::SUB;
    // SAFETY: the caller's promise.
    unsafe {
        let mut minima = [_mm512_setzero_si512(); T];
        if F::Scaling::AFFINE || F::Scaling::OFFSET != 0 {
            for i in 0..4 * sub {
                let least = |block, half| F::Scaling::load_minima(block, 2 * i + half);
                let [low, high] = blocks.map(|block| pairs(least(block, 0), least(block, 1)));
                let least = integers(low, high);
                for t in 0..T {
                    let sum = _mm512_set1_epi32((*activations.add(t)).sums(sub)[i]);
                    minima[t] = _mm512_dpwssd_epi32(minima[t], least, sum);
                }
            }
        }
        let [low, high] = blocks.map(|block| F::Scaling::load_scales(block));
        let (scale, least) = (floats(low.0, high.0), floats(low.1, high.1));
        for t in 0..T {
            let d = _mm512_set1_ps((*activations.add(t)).d);
            let mut total = totals[t];
            if F::Scaling::OFFSET != 0 {
                let offset = _mm512_set1_epi32(F::Scaling::OFFSET);
                total = _mm512_sub_epi32(total, _mm512_mullo_epi32(minima[t], offset));
            }
            sums[t] = _mm512_fmadd_ps(_mm512_mul_ps(scale, d), _mm512_cvtepi32_ps(total), sums[t]);
            if F::Scaling::AFFINE {
                sums[t] = _mm512_fmadd_ps(_mm512_mul_ps(least, d), _mm512_cvtepi32_ps(minima[t]), sums[t]);
            }
        }
    }
}

/// Shifts all numbers by the same number of bits. Written out, as the compiler makes two instructions of it.
///
/// # Safety
/// AVX-512; a readable number.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn shift_left(mut v: __m512i, by: *const i32) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "vpsllvd {v}, {v}, dword ptr [{by}]{{1to16}}",
            v = inout(zmm_reg) v, by = in(reg) by, options(pure, readonly, nostack, preserves_flags)
        );
    }
    v
}
