//! How the scales of 8 rows are stored in front of their chunks: per 32 columns ([`chunk`]) or per 256 with integer
//! factors for each 32 or 16 ([`superblock`]). A weight of a chunk is `scale[s] * quant + min[s]`, `s` being the half
//! (16 columns) it lies in when [`Scaling::SUB`] is 2, and 0 otherwise. All products are exact in f32.
#![expect(clippy::inline_always, reason = "what is not inlined is not compiled for the instruction set")]

pub(crate) mod chunk;
pub(crate) mod superblock;

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m256, _mm_loadu_si128, _mm256_cvtph_ps};

use half::f16;

use super::block::Block;

/// Scales and minima of one row's chunk: `[sub-block]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scales {
    pub(crate) scale: [f32; 2],
    pub(crate) min: [f32; 2],
}

/// A block header of one kind.
pub(crate) trait Scaling: 'static {
    /// Chunks of 32 columns that share a header.
    const CHUNKS: usize;
    /// Sub-blocks of a chunk: 1 or 2.
    const SUB: usize;
    /// Whether minima are ever other than zero.
    const MINS: bool;
    /// Bytes of the header of 8 rows.
    const BYTES: usize;

    /// Writes one row's part of a header whose bytes were zero.
    fn put(header: &mut [u8], row: usize, block: &Block);

    /// One row's scales and minima of a chunk.
    fn get(header: &[u8], row: usize, chunk: usize) -> Scales;
}

/// Bytes of one f16 for each row.
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
