//! The plain micro-kernels: the reference for all others, which give the same bits.

use super::{MicroKernel, Sums, Tile};
use crate::formats::scaling::Scaling;
use crate::formats::scaling::chunk::ChunkScaling;
use crate::formats::scaling::superblock::SuperScaling;
use crate::formats::{CHUNK, Format, GROUP, SUPER, header, read_quants, read_scales};

/// For scales per 32 columns.
pub(super) enum Chunks {}
/// For scales per 256 columns.
pub(super) enum Blocks {}

impl<F: Format<Scaling: ChunkScaling>> MicroKernel<F> for Chunks {
    unsafe fn product<const G: usize, const T: usize, const STREAM: bool>(
        groups: [&[u8]; G],
        tile: &Tile<'_>,
        sums: &mut Sums,
    ) {
        for (group, sums) in groups.into_iter().zip(sums.0.chunks_exact_mut(tile.padded * GROUP)) {
            sums.fill(0.0);
            for chunk in 0..group.len() / F::BLOCK_BYTES {
                (0..GROUP).for_each(|row| add_chunk::<F>(group, row, chunk, tile, sums));
            }
        }
    }
}

/// Adds the products of one row's 32 columns with all tokens' to the row's sums.
fn add_chunk<F: Format>(group: &[u8], row: usize, chunk: usize, tile: &Tile<'_>, sums: &mut [f32]) {
    let (quants, scales) = (read_quants::<F>(group, row, chunk), read_scales::<F>(group, row, chunk));
    let (values, activation_scales) = tile.chunk(chunk);
    let tokens = values.chunks_exact(CHUNK).zip(activation_scales).zip(sums.chunks_exact_mut(GROUP));
    for ((values, activation), sums) in tokens {
        let total = dot(&quants, values);
        sums[row] = (scales.scale[0] * activation.d).mul_add(total as f32, sums[row]);
        if F::Scaling::MINS {
            sums[row] = scales.min[0].mul_add(activation.sum, sums[row]);
        }
    }
}

impl<F: Format<Scaling: SuperScaling>> MicroKernel<F> for Blocks {
    unsafe fn product<const G: usize, const T: usize, const STREAM: bool>(
        groups: [&[u8]; G],
        tile: &Tile<'_>,
        sums: &mut Sums,
    ) {
        for (group, sums) in groups.into_iter().zip(sums.0.chunks_exact_mut(tile.padded * GROUP)) {
            sums.fill(0.0);
            for block in 0..group.len() / F::BLOCK_BYTES {
                (0..GROUP).for_each(|row| add_block::<F>(group, row, block, tile, sums));
            }
        }
    }
}

/// Adds the products of one row's 256 columns with all tokens' to the row's sums. Integers may wrap on the way; what
/// they come to fits.
fn add_block<F: Format<Scaling: SuperScaling>>(
    group: &[u8],
    row: usize,
    block: usize,
    tile: &Tile<'_>,
    sums: &mut [f32],
) {
    let per_chunk = F::Scaling::SUB;
    let header = header::<F>(group, block * SUPER);
    let quants: [[i32; CHUNK]; SUPER] = std::array::from_fn(|c| read_quants::<F>(group, row, block * SUPER + c));
    let factor = |sub| F::Scaling::factor(header, row, sub);
    let (d, dmin) = F::Scaling::scales(header, row);
    for (token, activation) in tile.block(block).iter().enumerate() {
        let mut total = 0i32;
        for (c, quants) in quants.iter().enumerate() {
            let values = &tile.chunk(block * SUPER + c).0[token * CHUNK..][..CHUNK];
            let halves = quants.chunks(CHUNK / per_chunk).zip(values.chunks(CHUNK / per_chunk)).enumerate();
            let products = halves.map(|(h, (quants, values))| factor(c * per_chunk + h) * dot(quants, values));
            total = total.wrapping_add(products.sum::<i32>() << activation.shifts[c]);
        }
        let least = |sub| if F::Scaling::AFFINE { F::Scaling::minimum(header, row, sub) } else { factor(sub) };
        let activation_sums = activation.sums(per_chunk).iter().flat_map(|&pair| [pair as i16, (pair >> 16) as i16]);
        let minima: i32 = activation_sums.enumerate().map(|(sub, sum)| least(sub) * i32::from(sum)).sum();
        total = total.wrapping_sub(F::Scaling::OFFSET * minima);
        let sum = &mut sums[token * GROUP + row];
        *sum = (d * activation.d).mul_add(total as f32, *sum);
        if F::Scaling::AFFINE {
            *sum = (dmin * activation.d).mul_add(minima as f32, *sum);
        }
    }
}

fn dot(quants: &[i32], values: &[u8]) -> i32 {
    quants.iter().zip(values).map(|(&q, &a)| q * i32::from(a.cast_signed())).sum()
}
