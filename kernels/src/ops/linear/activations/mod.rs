//! Activations quantised to int8, once per product, in the order in which the kernels read them.
//!
//! Tokens are taken in tiles of at most [`TILE`]. For each 32 columns a tile holds the tokens' 32 int8 values and their
//! [`ChunkScale`]s; a matrix with formats of 256 columns a block also has a [`BlockScale`] for each 256 columns of a
//! token, whose chunks' scales then differ by powers of two. A tile is padded with zero tokens to a size that the kernels know. A
//! NaN or an infinity among the values of a scale makes all of their products NaN or infinite. A matrix that asks for
//! precise activations gets two terms: what the first one's rounding leaves is quantised once more.
#![expect(clippy::inline_always, reason = "what is not inlined is not compiled for the instruction set")]

mod quantise;

use crate::formats::{CHUNK, SUPER};
use crate::scratch::Buffer;
use crate::shared::Shared;
use crate::{Compute, Isa, PackedMatrix};

use super::Input;
use quantise::{Chunks, Numbers};

/// Tokens of a tile at most.
pub(super) const TILE: usize = 32;

/// What belongs to 32 int8 values of a token.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ChunkScale {
    /// Values are `d` times the integers.
    pub(super) d: f32,
    /// `d` times the sum of all integers: what a minimum of 32 weights is multiplied with.
    pub(super) sum: f32,
    /// The sum of all integers.
    pub(super) integer_sum: i32,
}

/// What belongs to 256 int8 values of a token: values of chunk `c` are `d * 2^shifts[c]` times the integers.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct BlockScale {
    pub(super) d: f32,
    pub(super) shifts: [i32; SUPER],
    /// Sums of the integers times `2^shift`, of either 16 of each chunk, as pairs of 16 bits.
    half_sums: [i32; SUPER],
    /// The same of each chunk, two by two.
    chunk_sums: [i32; SUPER / 2],
}

impl BlockScale {
    /// Sums of the integers of each sub-block times `2^shift`, `sub` being how many a chunk has: pairs of 16 bits, the
    /// first in the low half.
    #[inline(always)]
    pub(super) fn sums(&self, sub: usize) -> &[i32] {
        if sub == 2 { &self.half_sums } else { &self.chunk_sums }
    }
}

/// Memory for activations that outlives a product, so that a step allocates nothing.
#[derive(Debug, Default)]
pub(crate) struct ActivationBuffer {
    /// Quantised, term by term.
    pub(super) terms: [TermBuffer; 2],
    /// Made for float weights.
    pub(super) rows: Buffer,
}

#[derive(Debug, Default)]
pub(super) struct TermBuffer {
    values: Vec<u8>,
    scales: Vec<ChunkScale>,
    blocks: Vec<BlockScale>,
}

/// The quantised activations of a product: the sum of the terms.
#[derive(Debug, Clone, Copy)]
pub(super) struct Quantised<'a> {
    pub(super) first: Term<'a>,
    /// What the first one's rounding left, where precision is asked for.
    pub(super) residual: Option<Term<'a>>,
}

/// Integers and scales of all tokens.
#[derive(Debug, Clone, Copy)]
pub(super) struct Term<'a> {
    buffer: &'a TermBuffer,
    num_tokens: usize,
    chunks: usize,
}

/// Tokens whose sums are kept while the weights pass.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tile<'a> {
    /// The first token.
    pub(super) first: usize,
    /// How many there are.
    pub(super) len: usize,
    /// How many there are with padding: 1, 2 or a multiple of 4.
    pub(super) padded: usize,
    values: &'a [u8],
    scales: &'a [ChunkScale],
    blocks: &'a [BlockScale],
}

impl<'a> Tile<'a> {
    /// Integers of 32 columns, `(padded, 32)`, and their scales, `(padded)`.
    pub(super) fn chunk(&self, chunk: usize) -> (&'a [u8], &'a [ChunkScale]) {
        let first = chunk * self.padded;
        (&self.values[first * CHUNK..][..self.padded * CHUNK], &self.scales[first..][..self.padded])
    }

    /// Scales of 256 columns, `(padded)`.
    pub(super) fn block(&self, block: usize) -> &'a [BlockScale] {
        &self.blocks[block * self.padded..][..self.padded]
    }
}

fn padded(tokens: usize) -> usize {
    if tokens <= 2 { tokens } else { tokens.next_multiple_of(4) }
}

impl<'a> Quantised<'a> {
    /// Quantises all rows of `x` for products with `weight`; columns are a multiple of 32.
    pub(super) fn new(
        compute: &Compute,
        x: Input<'_>,
        weight: &PackedMatrix,
        buffers: &'a mut [TermBuffer; 2],
    ) -> Self {
        /// Values that are worth handing to another thread.
        const MIN_PARALLEL: usize = 1 << 12;
        let (num_tokens, chunks) = (x.num_tokens(), x.columns / CHUNK);
        let last = num_tokens % TILE;
        let tokens = num_tokens - last + padded(last);
        let step =
            if weight.parts().iter().any(|part| part.ggml_type.block_len() == SUPER * CHUNK) { SUPER } else { 1 };
        let [first, residual] = buffers;
        let job = Job {
            isa: compute.isa(),
            x,
            first: first.places(tokens * chunks, step),
            residual: weight.is_precise().then(|| residual.places(tokens * chunks, step)),
        };
        let quantise = kernel(job.isa, step);
        let fill = |row: &mut Buffer, token: usize| {
            // SAFETY: the handle's instruction set was detected, and every token is of one task.
            unsafe { quantise(&job, token, row) };
        };
        if x.values.len() < MIN_PARALLEL {
            compute.with_scratch(|row| (0..tokens).for_each(|token| fill(row, token)));
        } else {
            compute.parallel_for_scratch(tokens, fill);
        }
        let residual = weight.is_precise().then_some(Term { buffer: residual, num_tokens, chunks });
        Self { first: Term { buffer: first, num_tokens, chunks }, residual }
    }
}

impl<'a> Term<'a> {
    pub(super) fn tiles(&self) -> impl Iterator<Item = Tile<'a>> {
        let Self { buffer: TermBuffer { values, scales, blocks }, num_tokens, chunks } = *self;
        (0..num_tokens).step_by(TILE).map(move |first| {
            let len = TILE.min(num_tokens - first);
            let start = first * chunks;
            Tile {
                first,
                len,
                padded: padded(len),
                values: &values[start * CHUNK..],
                scales: &scales[start..],
                blocks: blocks.get(start / SUPER..).unwrap_or_default(),
            }
        })
    }
}

/// Where a term has a run of chunks of one token, and what belongs to the run.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// The first chunk.
    chunk: usize,
    /// From one chunk to the next.
    next: usize,
    block: usize,
}

/// A term's memory, to be written by many threads.
#[derive(Debug, Clone, Copy)]
struct Places<'a> {
    values: Shared<'a, u8>,
    scales: Shared<'a, ChunkScale>,
    blocks: Shared<'a, BlockScale>,
}

impl Places<'_> {
    /// # Safety
    /// No other thread has this place.
    #[inline(always)]
    unsafe fn put<const N: usize>(&self, place: Place, chunks: &Chunks<N>) {
        // SAFETY: the caller's promise.
        unsafe {
            for (i, (values, scale)) in chunks.values.iter().zip(&chunks.scales).enumerate() {
                let chunk = place.chunk + i * place.next;
                self.values.slice(chunk * CHUNK, CHUNK).copy_from_slice(values);
                self.scales.slice(chunk, 1).fill(*scale);
            }
            if N == SUPER {
                self.blocks.slice(place.block, 1).fill(chunks.block());
            }
        }
    }
}

impl TermBuffer {
    /// Memory for `chunks` chunks, of which `step` share what is decided about scales.
    fn places(&mut self, chunks: usize, step: usize) -> Places<'_> {
        fn grow<T: Copy + Default>(values: &mut Vec<T>, len: usize) -> Shared<'_, T> {
            if values.len() < len {
                values.resize(len, T::default());
            }
            Shared::new(values)
        }
        let blocks = if step == SUPER { chunks / SUPER } else { 0 };
        Places {
            values: grow(&mut self.values, chunks * CHUNK),
            scales: grow(&mut self.scales, chunks),
            blocks: grow(&mut self.blocks, blocks),
        }
    }
}

/// What is quantised, and where to.
struct Job<'a> {
    isa: Isa,
    x: Input<'a>,
    first: Places<'a>,
    residual: Option<Places<'a>>,
}

/// Writes all chunks of one token into its tile of both terms; a token beyond the last is padding.
///
/// # Safety
/// The job's instruction set must be there, and no other thread have the token.
type QuantiseToken = unsafe fn(&Job<'_>, usize, &mut Buffer);

/// The kernel for chunks of which `step` share what is decided about scales.
fn kernel(isa: Isa, step: usize) -> QuantiseToken {
    match (isa, step) {
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx2 | Isa::AvxVnni | Isa::Avx512Vnni, SUPER) => quantise_token_avx2::<SUPER>,
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx2 | Isa::AvxVnni | Isa::Avx512Vnni, _) => quantise_token_avx2::<1>,
        (_, SUPER) => quantise_token::<quantise::Plain, SUPER>,
        _ => quantise_token::<quantise::Plain, 1>,
    }
}

/// # Safety
/// As of [`QuantiseToken`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn quantise_token_avx2<const N: usize>(job: &Job<'_>, token: usize, row: &mut Buffer) {
    // SAFETY: the caller's promise.
    unsafe { quantise_token::<quantise::avx2::Avx2, N>(job, token, row) }
}

/// # Safety
/// As of [`QuantiseToken`].
#[inline(always)]
unsafe fn quantise_token<I: Numbers, const N: usize>(job: &Job<'_>, token: usize, row: &mut Buffer) {
    const ZEROS: [f32; SUPER * CHUNK] = [0.0; SUPER * CHUNK];
    let Job { isa, x, first, residual } = *job;
    let (tile, index) = (token / TILE * TILE, token % TILE);
    let (padded, chunks) = (padded(TILE.min(x.num_tokens() - tile)), x.columns / CHUNK);
    let row = (token < x.num_tokens()).then(|| x.row(isa, token, row));
    for run in 0..chunks / N {
        let x = row.map_or(&ZEROS[..N * CHUNK], |row| &row[run * N * CHUNK..][..N * CHUNK]);
        let place = Place {
            chunk: tile * chunks + run * N * padded + index,
            next: padded,
            block: tile * chunks / N + run * padded + index,
        };
        // SAFETY: the caller's promise.
        unsafe {
            let quantised = Chunks::<N>::new::<I>(x);
            first.put(place, &quantised);
            if let Some(residual) = residual {
                residual.put(place, &Chunks::<N>::new::<I>(quantised.left(x).as_flattened()));
            }
        }
    }
}
