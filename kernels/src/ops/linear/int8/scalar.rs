//! The plain micro-kernel: the reference for all others, which give the same bits.

use super::{MicroKernel, Sums, Tile};
use crate::formats::{CHUNK, Format, GROUP, read_chunk, scaling::Scaling};

pub(super) enum Scalar {}

impl MicroKernel for Scalar {
    unsafe fn product<F: Format, const G: usize, const T: usize, const STREAM: bool>(
        groups: [&[u8]; G],
        tile: &Tile<'_>,
        sums: &mut Sums,
    ) {
        let chunks = groups[0].len() / F::BLOCK_BYTES * F::Scaling::CHUNKS;
        for (group, sums) in groups.into_iter().zip(sums.0.chunks_exact_mut(tile.padded * GROUP)) {
            sums.fill(0.0);
            for chunk in 0..chunks {
                for row in 0..GROUP {
                    add_chunk::<F>(group, row, chunk, tile, sums);
                }
            }
        }
    }
}

/// Adds the products of one row's 32 columns with all tokens' to the row's sums.
fn add_chunk<F: Format>(group: &[u8], row: usize, chunk: usize, tile: &Tile<'_>, sums: &mut [f32]) {
    let (quants, scales) = read_chunk::<F>(group, row, chunk);
    let (values, activation_scales) = tile.chunk(chunk);
    let tokens = values.chunks_exact(CHUNK).zip(activation_scales).zip(sums.chunks_exact_mut(GROUP));
    for ((values, activation), sums) in tokens {
        let sub_len = CHUNK / F::Scaling::SUB;
        for sub in 0..F::Scaling::SUB {
            let columns = sub * sub_len..(sub + 1) * sub_len;
            let products = quants[columns.clone()].iter().zip(&values[columns]);
            let total: i32 = products.map(|(&q, &a)| q * i32::from(a as i8)).sum();
            sums[row] = (scales.scale[sub] * activation.d).mul_add(total as f32, sums[row]);
            if F::Scaling::MINS {
                let activation_sum = if F::Scaling::SUB == 1 { activation.sum } else { activation.half_sums[sub] };
                sums[row] = scales.min[sub].mul_add(activation_sum, sums[row]);
            }
        }
    }
}
