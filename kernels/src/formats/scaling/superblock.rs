//! A scale, and perhaps one of minima, for each 256 columns, and 8-bit integer factors of them for each sub-block of 32
//! or 16: sums over all 256 are integers.
#![expect(clippy::inline_always, reason = "what is not inlined is not compiled for the instruction set")]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m128i, __m256, _mm_and_si128, _mm_loadl_epi64, _mm_set1_epi8, _mm_srli_epi16, _mm256_setzero_ps, _mm256_sub_ps,
};

use super::{Block, HALVES, Scales, Scaling, get_half, put_half};
use crate::formats::SUPER;

/// A header of 8 chunks. Sub-blocks are numbered through all of them. A weight is
/// `d * factor * (q - OFFSET) - dmin * minimum`.
pub(crate) trait SuperScaling: Scaling {
    /// What is taken from every integer.
    const OFFSET: i32;
    /// Whether there are `dmin` and minima.
    const AFFINE: bool;

    /// One row's factor of a sub-block.
    fn factor(header: &[u8], row: usize, sub: usize) -> i32;

    /// One row's minimum of a sub-block.
    fn minimum(_header: &[u8], _row: usize, _sub: usize) -> i32 {
        0
    }

    /// One row's `d` and `-dmin`.
    fn scales(header: &[u8], row: usize) -> (f32, f32) {
        (get_half(header, row), if Self::AFFINE { -get_half(&header[HALVES..], row) } else { 0.0 })
    }

    /// The 8 rows' factors of a sub-block, as signed bytes.
    ///
    /// # Safety
    /// `header` must point at [`Scaling::BYTES`] readable bytes.
    #[cfg(target_arch = "x86_64")]
    unsafe fn load_factors(header: *const u8, sub: usize) -> __m128i;

    /// The 8 rows' minima of a sub-block, as signed bytes; factors where there are none.
    ///
    /// # Safety
    /// As of [`SuperScaling::load_factors`].
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load_minima(header: *const u8, sub: usize) -> __m128i {
        // SAFETY: the caller's promise.
        unsafe { Self::load_factors(header, sub) }
    }

    /// The 8 rows' `d` and `-dmin`.
    ///
    /// # Safety
    /// AVX2 and F16C must be there, and `header` point at [`Scaling::BYTES`] readable bytes.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load_scales(header: *const u8) -> (__m256, __m256) {
        // SAFETY: the caller's promise.
        unsafe {
            let zero = _mm256_setzero_ps();
            let dmin = if Self::AFFINE { super::load_halves(header.add(HALVES)) } else { zero };
            (super::load_halves(header), _mm256_sub_ps(zero, dmin))
        }
    }
}

/// `d`, `dmin: [f16; 8]`, factors then minima, each `[chunk: 8][row: 8]` bytes.
pub(crate) enum SuperAffine {}
/// `d`, `dmin: [f16; 8]`, `[chunk: 8][half: 2][row: 8]` bytes of `factor | minimum << 4`.
pub(crate) enum SuperAffineHalves {}
/// `d: [f16; 8]`, factors `[chunk: 8][sub: SUB][row: 8]` signed bytes.
pub(crate) enum SuperSymmetric<const SUB: usize, const OFFSET: i16> {}

/// Both of a chunk's sub-blocks, or its only one twice.
fn scales<S: SuperScaling>(header: &[u8], row: usize, chunk: usize) -> Scales {
    let (d, dmin) = S::scales(header, row);
    let subs = [chunk * S::SUB, chunk * S::SUB + S::SUB - 1];
    let scale = subs.map(|sub| d * S::factor(header, row, sub) as f32);
    let min = |i: usize| {
        if S::AFFINE { dmin * S::minimum(header, row, subs[i]) as f32 } else { scale[i] * -(S::OFFSET as f32) }
    };
    Scales { scale, min: [min(0), min(1)] }
}

impl Scaling for SuperAffine {
    const CHUNKS: usize = SUPER;
    const SUB: usize = 1;
    const MINS: bool = true;
    const BYTES: usize = 2 * HALVES + 128;

    fn put(header: &mut [u8], row: usize, block: &Block) {
        put_half(header, row, block.d);
        put_half(&mut header[HALVES..], row, block.m);
        for chunk in 0..8 {
            header[32 + chunk * 8 + row] = block.scales[chunk] as u8;
            header[96 + chunk * 8 + row] = block.mins[chunk];
        }
    }

    fn get(header: &[u8], row: usize, chunk: usize) -> Scales {
        scales::<Self>(header, row, chunk)
    }
}

impl SuperScaling for SuperAffine {
    const OFFSET: i32 = 0;
    const AFFINE: bool = true;

    fn factor(header: &[u8], row: usize, sub: usize) -> i32 {
        i32::from(header[32 + sub * 8 + row])
    }

    fn minimum(header: &[u8], row: usize, sub: usize) -> i32 {
        i32::from(header[96 + sub * 8 + row])
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load_factors(header: *const u8, sub: usize) -> __m128i {
        // SAFETY: the caller's promise.
        unsafe { _mm_loadl_epi64(header.add(32 + sub * 8).cast()) }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load_minima(header: *const u8, sub: usize) -> __m128i {
        // SAFETY: the caller's promise.
        unsafe { _mm_loadl_epi64(header.add(96 + sub * 8).cast()) }
    }
}

impl Scaling for SuperAffineHalves {
    const CHUNKS: usize = SUPER;
    const SUB: usize = 2;
    const MINS: bool = true;
    const BYTES: usize = 2 * HALVES + 128;

    fn put(header: &mut [u8], row: usize, block: &Block) {
        put_half(header, row, block.d);
        put_half(&mut header[HALVES..], row, block.m);
        for sub in 0..16 {
            header[32 + sub * 8 + row] = block.scales[sub] as u8 | block.mins[sub] << 4;
        }
    }

    fn get(header: &[u8], row: usize, chunk: usize) -> Scales {
        scales::<Self>(header, row, chunk)
    }
}

impl SuperScaling for SuperAffineHalves {
    const OFFSET: i32 = 0;
    const AFFINE: bool = true;

    fn factor(header: &[u8], row: usize, sub: usize) -> i32 {
        i32::from(header[32 + sub * 8 + row] & 15)
    }

    fn minimum(header: &[u8], row: usize, sub: usize) -> i32 {
        i32::from(header[32 + sub * 8 + row] >> 4)
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load_factors(header: *const u8, sub: usize) -> __m128i {
        // SAFETY: the caller's promise.
        unsafe { _mm_and_si128(_mm_loadl_epi64(header.add(32 + sub * 8).cast()), _mm_set1_epi8(15)) }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load_minima(header: *const u8, sub: usize) -> __m128i {
        // SAFETY: the caller's promise.
        unsafe {
            let both = _mm_loadl_epi64(header.add(32 + sub * 8).cast());
            _mm_and_si128(_mm_srli_epi16::<4>(both), _mm_set1_epi8(15))
        }
    }
}

impl<const SUB: usize, const OFFSET: i16> Scaling for SuperSymmetric<SUB, OFFSET> {
    const CHUNKS: usize = SUPER;
    const SUB: usize = SUB;
    const MINS: bool = OFFSET != 0;
    const BYTES: usize = HALVES + 64 * SUB;

    fn put(header: &mut [u8], row: usize, block: &Block) {
        put_half(header, row, block.d);
        for sub in 0..8 * SUB {
            header[HALVES + sub * 8 + row] = block.scales[sub] as u8;
        }
    }

    fn get(header: &[u8], row: usize, chunk: usize) -> Scales {
        scales::<Self>(header, row, chunk)
    }
}

impl<const SUB: usize, const OFFSET: i16> SuperScaling for SuperSymmetric<SUB, OFFSET> {
    const OFFSET: i32 = OFFSET as i32;
    const AFFINE: bool = false;

    fn factor(header: &[u8], row: usize, sub: usize) -> i32 {
        i32::from(header[HALVES + sub * 8 + row].cast_signed())
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load_factors(header: *const u8, sub: usize) -> __m128i {
        // SAFETY: the caller's promise.
        unsafe { _mm_loadl_epi64(header.add(HALVES + sub * 8).cast()) }
    }
}
