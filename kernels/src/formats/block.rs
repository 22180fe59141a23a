//! The quantised blocks of GGUF tensors, taken apart into plain numbers. Source: the block definitions of the GGUF
//! specification (ggml). Knows nothing of the packed layout.

use half::f16;

/// The values that the four bits of IQ4_NL and IQ4_XS stand for.
pub const IQ4_VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// One block of any quantised type. A weight is `d * scale * quant - min` of its sub-block, as each type documents.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    /// Scale of the whole block.
    pub(crate) d: f16,
    /// Q4_1 and Q5_1: the minimum, added. K-types: the scale of `mins`, subtracted.
    pub(crate) m: f16,
    /// K-types and IQ4_XS: integer scales of the sub-blocks (16 of 16 weights, or 8 of 32).
    pub(crate) scales: [i8; 16],
    /// Q2_K, Q4_K, Q5_K: integer minima of the sub-blocks.
    pub(crate) mins: [u8; 16],
    /// The weights' integers before any offset is taken away (two's complement for Q8_0, places in [`IQ4_VALUES`] for
    /// IQ4_NL and IQ4_XS); 32 or 256 of them.
    pub(crate) quants: [u8; 256],
}

impl Default for Block {
    fn default() -> Self {
        Self { d: f16::ZERO, m: f16::ZERO, scales: [0; 16], mins: [0; 16], quants: [0; 256] }
    }
}

fn half(bytes: &[u8], at: usize) -> f16 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// The low nibbles of 16 bytes are elements 0..16, the high nibbles elements 16..32.
fn nibbles32(packed: &[u8], quants: &mut [u8]) {
    for (l, &byte) in packed.iter().enumerate() {
        quants[l] = byte & 15;
        quants[l + 16] = byte >> 4;
    }
}

/// Bit `l` of four little-endian bytes is the fifth bit of element `l`.
fn fifth_bits32(bits: &[u8], quants: &mut [u8]) {
    for (l, quant) in quants.iter_mut().enumerate() {
        *quant |= (bits[l / 8] >> (l % 8) & 1) << 4;
    }
}

/// Q4_0, 18 bytes: d, 16 bytes of nibbles; `d * (q - 8)`.
pub(crate) fn parse_q4_0(raw: &[u8], block: &mut Block) {
    block.d = half(raw, 0);
    nibbles32(&raw[2..18], &mut block.quants[..32]);
}

/// Q4_1, 20 bytes: d, m, 16 bytes of nibbles; `d * q + m`.
pub(crate) fn parse_q4_1(raw: &[u8], block: &mut Block) {
    (block.d, block.m) = (half(raw, 0), half(raw, 2));
    nibbles32(&raw[4..20], &mut block.quants[..32]);
}

/// Q5_0, 22 bytes: d, 4 bytes of fifth bits, 16 bytes of nibbles; `d * (q - 16)`.
pub(crate) fn parse_q5_0(raw: &[u8], block: &mut Block) {
    block.d = half(raw, 0);
    nibbles32(&raw[6..22], &mut block.quants[..32]);
    fifth_bits32(&raw[2..6], &mut block.quants[..32]);
}

/// Q5_1, 24 bytes: d, m, 4 bytes of fifth bits, 16 bytes of nibbles; `d * q + m`.
pub(crate) fn parse_q5_1(raw: &[u8], block: &mut Block) {
    (block.d, block.m) = (half(raw, 0), half(raw, 2));
    nibbles32(&raw[8..24], &mut block.quants[..32]);
    fifth_bits32(&raw[4..8], &mut block.quants[..32]);
}

/// Q8_0, 34 bytes: d, 32 signed bytes; `d * q`.
pub(crate) fn parse_q8_0(raw: &[u8], block: &mut Block) {
    block.d = half(raw, 0);
    block.quants[..32].copy_from_slice(&raw[2..34]);
}

/// The two low bits of Q2_K and Q3_K: byte `32n + l` holds elements `128n + 32j + l` at bits `2j`.
fn low_pairs(packed: &[u8], quants: &mut [u8; 256]) {
    for (packed, quants) in packed.chunks_exact(32).zip(quants.chunks_exact_mut(128)) {
        for (j, quants) in quants.chunks_exact_mut(32).enumerate() {
            for (quant, byte) in quants.iter_mut().zip(packed) {
                *quant = byte >> (2 * j) & 3;
            }
        }
    }
}

/// Q2_K, 84 bytes: 16 bytes (scale, min << 4), 64 bytes of pairs, d, dmin; `d * scale * q - dmin * min` per 16.
pub(crate) fn parse_q2_k(raw: &[u8], block: &mut Block) {
    (block.d, block.m) = (half(raw, 80), half(raw, 82));
    for (s, &byte) in raw[..16].iter().enumerate() {
        block.scales[s] = (byte & 15) as i8;
        block.mins[s] = byte >> 4;
    }
    low_pairs(&raw[16..80], &mut block.quants);
}

/// Bit `k / 32` of byte `k % 32` becomes bit `to` of element `k`.
fn or_bits(bits: &[u8], to: usize, quants: &mut [u8; 256]) {
    for (j, quants) in quants.chunks_exact_mut(32).enumerate() {
        for (quant, byte) in quants.iter_mut().zip(bits) {
            *quant |= (byte >> j & 1) << to;
        }
    }
}

/// Q3_K, 110 bytes: 32 bytes of third bits, 64 bytes of pairs, 12 bytes of 6-bit scales, d;
/// `d * (scale - 32) * (q - 4)` per 16. Scale `s` has its low nibble in byte `s % 8` (low half for `s < 8`) and its two
/// high bits in byte `8 + s % 4` at bits `2 (s / 4)`.
pub(crate) fn parse_q3_k(raw: &[u8], block: &mut Block) {
    block.d = half(raw, 108);
    let packed = &raw[96..108];
    for s in 0..16 {
        let low = packed[s % 8] >> (s / 8 * 4) & 15;
        let high = packed[8 + s % 4] >> (s / 4 * 2) & 3;
        block.scales[s] = (low | high << 4) as i8 - 32;
    }
    low_pairs(&raw[32..96], &mut block.quants);
    or_bits(&raw[..32], 2, &mut block.quants);
}

/// The 6-bit scales and minima of Q4_K and Q5_K. Sub-blocks 0..4 have theirs in the low six bits of bytes `s` and
/// `s + 4`; sub-blocks 4..8 have low nibbles in the halves of byte `s + 4` and high bits on top of bytes `s - 4`, `s`.
fn scales_and_mins(packed: &[u8], block: &mut Block) {
    for s in 0..4 {
        block.scales[s] = (packed[s] & 63) as i8;
        block.mins[s] = packed[s + 4] & 63;
        block.scales[s + 4] = (packed[s + 8] & 15 | packed[s] >> 6 << 4) as i8;
        block.mins[s + 4] = packed[s + 8] >> 4 | packed[s + 4] >> 6 << 4;
    }
}

/// The nibbles of Q4_K and Q5_K: byte `32n + l` holds elements `64n + l` (low) and `64n + 32 + l` (high).
fn nibbles256(packed: &[u8], quants: &mut [u8; 256]) {
    for (packed, quants) in packed.chunks_exact(32).zip(quants.chunks_exact_mut(64)) {
        let (low, high) = quants.split_at_mut(32);
        for ((low, high), byte) in low.iter_mut().zip(high).zip(packed) {
            (*low, *high) = (byte & 15, byte >> 4);
        }
    }
}

/// Q4_K, 144 bytes: d, dmin, 12 bytes of scales and minima, 128 bytes of nibbles; `d * scale * q - dmin * min` per 32.
pub(crate) fn parse_q4_k(raw: &[u8], block: &mut Block) {
    (block.d, block.m) = (half(raw, 0), half(raw, 2));
    scales_and_mins(&raw[4..16], block);
    nibbles256(&raw[16..144], &mut block.quants);
}

/// Q5_K, 176 bytes: as Q4_K with 32 bytes of fifth bits before the nibbles; bit `k / 32` of byte `k % 32`.
pub(crate) fn parse_q5_k(raw: &[u8], block: &mut Block) {
    (block.d, block.m) = (half(raw, 0), half(raw, 2));
    scales_and_mins(&raw[4..16], block);
    nibbles256(&raw[48..176], &mut block.quants);
    or_bits(&raw[16..48], 4, &mut block.quants);
}

/// Q6_K, 210 bytes: 128 bytes of low nibbles, 64 bytes of high pairs, 16 signed scales, d; `d * scale * (q - 32)` per
/// 16. In each half of 128: nibble byte `l` (of 64) holds elements `l` and `64 + l`, pair byte `l` (of 32) the high bits
/// of elements `l`, `32 + l`, `64 + l`, `96 + l`.
pub(crate) fn parse_q6_k(raw: &[u8], block: &mut Block) {
    block.d = half(raw, 208);
    for (scale, &byte) in block.scales.iter_mut().zip(&raw[192..208]) {
        *scale = byte as i8;
    }
    for (j, quants) in block.quants.chunks_exact_mut(32).enumerate() {
        let (n, j) = (j / 4, j % 4);
        let (low, high) = (&raw[n * 64 + j % 2 * 32..][..32], &raw[128 + n * 32..][..32]);
        for ((quant, low), high) in quants.iter_mut().zip(low).zip(high) {
            *quant = low >> (j / 2 * 4) & 15 | (high >> (j * 2) & 3) << 4;
        }
    }
}

/// IQ4_NL, 18 bytes: d, 16 bytes of nibbles; `d * IQ4_VALUES[q]`.
pub(crate) fn parse_iq4_nl(raw: &[u8], block: &mut Block) {
    parse_q4_0(raw, block);
}

/// IQ4_XS, 136 bytes: d, 8 high pairs of scales in 2 bytes, 8 low nibbles of scales in 4 bytes, 8 times 16 bytes of
/// nibbles; `d * (scale - 32) * IQ4_VALUES[q]` per 32.
pub(crate) fn parse_iq4_xs(raw: &[u8], block: &mut Block) {
    block.d = half(raw, 0);
    let high = u16::from_le_bytes([raw[2], raw[3]]);
    for s in 0..8 {
        let low = raw[4 + s / 2] >> (s % 2 * 4) & 15;
        block.scales[s] = (low | ((high >> (s * 2) & 3) << 4) as u8) as i8 - 32;
    }
    for (packed, quants) in raw[8..136].chunks_exact(16).zip(block.quants.chunks_exact_mut(32)) {
        nibbles32(packed, quants);
    }
}
