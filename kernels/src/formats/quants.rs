//! How the integers of a chunk, 8 rows by 32 columns, are stored: bit planes interleaved so that one 32-byte load gives
//! `[row 0..8][4 consecutive columns]`. Vector `v` of a chunk covers columns `4v..4v + 4`.
#![expect(clippy::inline_always, reason = "what is not inlined is not compiled for the instruction set")]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m256i, _mm_loadu_si128, _mm256_and_si256, _mm256_broadcastsi128_si256, _mm256_loadu_si256, _mm256_or_si256,
    _mm256_set1_epi8, _mm256_setzero_si256, _mm256_shuffle_epi8, _mm256_slli_epi16, _mm256_srli_epi16,
};
use std::marker::PhantomData;

use super::block::IQ4_VALUES;
use super::{CHUNK, GROUP};

/// Integers of one width, or the bits of them that one plane holds.
pub(crate) trait Quants: 'static {
    /// Bytes of a chunk.
    const BYTES: usize;
    /// The largest magnitude.
    const MAX: usize;
    /// Whether values are two's complement bytes, and not unsigned.
    const SIGNED: bool = false;
    /// How many vectors' products with int8 may be added in 16 bits: `RUN * 2 * MAX * 127 <= 32767`.
    const RUN: usize = if 8 * 2 * Self::MAX * 127 <= 32767 { 8 } else { 32767 / (2 * Self::MAX * 127) };

    /// Writes one row's 32 integers into a chunk whose bytes were zero.
    fn put(chunk: &mut [u8], row: usize, quants: &[u8; CHUNK]);

    /// One row's integers of columns `4v..4v + 4`, a byte each.
    fn word(chunk: &[u8], row: usize, v: usize) -> u32;

    /// One row's 32 integers.
    fn get(chunk: &[u8], row: usize) -> [u8; 32] {
        let mut quants = [0; 32];
        for (v, four) in quants.chunks_exact_mut(4).enumerate() {
            four.copy_from_slice(&Self::word(chunk, row, v).to_le_bytes());
        }
        quants
    }

    /// The chunk's 8 vectors, one byte an integer.
    ///
    /// # Safety
    /// AVX2 must be there, and `chunk` point at [`Quants::BYTES`] readable bytes.
    #[cfg(target_arch = "x86_64")]
    unsafe fn load(chunk: *const u8) -> [__m256i; 8];
}

/// Bits 0 to 3: vectors `[i: 4][r][b]` with column `4i + b` in the low half of a byte, column `16 + 4i + b` in the high.
pub(crate) enum Nibbles {}
/// Bits `AT` and `AT + 1`: vectors `[h: 2][r][b]` with column `16h + 4i + b` in bits `2i..2i + 2`.
pub(crate) enum Pairs<const AT: usize> {}
/// Bit `AT`: one vector `[r][b]` with column `4v + b` in bit `v`.
pub(crate) enum Bit<const AT: usize> {}
/// As [`Nibbles`], each a place in [`IQ4_VALUES`].
pub(crate) enum Indexed4 {}
/// Signed bytes: vectors `[v: 8][r][b]`.
pub(crate) enum Int8 {}
/// The plane `A`, then the plane `B` for other bits of the same integers.
pub(crate) struct Both<A, B>(PhantomData<(A, B)>);

pub(crate) type Bits2 = Pairs<0>;
pub(crate) type Bits3 = Both<Pairs<0>, Bit<2>>;
pub(crate) type Bits4 = Nibbles;
pub(crate) type Bits5 = Both<Nibbles, Bit<4>>;
pub(crate) type Bits6 = Both<Nibbles, Pairs<4>>;

/// Four integers, columns `4v..4v + 4`, as one word.
fn word(bytes: &[u8], v: usize) -> u32 {
    u32::from_le_bytes([bytes[v * 4], bytes[v * 4 + 1], bytes[v * 4 + 2], bytes[v * 4 + 3]])
}

/// Writes the word of a row into a vector.
fn put_word(vector: &mut [u8; 32], row: usize, word: u32) {
    vector[row % GROUP * 4..][..4].copy_from_slice(&word.to_le_bytes());
}

/// `mask` in every byte.
const fn every(mask: u8) -> u32 {
    u32::from_le_bytes([mask; 4])
}

/// # Safety
/// AVX2, and 32 readable bytes at `at`.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn load32(at: *const u8) -> __m256i {
    // SAFETY: the caller's promise; the load takes any alignment.
    unsafe { _mm256_loadu_si256(at.cast()) }
}

/// Each vector's bits of `mask`.
///
/// # Safety
/// AVX2.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn masked<const N: usize>(vectors: [__m256i; N], mask: u8) -> [__m256i; N] {
    // SAFETY: the caller's promise.
    unsafe { vectors.map(|v| _mm256_and_si256(v, _mm256_set1_epi8(mask as i8))) }
}

impl Quants for Nibbles {
    const BYTES: usize = 128;
    const MAX: usize = 15;

    #[inline]
    fn put(chunk: &mut [u8], row: usize, quants: &[u8; CHUNK]) {
        for (i, vector) in chunk.as_chunks_mut().0.iter_mut().enumerate() {
            let [low, high] = [word(quants, i), word(quants, i + 4)];
            put_word(vector, row, low & every(15) | (high & every(15)) << 4);
        }
    }

    fn word(chunk: &[u8], row: usize, v: usize) -> u32 {
        word(&chunk[v % 4 * 32..], row) >> (v / 4 * 4) & every(15)
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load(chunk: *const u8) -> [__m256i; 8] {
        // SAFETY: the caller's promise.
        unsafe {
            let mask = _mm256_set1_epi8(15);
            let mut q = [_mm256_setzero_si256(); 8];
            for i in 0..4 {
                let both = load32(chunk.add(i * 32));
                q[i] = _mm256_and_si256(both, mask);
                q[i + 4] = _mm256_and_si256(_mm256_srli_epi16::<4>(both), mask);
            }
            q
        }
    }
}

impl Quants for Indexed4 {
    const BYTES: usize = Nibbles::BYTES;
    const MAX: usize = 127;
    const SIGNED: bool = true;

    fn put(chunk: &mut [u8], row: usize, quants: &[u8; CHUNK]) {
        Nibbles::put(chunk, row, quants);
    }

    fn word(chunk: &[u8], row: usize, v: usize) -> u32 {
        let places = Nibbles::word(chunk, row, v).to_le_bytes();
        u32::from_le_bytes(places.map(|place| IQ4_VALUES[usize::from(place)] as u8))
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load(chunk: *const u8) -> [__m256i; 8] {
        // SAFETY: the caller's promise; the table is 16 bytes.
        unsafe {
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(IQ4_VALUES.as_ptr().cast()));
            Nibbles::load(chunk).map(|places| _mm256_shuffle_epi8(table, places))
        }
    }
}

impl<const AT: usize> Quants for Pairs<AT> {
    const BYTES: usize = 64;
    const MAX: usize = 3 << AT;

    #[inline]
    fn put(chunk: &mut [u8], row: usize, quants: &[u8; CHUNK]) {
        for (h, vector) in chunk.as_chunks_mut().0.iter_mut().enumerate() {
            let pairs = (0..4).map(|i| (word(quants, h * 4 + i) >> AT & every(3)) << (i * 2));
            put_word(vector, row, pairs.fold(0, |all, pair| all | pair));
        }
    }

    fn word(chunk: &[u8], row: usize, v: usize) -> u32 {
        (word(&chunk[v / 4 * 32..], row) >> (v % 4 * 2) & every(3)) << AT
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load(chunk: *const u8) -> [__m256i; 8] {
        const { assert!(AT == 0 || AT == 4) }
        // SAFETY: the caller's promise.
        unsafe {
            let mut q = [_mm256_setzero_si256(); 8];
            for (h, q) in q.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                let v = load32(chunk.add(h * 32));
                *q = if AT == 4 {
                    [_mm256_slli_epi16::<4>(v), _mm256_slli_epi16::<2>(v), v, _mm256_srli_epi16::<2>(v)]
                } else {
                    [v, _mm256_srli_epi16::<2>(v), _mm256_srli_epi16::<4>(v), _mm256_srli_epi16::<6>(v)]
                };
            }
            masked(q, 3 << AT)
        }
    }
}

impl<const AT: usize> Quants for Bit<AT> {
    const BYTES: usize = 32;
    const MAX: usize = 1 << AT;

    #[inline]
    fn put(chunk: &mut [u8], row: usize, quants: &[u8; CHUNK]) {
        let bits = (0..8).map(|v| (word(quants, v) >> AT & every(1)) << v);
        if let Some(vector) = chunk.first_chunk_mut() {
            put_word(vector, row, bits.fold(0, |all, bit| all | bit));
        }
    }

    fn word(chunk: &[u8], row: usize, v: usize) -> u32 {
        (word(chunk, row) >> v & every(1)) << AT
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load(chunk: *const u8) -> [__m256i; 8] {
        const { assert!(AT == 2 || AT == 4) }
        // SAFETY: the caller's promise.
        unsafe {
            let bits = load32(chunk);
            let [left2, left1] = [_mm256_slli_epi16::<2>(bits), _mm256_slli_epi16::<1>(bits)];
            let [right1, right2] = [_mm256_srli_epi16::<1>(bits), _mm256_srli_epi16::<2>(bits)];
            let right3 = _mm256_srli_epi16::<3>(bits);
            let q = if AT == 4 {
                let [left4, left3] = [_mm256_slli_epi16::<4>(bits), _mm256_slli_epi16::<3>(bits)];
                [left4, left3, left2, left1, bits, right1, right2, right3]
            } else {
                let [right4, right5] = [_mm256_srli_epi16::<4>(bits), _mm256_srli_epi16::<5>(bits)];
                [left2, left1, bits, right1, right2, right3, right4, right5]
            };
            masked(q, 1 << AT)
        }
    }
}

impl<A: Quants, B: Quants> Quants for Both<A, B> {
    const BYTES: usize = A::BYTES + B::BYTES;
    const MAX: usize = A::MAX + B::MAX;

    #[inline]
    fn put(chunk: &mut [u8], row: usize, quants: &[u8; CHUNK]) {
        let (a, b) = chunk.split_at_mut(A::BYTES);
        A::put(a, row, quants);
        B::put(b, row, quants);
    }

    fn word(chunk: &[u8], row: usize, v: usize) -> u32 {
        A::word(chunk, row, v) | B::word(&chunk[A::BYTES..], row, v)
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load(chunk: *const u8) -> [__m256i; 8] {
        // SAFETY: the caller's promise.
        unsafe {
            let mut q = A::load(chunk);
            for (q, b) in q.iter_mut().zip(B::load(chunk.add(A::BYTES))) {
                *q = _mm256_or_si256(*q, b);
            }
            q
        }
    }
}

impl Quants for Int8 {
    const BYTES: usize = 256;
    const MAX: usize = 128;
    const SIGNED: bool = true;

    #[inline]
    fn put(chunk: &mut [u8], row: usize, quants: &[u8; CHUNK]) {
        for (v, vector) in chunk.as_chunks_mut().0.iter_mut().enumerate() {
            put_word(vector, row, word(quants, v));
        }
    }

    fn word(chunk: &[u8], row: usize, v: usize) -> u32 {
        word(&chunk[v * 32..], row)
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load(chunk: *const u8) -> [__m256i; 8] {
        // SAFETY: the caller's promise.
        unsafe {
            let mut q = [_mm256_setzero_si256(); 8];
            for (v, q) in q.iter_mut().enumerate() {
                *q = load32(chunk.add(v * 32));
            }
            q
        }
    }
}
