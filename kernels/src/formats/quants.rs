//! How the integers of a chunk, 8 rows by 32 columns, are stored: bit planes interleaved so that one 32-byte load gives
//! `[row 0..8][4 consecutive columns]`. Vector `v` of a chunk covers columns `4v..4v + 4`.
//!
//! Planes (byte `[r][b]` is byte `4r + b` of a 32-byte vector):
//! - nibbles, 128 bytes `[i: 4][r][b]`: low half column `4i + b`, high half column `16 + 4i + b`;
//! - pairs, 64 bytes `[h: 2][r][b]`: bits `2i..2i + 2` column `16h + 4i + b`;
//! - bits, 32 bytes `[r][b]`: bit `v` column `4v + b`.
#![expect(clippy::inline_always, reason = "what is not inlined is not compiled for the instruction set")]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m256i, _mm256_and_si256, _mm256_loadu_si256, _mm256_or_si256, _mm256_set1_epi8, _mm256_setzero_si256,
    _mm256_slli_epi16, _mm256_srli_epi16,
};

/// Integers of one width. Values are unsigned unless [`Quants::SIGNED`].
pub(crate) trait Quants: 'static {
    /// Bytes of a chunk.
    const BYTES: usize;
    /// Whether values are two's complement bytes.
    const SIGNED: bool = false;
    /// Bit planes that have to be put together.
    const PLANES: usize = 1;
    /// How many vectors' products with int8 may be added in 16 bits: `RUN * 2 * max * 127 <= 32767`.
    const RUN: usize;

    /// Writes one row's 32 integers into a chunk whose bytes were zero.
    fn put(chunk: &mut [u8], row: usize, quants: &[u8]);

    /// Reads one row's 32 integers.
    fn get(chunk: &[u8], row: usize) -> [u8; 32];

    /// The chunk's 8 vectors, one byte an integer.
    ///
    /// # Safety
    /// AVX2 must be there, and `chunk` point at [`Quants::BYTES`] readable bytes.
    #[cfg(target_arch = "x86_64")]
    unsafe fn load(chunk: *const u8) -> [__m256i; 8];
}

/// 2 bits: pairs.
pub(crate) enum Bits2 {}
/// 3 bits: pairs, then bits for the third.
pub(crate) enum Bits3 {}
/// 4 bits: nibbles.
pub(crate) enum Bits4 {}
/// 5 bits: nibbles, then bits for the fifth.
pub(crate) enum Bits5 {}
/// 6 bits: nibbles, then pairs for the high two.
pub(crate) enum Bits6 {}
/// Signed bytes, 256 bytes `[v: 8][r][b]`.
pub(crate) enum Int8 {}

const NIBBLES: usize = 128;
const PAIRS: usize = 64;
const BITS: usize = 32;

/// Four integers, columns `4v..4v + 4`, as one word.
fn word(bytes: &[u8], v: usize) -> u32 {
    u32::from_le_bytes([bytes[v * 4], bytes[v * 4 + 1], bytes[v * 4 + 2], bytes[v * 4 + 3]])
}

/// Writes the word of a row into a vector.
fn put_word(vector: &mut [u8], row: usize, word: u32) {
    vector[row * 4..][..4].copy_from_slice(&word.to_le_bytes());
}

/// `mask` in every byte.
const fn every(mask: u8) -> u32 {
    u32::from_le_bytes([mask; 4])
}

fn put_nibbles(plane: &mut [u8], row: usize, quants: &[u8]) {
    for (i, vector) in plane.chunks_exact_mut(32).enumerate() {
        let [low, high] = [word(quants, i), word(quants, i + 4)];
        put_word(vector, row, low & every(15) | (high & every(15)) << 4);
    }
}

fn nibbles(plane: &[u8], row: usize, v: usize) -> u32 {
    word(&plane[v % 4 * 32..], row) >> (v / 4 * 4) & every(15)
}

fn put_pairs(plane: &mut [u8], row: usize, quants: &[u8], shift: usize) {
    for (h, vector) in plane.chunks_exact_mut(32).enumerate() {
        let pairs = (0..4).map(|i| (word(quants, h * 4 + i) >> shift & every(3)) << (i * 2));
        put_word(vector, row, pairs.fold(0, |all, pair| all | pair));
    }
}

fn pairs(plane: &[u8], row: usize, v: usize) -> u32 {
    word(&plane[v / 4 * 32..], row) >> (v % 4 * 2) & every(3)
}

fn put_bits(vector: &mut [u8], row: usize, quants: &[u8], shift: usize) {
    let bits = (0..8).map(|v| (word(quants, v) >> shift & every(1)) << v);
    put_word(vector, row, bits.fold(0, |all, bit| all | bit));
}

fn bits(vector: &[u8], row: usize, v: usize) -> u32 {
    word(vector, row) >> v & every(1)
}

/// The 32 integers whose words `of` gives.
fn gather(of: impl Fn(usize) -> u32) -> [u8; 32] {
    let mut quants = [0; 32];
    for (v, four) in quants.chunks_exact_mut(4).enumerate() {
        four.copy_from_slice(&of(v).to_le_bytes());
    }
    quants
}

/// # Safety
/// AVX2, and 32 readable bytes at `at`.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn load32(at: *const u8) -> __m256i {
    // SAFETY: the caller's promise; the load takes any alignment.
    unsafe { _mm256_loadu_si256(at.cast()) }
}

/// # Safety
/// AVX2, and [`NIBBLES`] readable bytes at `plane`.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn load_nibbles(plane: *const u8) -> [__m256i; 8] {
    // SAFETY: the caller's promise.
    unsafe {
        let mask = _mm256_set1_epi8(15);
        let mut q = [_mm256_setzero_si256(); 8];
        for i in 0..4 {
            let both = load32(plane.add(i * 32));
            q[i] = _mm256_and_si256(both, mask);
            q[i + 4] = _mm256_and_si256(_mm256_srli_epi16::<4>(both), mask);
        }
        q
    }
}

/// Moves bit pairs `2i` of each byte to bits `TO..TO + 2`, other bits cleared.
///
/// # Safety
/// AVX2.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn pairs_at<const TO: i32>(v: __m256i) -> [__m256i; 4] {
    // SAFETY: the caller's promise.
    unsafe {
        let mask = _mm256_set1_epi8(3 << TO);
        let shifted = if TO == 4 {
            [_mm256_slli_epi16::<4>(v), _mm256_slli_epi16::<2>(v), v, _mm256_srli_epi16::<2>(v)]
        } else {
            [v, _mm256_srli_epi16::<2>(v), _mm256_srli_epi16::<4>(v), _mm256_srli_epi16::<6>(v)]
        };
        [
            _mm256_and_si256(shifted[0], mask),
            _mm256_and_si256(shifted[1], mask),
            _mm256_and_si256(shifted[2], mask),
            _mm256_and_si256(shifted[3], mask),
        ]
    }
}

/// Ors bit `v` of each byte of `bits` into bit `TO` of `q[v]`.
///
/// # Safety
/// AVX2.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn or_bits<const TO: i32>(q: &mut [__m256i; 8], bits: __m256i) {
    // SAFETY: the caller's promise.
    unsafe {
        let mask = _mm256_set1_epi8(1 << TO);
        let shifted = if TO == 4 {
            [
                _mm256_slli_epi16::<4>(bits),
                _mm256_slli_epi16::<3>(bits),
                _mm256_slli_epi16::<2>(bits),
                _mm256_slli_epi16::<1>(bits),
                bits,
                _mm256_srli_epi16::<1>(bits),
                _mm256_srli_epi16::<2>(bits),
                _mm256_srli_epi16::<3>(bits),
            ]
        } else {
            [
                _mm256_slli_epi16::<2>(bits),
                _mm256_slli_epi16::<1>(bits),
                bits,
                _mm256_srli_epi16::<1>(bits),
                _mm256_srli_epi16::<2>(bits),
                _mm256_srli_epi16::<3>(bits),
                _mm256_srli_epi16::<4>(bits),
                _mm256_srli_epi16::<5>(bits),
            ]
        };
        for (q, shifted) in q.iter_mut().zip(shifted) {
            *q = _mm256_or_si256(*q, _mm256_and_si256(shifted, mask));
        }
    }
}

impl Quants for Bits2 {
    const BYTES: usize = PAIRS;
    const RUN: usize = 8;

    fn put(chunk: &mut [u8], row: usize, quants: &[u8]) {
        put_pairs(chunk, row, quants, 0);
    }

    fn get(chunk: &[u8], row: usize) -> [u8; 32] {
        gather(|v| pairs(chunk, row, v))
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load(chunk: *const u8) -> [__m256i; 8] {
        // SAFETY: the caller's promise.
        unsafe {
            let [a, b] = [pairs_at::<0>(load32(chunk)), pairs_at::<0>(load32(chunk.add(32)))];
            [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]]
        }
    }
}

impl Quants for Bits3 {
    const BYTES: usize = PAIRS + BITS;
    const PLANES: usize = 2;
    const RUN: usize = 8;

    fn put(chunk: &mut [u8], row: usize, quants: &[u8]) {
        let (pairs, bits) = chunk.split_at_mut(PAIRS);
        put_pairs(pairs, row, quants, 0);
        put_bits(bits, row, quants, 2);
    }

    fn get(chunk: &[u8], row: usize) -> [u8; 32] {
        gather(|v| pairs(chunk, row, v) | bits(&chunk[PAIRS..], row, v) << 2)
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load(chunk: *const u8) -> [__m256i; 8] {
        // SAFETY: the caller's promise.
        unsafe {
            let mut q = Bits2::load(chunk);
            or_bits::<2>(&mut q, load32(chunk.add(PAIRS)));
            q
        }
    }
}

impl Quants for Bits4 {
    const BYTES: usize = NIBBLES;
    const RUN: usize = 8;

    fn put(chunk: &mut [u8], row: usize, quants: &[u8]) {
        put_nibbles(chunk, row, quants);
    }

    fn get(chunk: &[u8], row: usize) -> [u8; 32] {
        gather(|v| nibbles(chunk, row, v))
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load(chunk: *const u8) -> [__m256i; 8] {
        // SAFETY: the caller's promise.
        unsafe { load_nibbles(chunk) }
    }
}

impl Quants for Bits5 {
    const BYTES: usize = NIBBLES + BITS;
    const PLANES: usize = 2;
    const RUN: usize = 4;

    fn put(chunk: &mut [u8], row: usize, quants: &[u8]) {
        let (nibbles, bits) = chunk.split_at_mut(NIBBLES);
        put_nibbles(nibbles, row, quants);
        put_bits(bits, row, quants, 4);
    }

    fn get(chunk: &[u8], row: usize) -> [u8; 32] {
        gather(|v| nibbles(chunk, row, v) | bits(&chunk[NIBBLES..], row, v) << 4)
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load(chunk: *const u8) -> [__m256i; 8] {
        // SAFETY: the caller's promise.
        unsafe {
            let mut q = load_nibbles(chunk);
            or_bits::<4>(&mut q, load32(chunk.add(NIBBLES)));
            q
        }
    }
}

impl Quants for Bits6 {
    const BYTES: usize = NIBBLES + PAIRS;
    const PLANES: usize = 2;
    const RUN: usize = 2;

    fn put(chunk: &mut [u8], row: usize, quants: &[u8]) {
        let (nibbles, pairs) = chunk.split_at_mut(NIBBLES);
        put_nibbles(nibbles, row, quants);
        put_pairs(pairs, row, quants, 4);
    }

    fn get(chunk: &[u8], row: usize) -> [u8; 32] {
        gather(|v| nibbles(chunk, row, v) | pairs(&chunk[NIBBLES..], row, v) << 4)
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load(chunk: *const u8) -> [__m256i; 8] {
        // SAFETY: the caller's promise.
        unsafe {
            let mut q = load_nibbles(chunk);
            for h in 0..2 {
                let high = pairs_at::<4>(load32(chunk.add(NIBBLES + h * 32)));
                for i in 0..4 {
                    q[h * 4 + i] = _mm256_or_si256(q[h * 4 + i], high[i]);
                }
            }
            q
        }
    }
}

impl Quants for Int8 {
    const BYTES: usize = 256;
    const SIGNED: bool = true;
    const RUN: usize = 1;

    fn put(chunk: &mut [u8], row: usize, quants: &[u8]) {
        for (v, vector) in chunk.chunks_exact_mut(32).enumerate() {
            put_word(vector, row, word(quants, v));
        }
    }

    fn get(chunk: &[u8], row: usize) -> [u8; 32] {
        gather(|v| word(&chunk[v * 32..], row))
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
