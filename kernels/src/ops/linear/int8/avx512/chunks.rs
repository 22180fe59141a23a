//! Slices with scales per 32 columns.
#![expect(clippy::inline_always, reason = "what is not inlined is not compiled for the instruction set")]

use std::arch::x86_64::{
    __m512, _mm512_cvtepi32_ps, _mm512_fmadd_ps, _mm512_mul_ps, _mm512_set1_ps, _mm512_setzero_ps,
};

use super::{Slice, dot, floats};
use crate::formats::scaling::Scaling;
use crate::formats::scaling::chunk::ChunkScaling;
use crate::formats::{CHUNK, Format};
use crate::ops::linear::int8::Tile;
use crate::ops::linear::int8::avx2::{self, load};
use crate::ops::linear::int8::vnni::{Evex, Vnni};

pub(in crate::ops::linear::int8) enum Chunks {}

impl<F: Format<Scaling: ChunkScaling>> Slice<F> for Chunks {
    type Narrow = avx2::Chunks<Vnni<Evex>>;

    #[inline(always)]
    unsafe fn slice<const T: usize, const AHEAD: bool>(
        groups: [&[u8]; 2],
        tile: &Tile<'_>,
        token: usize,
    ) -> [__m512; T] {
        // SAFETY: groups and tiles have the same columns, and the tile the tokens, as the caller promises.
        unsafe {
            let mut sums = [_mm512_setzero_ps(); T];
            for chunk in 0..groups[0].len() / F::BLOCK_BYTES {
                let at = chunk * F::BLOCK_BYTES;
                let blocks = [groups[0].as_ptr().add(at), groups[1].as_ptr().add(at)];
                let weights = load::<F, Vnni<Evex>, 2, AHEAD>(blocks, 0);
                let (low, high) = (F::Scaling::load(blocks[0]), F::Scaling::load(blocks[1]));
                let (scale, min) = (floats(low.0, high.0), floats(low.1, high.1));
                let (values, scales) = tile.chunk(chunk);
                let (values, scales) = (values.as_ptr().add(token * CHUNK), scales.as_ptr().add(token));
                let totals = dot::<F, T>(&weights, values, scales, 0..8);
                for t in 0..T {
                    let activation = &*scales.add(t);
                    let total = _mm512_cvtepi32_ps(totals[t]);
                    let scale = _mm512_mul_ps(scale, _mm512_set1_ps(activation.d));
                    sums[t] = _mm512_fmadd_ps(scale, total, sums[t]);
                    if F::Scaling::MINS {
                        sums[t] = _mm512_fmadd_ps(min, _mm512_set1_ps(activation.sum), sums[t]);
                    }
                }
            }
            sums
        }
    }
}
