//! How the scales of 8 rows are stored in front of their chunks, and what they come to: a weight of a chunk is
//! `scale[s] * quant + min[s]`, `s` being the half (16 columns) it lies in when [`Scaling::SUB`] is 2, and 0 otherwise.
//!
//! Offsets of symmetric types (`q - 8` and the like) are minima: `min = -8 * scale`. All products are exact in f32.
#![expect(clippy::inline_always, reason = "what is not inlined is not compiled for the instruction set")]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m256, __m256i, _mm_and_si128, _mm_loadl_epi64, _mm_loadu_si128, _mm_set1_epi8, _mm_srli_epi16,
    _mm256_cvtepi8_epi32, _mm256_cvtepi32_ps, _mm256_cvtepu8_epi32, _mm256_cvtph_ps, _mm256_mul_ps, _mm256_set1_ps,
    _mm256_setzero_ps, _mm256_sub_ps,
};

use half::f16;

use super::block::Block;

/// Scales and minima of one chunk: `[sub-block]`, of one row or of a vector of 8 rows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scales<V> {
    pub(crate) scale: [V; 2],
    pub(crate) min: [V; 2],
}

/// A block header of one kind.
pub(crate) trait Scaling: 'static {
    /// Chunks of 32 columns that share a header.
    const CHUNKS: usize;
    /// Sub-blocks of a chunk: 1 or 2.
    const SUB: usize;
    /// Whether minima are ever other than zero.
    const MINS: bool = true;
    /// Bytes of the header of 8 rows.
    const BYTES: usize;

    /// Writes one row's part of a header whose bytes were zero.
    fn put(header: &mut [u8], row: usize, block: &Block);

    /// One row's scales and minima of a chunk.
    fn get(header: &[u8], row: usize, chunk: usize) -> Scales<f32>;

    /// The 8 rows' scales and minima of a chunk.
    ///
    /// # Safety
    /// AVX2 and F16C must be there, and `header` point at [`Scaling::BYTES`] readable bytes.
    #[cfg(target_arch = "x86_64")]
    unsafe fn load(header: *const u8, chunk: usize) -> Scales<__m256>;
}

/// `d: [f16; 8]`; weights are `d * (q - OFFSET)`.
pub(crate) enum Symmetric<const OFFSET: i16> {}
/// `d: [f16; 8]`, `m: [f16; 8]`; weights are `d * q + m`.
pub(crate) enum Affine {}
/// `d`, `dmin: [f16; 8]`, scales then minima, each `[chunk: 8][row: 8]` bytes; weights are `d * scale * q - dmin * min`.
pub(crate) enum SuperAffine {}
/// `d`, `dmin: [f16; 8]`, `[chunk: 8][half: 2][row: 8]` bytes of `scale | min << 4`; weights are as of [`SuperAffine`].
pub(crate) enum SuperAffineHalves {}
/// `d: [f16; 8]`, scales `[chunk: 8][sub: SUB][row: 8]` signed bytes; weights are `d * scale * (q - OFFSET)`.
pub(crate) enum SuperSymmetric<const SUB: usize, const OFFSET: i16> {}

const HALVES: usize = 16;

fn put_half(halves: &mut [u8], row: usize, value: f16) {
    halves[row * 2..][..2].copy_from_slice(&value.to_le_bytes());
}

fn get_half(halves: &[u8], row: usize) -> f32 {
    f16::from_le_bytes([halves[row * 2], halves[row * 2 + 1]]).to_f32()
}

/// # Safety
/// F16C, and 16 readable bytes at `at`.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn load_halves(at: *const u8) -> __m256 {
    // SAFETY: the caller's promise.
    unsafe { _mm256_cvtph_ps(_mm_loadu_si128(at.cast())) }
}

/// # Safety
/// AVX2.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn to_f32(v: __m256i) -> __m256 {
    // SAFETY: the caller's promise.
    unsafe { _mm256_cvtepi32_ps(v) }
}

impl<const OFFSET: i16> Scaling for Symmetric<OFFSET> {
    const CHUNKS: usize = 1;
    const SUB: usize = 1;
    const MINS: bool = OFFSET != 0;
    const BYTES: usize = HALVES;

    fn put(header: &mut [u8], row: usize, block: &Block) {
        put_half(header, row, block.d);
    }

    fn get(header: &[u8], row: usize, _: usize) -> Scales<f32> {
        let d = get_half(header, row);
        Scales { scale: [d; 2], min: [d * -f32::from(OFFSET); 2] }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load(header: *const u8, _: usize) -> Scales<__m256> {
        // SAFETY: the caller's promise.
        unsafe {
            let d = load_halves(header);
            Scales { scale: [d; 2], min: [_mm256_mul_ps(d, _mm256_set1_ps(-f32::from(OFFSET))); 2] }
        }
    }
}

impl Scaling for Affine {
    const CHUNKS: usize = 1;
    const SUB: usize = 1;
    const BYTES: usize = 2 * HALVES;

    fn put(header: &mut [u8], row: usize, block: &Block) {
        put_half(header, row, block.d);
        put_half(&mut header[HALVES..], row, block.m);
    }

    fn get(header: &[u8], row: usize, _: usize) -> Scales<f32> {
        Scales { scale: [get_half(header, row); 2], min: [get_half(&header[HALVES..], row); 2] }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load(header: *const u8, _: usize) -> Scales<__m256> {
        // SAFETY: the caller's promise.
        unsafe { Scales { scale: [load_halves(header); 2], min: [load_halves(header.add(HALVES)); 2] } }
    }
}

impl Scaling for SuperAffine {
    const CHUNKS: usize = 8;
    const SUB: usize = 1;
    const BYTES: usize = 2 * HALVES + 128;

    fn put(header: &mut [u8], row: usize, block: &Block) {
        put_half(header, row, block.d);
        put_half(&mut header[HALVES..], row, block.m);
        for chunk in 0..8 {
            header[32 + chunk * 8 + row] = block.scales[chunk] as u8;
            header[96 + chunk * 8 + row] = block.mins[chunk];
        }
    }

    fn get(header: &[u8], row: usize, chunk: usize) -> Scales<f32> {
        let scale = get_half(header, row) * f32::from(header[32 + chunk * 8 + row]);
        let min = -get_half(&header[HALVES..], row) * f32::from(header[96 + chunk * 8 + row]);
        Scales { scale: [scale; 2], min: [min; 2] }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load(header: *const u8, chunk: usize) -> Scales<__m256> {
        // SAFETY: the caller's promise.
        unsafe {
            let scale = to_f32(_mm256_cvtepu8_epi32(_mm_loadl_epi64(header.add(32 + chunk * 8).cast())));
            let min = to_f32(_mm256_cvtepu8_epi32(_mm_loadl_epi64(header.add(96 + chunk * 8).cast())));
            let dmin = _mm256_sub_ps(_mm256_setzero_ps(), load_halves(header.add(HALVES)));
            Scales { scale: [_mm256_mul_ps(load_halves(header), scale); 2], min: [_mm256_mul_ps(dmin, min); 2] }
        }
    }
}

impl Scaling for SuperAffineHalves {
    const CHUNKS: usize = 8;
    const SUB: usize = 2;
    const BYTES: usize = 2 * HALVES + 128;

    fn put(header: &mut [u8], row: usize, block: &Block) {
        put_half(header, row, block.d);
        put_half(&mut header[HALVES..], row, block.m);
        for sub in 0..16 {
            header[32 + sub * 8 + row] = block.scales[sub] as u8 | block.mins[sub] << 4;
        }
    }

    fn get(header: &[u8], row: usize, chunk: usize) -> Scales<f32> {
        let (d, dmin) = (get_half(header, row), -get_half(&header[HALVES..], row));
        let both = [0, 1].map(|h| header[32 + (chunk * 2 + h) * 8 + row]);
        Scales { scale: both.map(|b| d * f32::from(b & 15)), min: both.map(|b| dmin * f32::from(b >> 4)) }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load(header: *const u8, chunk: usize) -> Scales<__m256> {
        // SAFETY: the caller's promise.
        unsafe {
            let d = load_halves(header);
            let dmin = _mm256_sub_ps(_mm256_setzero_ps(), load_halves(header.add(HALVES)));
            let mut scales = Scales { scale: [d; 2], min: [dmin; 2] };
            let low = _mm_set1_epi8(15);
            for h in 0..2 {
                let both = _mm_loadl_epi64(header.add(32 + (chunk * 2 + h) * 8).cast());
                let scale = to_f32(_mm256_cvtepu8_epi32(_mm_and_si128(both, low)));
                let min = to_f32(_mm256_cvtepu8_epi32(_mm_and_si128(_mm_srli_epi16::<4>(both), low)));
                scales.scale[h] = _mm256_mul_ps(d, scale);
                scales.min[h] = _mm256_mul_ps(dmin, min);
            }
            scales
        }
    }
}

impl<const SUB: usize, const OFFSET: i16> Scaling for SuperSymmetric<SUB, OFFSET> {
    const CHUNKS: usize = 8;
    const SUB: usize = SUB;
    const MINS: bool = OFFSET != 0;
    const BYTES: usize = HALVES + 64 * SUB;

    fn put(header: &mut [u8], row: usize, block: &Block) {
        put_half(header, row, block.d);
        for sub in 0..8 * SUB {
            header[HALVES + sub * 8 + row] = block.scales[sub] as u8;
        }
    }

    fn get(header: &[u8], row: usize, chunk: usize) -> Scales<f32> {
        let d = get_half(header, row);
        let scale = [0, SUB - 1].map(|s| d * f32::from(header[HALVES + (chunk * SUB + s) * 8 + row] as i8));
        Scales { scale, min: scale.map(|s| s * -f32::from(OFFSET)) }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load(header: *const u8, chunk: usize) -> Scales<__m256> {
        // SAFETY: the caller's promise.
        unsafe {
            let d = load_halves(header);
            let mut scales = Scales { scale: [d; 2], min: [d; 2] };
            for s in 0..SUB {
                let bytes = _mm_loadl_epi64(header.add(HALVES + (chunk * SUB + s) * 8).cast());
                scales.scale[s] = _mm256_mul_ps(d, to_f32(_mm256_cvtepi8_epi32(bytes)));
                scales.min[s] = _mm256_mul_ps(scales.scale[s], _mm256_set1_ps(-f32::from(OFFSET)));
            }
            scales
        }
    }
}
