//! A scale, and perhaps a minimum, for each 32 columns. Offsets of symmetric types (`q - 8` and the like) are minima:
//! `min = -8 * scale`.
#![expect(clippy::inline_always, reason = "what is not inlined is not compiled for the instruction set")]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m256, _mm256_mul_ps, _mm256_set1_ps};

use super::{Block, HALVES, Scales, Scaling, get_half, put_half};

/// A header of one chunk.
pub(crate) trait ChunkScaling: Scaling {
    /// The 8 rows' scales and minima.
    ///
    /// # Safety
    /// AVX2 and F16C must be there, and `header` point at [`Scaling::BYTES`] readable bytes.
    #[cfg(target_arch = "x86_64")]
    unsafe fn load(header: *const u8) -> (__m256, __m256);
}

/// `d: [f16; 8]`; weights are `d * (q - OFFSET)`.
pub(crate) enum Symmetric<const OFFSET: i16> {}
/// `d: [f16; 8]`, `m: [f16; 8]`; weights are `d * q + m`.
pub(crate) enum Affine {}

impl<const OFFSET: i16> Scaling for Symmetric<OFFSET> {
    const CHUNKS: usize = 1;
    const SUB: usize = 1;
    const MINS: bool = OFFSET != 0;
    const BYTES: usize = HALVES;

    fn put(header: &mut [u8], row: usize, block: &Block) {
        put_half(header, row, block.d);
    }

    fn get(header: &[u8], row: usize, _: usize) -> Scales {
        let d = get_half(header, row);
        Scales { scale: [d; 2], min: [d * -f32::from(OFFSET); 2] }
    }
}

impl<const OFFSET: i16> ChunkScaling for Symmetric<OFFSET> {
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load(header: *const u8) -> (__m256, __m256) {
        // SAFETY: the caller's promise.
        unsafe {
            let d = super::load_halves(header);
            (d, _mm256_mul_ps(d, _mm256_set1_ps(-f32::from(OFFSET))))
        }
    }
}

impl Scaling for Affine {
    const CHUNKS: usize = 1;
    const SUB: usize = 1;
    const MINS: bool = true;
    const BYTES: usize = 2 * HALVES;

    fn put(header: &mut [u8], row: usize, block: &Block) {
        put_half(header, row, block.d);
        put_half(&mut header[HALVES..], row, block.m);
    }

    fn get(header: &[u8], row: usize, _: usize) -> Scales {
        Scales { scale: [get_half(header, row); 2], min: [get_half(&header[HALVES..], row); 2] }
    }
}

impl ChunkScaling for Affine {
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load(header: *const u8) -> (__m256, __m256) {
        // SAFETY: the caller's promise.
        unsafe { (super::load_halves(header), super::load_halves(header.add(HALVES))) }
    }
}
