//! Products of quantised weights with int8 activations. One walk over row groups and tokens, one micro-kernel per
//! instruction set, compiled for every format.
//!
//! Order of an output's sum, the same in all of them. Formats with scales per 32 columns: for each 32 the exact integer
//! sum `n` of products, then fused multiply-adds, `f = (scale * d) * n + f` and, for formats with minima,
//! `f = min * (d * sum of activations) + f`. Formats with scales per 256: the exact sum `n` of 256 products times the
//! factors of their sub-blocks and of the activations' chunks, the same sum `m` for minima, then
//! `f = (d of weights * d of activations) * n + f` and `f = (-dmin * d of activations) * m + f`.
#![expect(clippy::inline_always, reason = "what is not inlined is not compiled for the instruction set")]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod vnni;

use std::ops::Range;

use super::Output;
use super::activations::{ChunkScale, TILE, Term, Tile};
use crate::formats::scaling::chunk::ChunkScaling;
use crate::formats::scaling::superblock::SuperScaling;
use crate::formats::{Format, GROUP, IQ4_NL, IQ4_XS, Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0};
use crate::packed::Part;
use crate::{GgmlType, Isa};

/// Multiplies row groups of a part with all activations.
///
/// # Safety
/// The instruction set that the kernel was asked for must be there, the part be of its type and the activations have
/// the part's columns; no other thread works on the same row groups of this product.
pub(super) type Multiply = unsafe fn(part: &Part, groups: Range<usize>, x: Term<'_>, out: Output<'_>);

/// The kernel of a quantised type, `None` for the float types.
pub(super) fn kernel(isa: Isa, ggml_type: GgmlType) -> Option<Multiply> {
    Some(match ggml_type {
        GgmlType::F32 | GgmlType::F16 | GgmlType::BF16 => return None,
        GgmlType::Q4_0 => by_chunk::<Q4_0>(isa),
        GgmlType::Q4_1 => by_chunk::<Q4_1>(isa),
        GgmlType::Q5_0 => by_chunk::<Q5_0>(isa),
        GgmlType::Q5_1 => by_chunk::<Q5_1>(isa),
        GgmlType::Q8_0 => by_chunk::<Q8_0>(isa),
        GgmlType::IQ4_NL => by_chunk::<IQ4_NL>(isa),
        GgmlType::Q2_K => by_block::<Q2_K>(isa),
        GgmlType::Q3_K => by_block::<Q3_K>(isa),
        GgmlType::Q4_K => by_block::<Q4_K>(isa),
        GgmlType::Q5_K => by_block::<Q5_K>(isa),
        GgmlType::Q6_K => by_block::<Q6_K>(isa),
        GgmlType::IQ4_XS => by_block::<IQ4_XS>(isa),
    })
}

/// The kernel of a format with scales per 32 columns.
fn by_chunk<F: Format<Scaling: ChunkScaling>>(isa: Isa) -> Multiply {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => avx2::multiply::<F, avx2::Chunks<avx2::MultiplyAdd>>,
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => vnni::multiply::<F, avx2::Chunks<vnni::Vnni<vnni::Vex>>>,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni => avx512::multiply::<F, avx512::Wide<avx512::Chunks>>,
        _ => multiply::<F, scalar::Chunks>,
    }
}

/// The kernel of a format with scales per 256 columns.
fn by_block<F: Format<Scaling: SuperScaling>>(isa: Isa) -> Multiply {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => avx2::multiply::<F, avx2::Blocks<avx2::MultiplyAdd>>,
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => vnni::multiply::<F, avx2::Blocks<vnni::Vnni<vnni::Vex>>>,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni => avx512::multiply::<F, avx512::Wide<avx512::Blocks>>,
        _ => multiply::<F, scalar::Blocks>,
    }
}

/// The micro-kernel of an instruction set for a format.
trait MicroKernel<F: Format> {
    /// Whether two groups go together better than one from four tokens on.
    const PAIRS: bool = false;

    /// Sets `sums`, `[group: G][token: tile.padded][row: 8]`, to the products of `G` row groups over all columns.
    /// With `STREAM`, `tile.padded` is `T` and sums stay in registers; else it is a multiple of `T`.
    ///
    /// # Safety
    /// The instruction set must be there, and groups be of the format and of the tile's columns.
    unsafe fn product<const G: usize, const T: usize, const STREAM: bool>(
        groups: [&[u8]; G],
        tile: &Tile<'_>,
        sums: &mut Sums,
    );
}

/// Sums of two row groups for a tile.
#[repr(align(64))]
struct Sums([f32; 2 * TILE * GROUP]);

/// As [`Multiply`]: walks over tiles of tokens and blocks of row groups.
///
/// # Safety
/// As of [`Multiply`].
#[inline(always)]
unsafe fn multiply<F: Format, K: MicroKernel<F>>(part: &Part, groups: Range<usize>, x: Term<'_>, out: Output<'_>) {
    for tile in x.tiles() {
        let groups = groups.clone();
        // SAFETY: the caller's promise.
        unsafe {
            match tile.padded {
                1 => streams::<F, K, 2, 1, true>(part, groups, &tile, out),
                2 => streams::<F, K, 2, 2, true>(part, groups, &tile, out),
                4 if K::PAIRS => streams::<F, K, 2, 4, true>(part, groups, &tile, out),
                8 if K::PAIRS => streams::<F, K, 2, 8, true>(part, groups, &tile, out),
                4 => streams::<F, K, 1, 4, true>(part, groups, &tile, out),
                8 => streams::<F, K, 1, 8, true>(part, groups, &tile, out),
                _ => streams::<F, K, 2, 4, false>(part, groups, &tile, out),
            }
        }
    }
}

/// Takes `G` row groups at a time from places far apart, so that each is one sequential stream of memory.
///
/// # Safety
/// As of [`Multiply`].
#[inline(always)]
unsafe fn streams<F: Format, K: MicroKernel<F>, const G: usize, const T: usize, const STREAM: bool>(
    part: &Part,
    groups: Range<usize>,
    tile: &Tile<'_>,
    out: Output<'_>,
) {
    let mut sums = Sums([0.0; 2 * TILE * GROUP]);
    let length = groups.len() / G;
    for i in 0..length {
        let indices: [usize; G] = std::array::from_fn(|g| groups.start + g * length + i);
        // SAFETY: the caller's promise.
        unsafe {
            K::product::<G, T, STREAM>(indices.map(|index| part.unit(index)), tile, &mut sums);
            for (index, sums) in indices.into_iter().zip(sums.0.chunks_exact(tile.padded * GROUP)) {
                store(part, index, tile, sums, out);
            }
        }
    }
    for index in groups.start + G * length..groups.end {
        // SAFETY: the caller's promise.
        unsafe {
            K::product::<1, T, STREAM>([part.unit(index)], tile, &mut sums);
            store(part, index, tile, &sums.0, out);
        }
    }
}

/// Stores a group's sums, `[token][row]`, leaving out padding.
///
/// # Safety
/// As of [`Output::store`].
#[inline(always)]
unsafe fn store(part: &Part, group: usize, tile: &Tile<'_>, sums: &[f32], out: Output<'_>) {
    let rows = GROUP.min(part.rows - group * GROUP);
    for (token, sums) in sums.chunks_exact(GROUP).take(tile.len).enumerate() {
        // SAFETY: the caller's promise.
        unsafe { out.store(tile.first + token, group * GROUP, &sums[..rows]) };
    }
}
