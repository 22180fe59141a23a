//! Activations quantised to int8, once per product, in the order in which the kernels read them.
//!
//! Tokens are taken in tiles of at most [`TILE`]. For each 32 columns a tile holds the tokens' 32 int8 values, then
//! what belongs to each 32, a [`Scale`]. A tile is padded with zero tokens to a size that the kernels know. A NaN or an
//! infinity among 32 values makes all of their products NaN or infinite. A matrix that asks for precise activations
//! gets two terms: what the first one's rounding leaves is quantised once more.
#![expect(clippy::inline_always, reason = "what is not inlined is not compiled for the instruction set")]

use crate::formats::CHUNK;
use crate::lines::{Line, bytes_mut};
use crate::scratch::Buffer;
use crate::shared::Shared;
use crate::{Compute, Isa};

use super::Input;

/// Tokens of a tile at most.
pub(super) const TILE: usize = 64;
/// Bytes of one token's 32 columns.
const TOKEN_BYTES: usize = CHUNK + size_of::<Scale>();

/// What belongs to 32 int8 values of a token.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct Scale {
    /// Values are `d` times the integers; `d = max |x| / 127`.
    pub(super) d: f32,
    /// `d` times the sum of all integers: what a minimum of 32 weights is multiplied with.
    pub(super) sum: f32,
    /// The same of either 16.
    pub(super) half_sums: [f32; 2],
    /// The sum of all integers.
    pub(super) integer_sum: i32,
}

impl Scale {
    fn new(d: f32, [low, high]: [i32; 2]) -> Self {
        let half_sums = [d * low as f32, d * high as f32];
        Self { d, sum: d * (low + high) as f32, half_sums, integer_sum: low + high }
    }
}

/// Memory for activations that outlives a product, so that a step allocates nothing.
#[derive(Debug, Default)]
pub(crate) struct ActivationBuffer {
    /// Quantised.
    pub(super) lines: Vec<Line>,
    /// Made for float weights.
    pub(super) rows: Buffer,
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
    bytes: &'a [u8],
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
    bytes: &'a [u8],
}

impl<'a> Tile<'a> {
    /// Integers of 32 columns, `(padded, 32)`, and their scales, `(padded)`.
    pub(super) fn chunk(&self, chunk: usize) -> (&'a [u8], &'a [Scale]) {
        let bytes = &self.bytes[chunk * self.padded * TOKEN_BYTES..][..self.padded * TOKEN_BYTES];
        let (values, scales) = bytes.split_at(self.padded * CHUNK);
        // SAFETY: scales were written here; chunks begin at multiples of 4 bytes in memory aligned to 64.
        (values, unsafe { std::slice::from_raw_parts(scales.as_ptr().cast(), self.padded) })
    }
}

fn padded(tokens: usize) -> usize {
    if tokens <= 2 { tokens } else { tokens.next_multiple_of(4) }
}

impl<'a> Quantised<'a> {
    /// Quantises all rows of `x` into `buffer`, and with `precise` also what that leaves of them; columns are a
    /// multiple of 32.
    pub(super) fn new(compute: &Compute, x: Input<'_>, precise: bool, buffer: &'a mut Vec<Line>) -> Self {
        /// Values that are worth handing to another thread.
        const MIN_PARALLEL: usize = 1 << 12;
        let (num_tokens, chunks) = (x.num_tokens(), x.columns / CHUNK);
        let last = num_tokens % TILE;
        let tokens = num_tokens - last + padded(last);
        let lines = (tokens * chunks * TOKEN_BYTES).div_ceil(size_of::<Line>());
        let terms = if precise { 2 } else { 1 };
        if buffer.len() < lines * terms {
            buffer.resize(lines * terms, Line::ZERO);
        }
        let (first, rest) = bytes_mut(&mut buffer[..lines * terms]).split_at_mut(lines * size_of::<Line>());
        let (first_term, residual_term) = (Shared::new(&mut *first), precise.then(|| Shared::new(&mut *rest)));
        let fill = |row: &mut Buffer, token: usize| {
            quantise_token(compute.isa(), x, token, row, first_term, residual_term);
        };
        if x.values.len() < MIN_PARALLEL {
            compute.with_scratch(|row| (0..tokens).for_each(|token| fill(row, token)));
        } else {
            compute.parallel_for_scratch(tokens, fill);
        }
        let term = |bytes| Term { bytes, num_tokens, chunks };
        Self { first: term(first), residual: precise.then(|| term(rest)) }
    }
}

impl<'a> Term<'a> {
    pub(super) fn tiles(&self) -> impl Iterator<Item = Tile<'a>> {
        let Self { bytes, num_tokens, chunks } = *self;
        (0..num_tokens).step_by(TILE).map(move |first| {
            let len = TILE.min(num_tokens - first);
            let tile_bytes = padded(len) * chunks * TOKEN_BYTES;
            Tile { first, len, padded: padded(len), bytes: &bytes[first * chunks * TOKEN_BYTES..][..tile_bytes] }
        })
    }
}

/// Writes all chunks of one token into its tile of both terms; a token beyond the last is padding.
fn quantise_token(
    isa: Isa,
    x: Input<'_>,
    token: usize,
    row: &mut Buffer,
    first: Shared<'_, u8>,
    residual: Option<Shared<'_, u8>>,
) {
    let places = (0..x.columns / CHUNK).map(|chunk| Place::new(x, token, chunk));
    if token >= x.num_tokens() {
        let zeros = |values: &mut [u8]| {
            values.fill(0);
            Scale::default()
        };
        for (place, term) in places.flat_map(|place| [Some(first), residual].map(|term| (place, term))) {
            // SAFETY: the places of a token belong to the one task that has it.
            term.map(|term| unsafe { place.write(term, zeros) });
        }
        return;
    }
    let row = x.row(isa, token, row);
    for (place, x) in places.zip(row.as_chunks::<CHUNK>().0) {
        // SAFETY: as above.
        unsafe {
            let (values, scale) = place.write(first, |values| quantise(isa, x, values));
            if let Some(residual) = residual {
                let left: [f32; CHUNK] = std::array::from_fn(|i| x[i] - scale.d * f32::from(values[i] as i8));
                place.write(residual, |values| quantise(isa, &left, values));
            }
        }
    }
}

/// Where a term has 32 columns of one token.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// The first of 32 integers.
    values: usize,
    /// The first byte of their [`Scale`].
    scale: usize,
}

impl Place {
    fn new(x: Input<'_>, token: usize, chunk: usize) -> Self {
        let (first, index) = (token / TILE * TILE, token % TILE);
        let padded = padded(TILE.min(x.num_tokens() - first));
        let start = (first * (x.columns / CHUNK) + chunk * padded) * TOKEN_BYTES;
        Self { values: start + index * CHUNK, scale: start + padded * CHUNK + index * size_of::<Scale>() }
    }

    /// Has `fill` write the integers, and writes the scale that it returns.
    ///
    /// # Safety
    /// No other thread has this place of `term`.
    #[inline(always)]
    unsafe fn write(self, term: Shared<'_, u8>, fill: impl FnOnce(&mut [u8]) -> Scale) -> (&[u8], Scale) {
        // SAFETY: the caller's promise; integers and scale lie apart, and a slice is as long as what is written to it.
        unsafe {
            let values = term.slice(self.values, CHUNK);
            let scale = fill(values);
            let bytes = term.slice(self.scale, size_of::<Scale>());
            bytes.as_mut_ptr().cast::<Scale>().write_unaligned(scale);
            (values, scale)
        }
    }
}

/// Quantises 32 values.
#[inline(always)]
fn quantise(isa: Isa, x: &[f32], values: &mut [u8]) -> Scale {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::AvxVnni | Isa::Avx512Vnni => {
            // SAFETY: this instruction set was detected; the slices are 32 floats and 32 bytes.
            unsafe { avx2::quantise(x, values) }
        }
        _ => scalar(x, values),
    }
}

/// The scale of 32 values whose largest magnitude is `max`, and the factor that takes values to integers.
#[inline(always)]
fn scale_and_factor(max: f32) -> (f32, f32) {
    let factor = 127.0 / max;
    // Infinite for zeros (and magnitudes that vanish beside any weight); zero or NaN where `max` is not finite.
    if factor.is_infinite() { (0.0, 0.0) } else { (max / 127.0, factor) }
}

fn scalar(x: &[f32], values: &mut [u8]) -> Scale {
    // The bits of magnitudes order as the magnitudes do, with NaN above all.
    let max = f32::from_bits(x.iter().map(|x| x.abs().to_bits()).max().unwrap_or(0));
    let (d, factor) = scale_and_factor(max);
    for (value, x) in values.iter_mut().zip(x) {
        *value = (x * factor).round_ties_even() as i8 as u8;
    }
    let sum = |values: &[u8]| values.iter().map(|&v| i32::from(v as i8)).sum::<i32>();
    Scale::new(d, [sum(&values[..16]), sum(&values[16..])])
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        __m128i, _mm_add_epi32, _mm_cvtsi128_si32, _mm_max_epu32, _mm_shuffle_epi32, _mm256_and_si256,
        _mm256_castsi256_si128, _mm256_cvtps_epi32, _mm256_extracti128_si256, _mm256_loadu_ps, _mm256_loadu_si256,
        _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_max_epu32, _mm256_mul_ps, _mm256_packs_epi16,
        _mm256_packs_epi32, _mm256_permutevar8x32_epi32, _mm256_set1_epi8, _mm256_set1_epi16, _mm256_set1_epi32,
        _mm256_set1_ps, _mm256_setr_epi32, _mm256_storeu_si256,
    };

    use super::{Scale, scale_and_factor};

    /// # Safety
    /// AVX2 must be there; `x` has 32 values, `values` 32 bytes.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn quantise(x: &[f32], values: &mut [u8]) -> Scale {
        debug_assert!(x.len() == 32 && values.len() == 32);
        // SAFETY: all loads and stores are inside the slices, as the caller promises.
        unsafe {
            let mut bits = [_mm256_set1_epi32(i32::MAX); 4];
            for (i, bits) in bits.iter_mut().enumerate() {
                *bits = _mm256_and_si256(*bits, _mm256_loadu_si256(x.as_ptr().add(i * 8).cast()));
            }
            let max = _mm256_max_epu32(_mm256_max_epu32(bits[0], bits[1]), _mm256_max_epu32(bits[2], bits[3]));
            let max = _mm_max_epu32(_mm256_castsi256_si128(max), _mm256_extracti128_si256::<1>(max));
            let max = _mm_max_epu32(max, _mm_shuffle_epi32::<0b01_00_11_10>(max));
            let max = _mm_max_epu32(max, _mm_shuffle_epi32::<0b10_11_00_01>(max));
            let (d, factor) = scale_and_factor(f32::from_bits(_mm_cvtsi128_si32(max) as u32));
            let factor = _mm256_set1_ps(factor);
            let mut q = bits;
            for (i, q) in q.iter_mut().enumerate() {
                *q = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x.as_ptr().add(i * 8)), factor));
            }
            let q = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
            let q = _mm256_permutevar8x32_epi32(q, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
            _mm256_storeu_si256(values.as_mut_ptr().cast(), q);
            let sums = _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_set1_epi8(1), q), _mm256_set1_epi16(1));
            Scale::new(d, [sum4(_mm256_castsi256_si128(sums)), sum4(_mm256_extracti128_si256::<1>(sums))])
        }
    }

    /// # Safety
    /// SSE2, which every machine of this kind has.
    #[inline(always)]
    unsafe fn sum4(v: __m128i) -> i32 {
        // SAFETY: the caller's promise.
        unsafe {
            let v = _mm_add_epi32(v, _mm_shuffle_epi32::<0b01_00_11_10>(v));
            _mm_cvtsi128_si32(_mm_add_epi32(v, _mm_shuffle_epi32::<0b10_11_00_01>(v)))
        }
    }
}
