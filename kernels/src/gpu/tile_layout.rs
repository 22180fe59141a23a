//! Where the integers and scales of a row lie within its tiles, as `cuda/tile_layout.cuh` and its neighbours read them.

use half::f16;

use super::tiles::{TILE_COLUMNS, TILE_ROWS};
use crate::GgmlType;
use crate::formats::block::{self, Block};
use crate::formats::read_floats;

/// Columns of a block within a tile, and of those that one thread has.
const BLOCK: usize = 32;
const LANE: usize = 8;

/// How the integers of a format are laid out; `cuda/tile.cuh` has the names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Integers {
    Nibbles,
    IndexedNibbles,
    NibblesBit,
    NibblesPair,
    Pairs,
    PairsBit,
    Bytes,
    Halves,
}

/// How its scales are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scales {
    None,
    Block,
    BlockMins,
    Super,
    SuperMins,
    Super16,
    SuperMins16,
}

/// A format's number and parts.
#[derive(Debug, Clone, Copy)]
pub(super) struct TileLayout {
    /// Number of the format in `cuda/tile.cuh`.
    pub kind: u32,
    integers: Integers,
    scales: Scales,
}

const NIBBLES: usize = 2048;
const PAIRS: usize = 1024;
const BITS: usize = 512;

impl TileLayout {
    /// The layout of this type's tiles.
    pub fn of(ggml_type: GgmlType) -> Self {
        let (kind, integers, scales) = match ggml_type {
            GgmlType::F32 | GgmlType::F16 | GgmlType::BF16 => (0, Integers::Halves, Scales::None),
            GgmlType::Q4_0 => (1, Integers::Nibbles, Scales::Block),
            GgmlType::Q4_1 => (2, Integers::Nibbles, Scales::BlockMins),
            GgmlType::Q5_0 => (3, Integers::NibblesBit, Scales::Block),
            GgmlType::Q5_1 => (4, Integers::NibblesBit, Scales::BlockMins),
            GgmlType::Q8_0 => (5, Integers::Bytes, Scales::Block),
            GgmlType::Q2_K => (6, Integers::Pairs, Scales::SuperMins16),
            GgmlType::Q3_K => (7, Integers::PairsBit, Scales::Super16),
            GgmlType::Q4_K => (8, Integers::Nibbles, Scales::SuperMins),
            GgmlType::Q5_K => (9, Integers::NibblesBit, Scales::SuperMins),
            GgmlType::Q6_K => (10, Integers::NibblesPair, Scales::Super16),
            GgmlType::IQ4_NL => (11, Integers::IndexedNibbles, Scales::Block),
            GgmlType::IQ4_XS => (12, Integers::IndexedNibbles, Scales::Super),
        };
        Self { kind, integers, scales }
    }

    /// Whether weights are the numbers themselves, without scales.
    pub fn is_float(self) -> bool {
        self.integers == Integers::Halves
    }

    fn integer_bytes(self) -> usize {
        match self.integers {
            Integers::Nibbles | Integers::IndexedNibbles => NIBBLES,
            Integers::NibblesBit => NIBBLES + BITS,
            Integers::NibblesPair => NIBBLES + PAIRS,
            Integers::Pairs => PAIRS,
            Integers::PairsBit => PAIRS + BITS,
            Integers::Bytes => 4096,
            Integers::Halves => 8192,
        }
    }

    /// Bytes of a tile.
    pub fn bytes(self) -> usize {
        let scales = match self.scales {
            Scales::None => 0,
            Scales::Block | Scales::SuperMins => 16,
            Scales::BlockMins => 32,
            Scales::Super => 10,
            Scales::Super16 => 18,
            Scales::SuperMins16 => 20,
        };
        self.integer_bytes() + TILE_ROWS * scales
    }

    /// Puts one row of GGUF bytes into its row of tiles, whose bytes were zero. Floats are multiplied by 2^`exponent`.
    pub fn put_row(self, ggml_type: GgmlType, raw: &[u8], row: usize, exponent: i32, tiles: &mut [u8]) {
        let columns = raw.len() / ggml_type.block_bytes() * ggml_type.block_len();
        for (unit, tile) in tiles.chunks_exact_mut(self.bytes()).enumerate() {
            let first = unit * TILE_COLUMNS;
            let len = (columns - first).min(TILE_COLUMNS);
            let bytes = |column: usize| column / ggml_type.block_len() * ggml_type.block_bytes();
            let raw = &raw[bytes(first)..bytes(first + len)];
            if self.is_float() {
                put_halves(ggml_type, raw, row, exponent, tile);
                continue;
            }
            let (integers, scales) = tile.split_at_mut(self.integer_bytes());
            let mut block = Block::default();
            for (index, raw) in raw.chunks_exact(ggml_type.block_bytes()).enumerate() {
                parse(ggml_type, raw, &mut block);
                self.put_scales(&block, row, index, scales);
                let blocks = block.quants[..ggml_type.block_len()].as_chunks::<BLOCK>().0;
                for (i, quants) in blocks.iter().enumerate() {
                    self.put_integers(quants, row, index * blocks.len() + i, integers);
                }
            }
        }
    }

    /// Puts the integers of a block of 32 columns, number `block` of the tile.
    fn put_integers(self, quants: &[u8; BLOCK], row: usize, block: usize, integers: &mut [u8]) {
        let (half, quarter, block) = (row / 8, block / 2, block % 2);
        for (t, quants) in quants.as_chunks::<LANE>().0.iter().enumerate() {
            let lane = row % 8 * 4 + t;
            let nibbles = quarter * 512 + lane * 16 + (block * 2 + half) * 4;
            let pairs = quarter * 256 + lane * 8 + block * 4;
            let bits = quarter * 128 + lane * 4;
            match self.integers {
                Integers::Nibbles => or_word(integers, nibbles, spread(*quants, 0, 15, 4)),
                Integers::IndexedNibbles => {
                    let word = quants.iter().rev().fold(0, |word, &quant| word << 4 | u32::from(quant));
                    or_word(integers, nibbles, word);
                }
                Integers::NibblesBit => {
                    or_word(integers, nibbles, spread(*quants, 0, 15, 4));
                    or_word(&mut integers[NIBBLES..], bits, spread(*quants, 4, 1, 1) << (8 * block + 4 * half));
                }
                Integers::NibblesPair => {
                    or_word(integers, nibbles, spread(*quants, 0, 15, 4));
                    or_word(&mut integers[NIBBLES..], pairs, spread(*quants, 4, 3, 2) << (8 * half));
                }
                Integers::Pairs => or_word(integers, pairs, spread(*quants, 0, 3, 2) << (8 * half)),
                Integers::PairsBit => {
                    or_word(integers, pairs, spread(*quants, 0, 3, 2) << (8 * half));
                    or_word(&mut integers[PAIRS..], bits, spread(*quants, 2, 1, 1) << (8 * block + 4 * half));
                }
                Integers::Bytes => {
                    let at = quarter * 1024 + block * 512 + lane * 16 + half * 8;
                    integers[at..at + LANE].copy_from_slice(&quants.map(|quant| quant ^ 128));
                }
                Integers::Halves => {}
            }
        }
    }

    /// Puts the scales of the GGUF block number `index` of the tile.
    fn put_scales(self, block: &Block, row: usize, index: usize, scales: &mut [u8]) {
        let half = |scales: &mut [u8], at: usize, value: f16| {
            scales[at..at + 2].copy_from_slice(&value.to_le_bytes());
        };
        match self.scales {
            Scales::None => {}
            Scales::Block => half(scales, row * 16 + index * 2, block.d),
            Scales::BlockMins => {
                half(scales, row * 32 + index * 4, block.d);
                half(scales, row * 32 + index * 4 + 2, block.m);
            }
            Scales::Super => {
                let factors = block.scales.iter().take(8);
                scales[row * 8..].iter_mut().zip(factors).for_each(|(to, &factor)| *to = factor.cast_unsigned());
                half(scales, TILE_ROWS * 8 + row * 2, block.d);
            }
            Scales::SuperMins => {
                let both = u32::from(block.d.to_bits()) | u32::from(block.m.to_bits()) << 16;
                for t in 0..4 {
                    let [first, second] = [2 * t, 2 * t + 1]
                        .map(|i| u32::from(block.scales[i].cast_unsigned()) | u32::from(block.mins[i]) << 6);
                    or_word(scales, row * 16 + t * 4, first | second << 12 | (both >> (8 * t) & 255) << 24);
                }
            }
            Scales::Super16 => {
                scales[row * 16..].iter_mut().zip(block.scales).for_each(|(to, factor)| *to = factor.cast_unsigned());
                half(scales, TILE_ROWS * 16 + row * 2, block.d);
            }
            Scales::SuperMins16 => {
                let both = block.scales.iter().zip(block.mins).map(|(scale, min)| scale.cast_unsigned() | min << 4);
                scales[row * 16..].iter_mut().zip(both).for_each(|(to, both)| *to = both);
                half(scales, TILE_ROWS * 16 + row * 4, block.d);
                half(scales, TILE_ROWS * 16 + row * 4 + 2, block.m);
            }
        }
    }
}

/// Bits from `at` on of eight integers: even columns from bit 0 on, `width` bits apart, odd ones from bit 16 on.
fn spread(quants: [u8; LANE], at: u32, mask: u32, width: usize) -> u32 {
    let place = |(i, &quant): (usize, &u8)| (u32::from(quant) >> at & mask) << (i / 2 * width + i % 2 * 16);
    quants.iter().enumerate().map(place).fold(0, |word, bits| word | bits)
}

fn or_word(bytes: &mut [u8], at: usize, word: u32) {
    for (byte, bits) in bytes[at..at + 4].iter_mut().zip(word.to_le_bytes()) {
        *byte |= bits;
    }
}

/// Puts one row's values of a tile, times a power of two, as f16.
fn put_halves(ggml_type: GgmlType, raw: &[u8], row: usize, exponent: i32, tile: &mut [u8]) {
    let mut values = [0.0; TILE_COLUMNS];
    read_floats(ggml_type, raw, &mut values);
    // In f64 no power of two is too large.
    let factor = f64::from(exponent).exp2();
    for (k, value) in values.into_iter().enumerate() {
        let (block, lane) = (k / BLOCK, row % 8 * 4 + k % BLOCK / LANE);
        let at = block * 1024 + row / 8 * 512 + lane * 16 + k % LANE * 2;
        let value = f16::from_f64(f64::from(value) * factor);
        tile[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }
}

fn parse(ggml_type: GgmlType, raw: &[u8], to: &mut Block) {
    match ggml_type {
        GgmlType::F32 | GgmlType::F16 | GgmlType::BF16 => {}
        GgmlType::Q4_0 => block::parse_q4_0(raw, to),
        GgmlType::Q4_1 => block::parse_q4_1(raw, to),
        GgmlType::Q5_0 => block::parse_q5_0(raw, to),
        GgmlType::Q5_1 => block::parse_q5_1(raw, to),
        GgmlType::Q8_0 => block::parse_q8_0(raw, to),
        GgmlType::Q2_K => block::parse_q2_k(raw, to),
        GgmlType::Q3_K => block::parse_q3_k(raw, to),
        GgmlType::Q4_K => block::parse_q4_k(raw, to),
        GgmlType::Q5_K => block::parse_q5_k(raw, to),
        GgmlType::Q6_K => block::parse_q6_k(raw, to),
        GgmlType::IQ4_NL => block::parse_iq4_nl(raw, to),
        GgmlType::IQ4_XS => block::parse_iq4_xs(raw, to),
    }
}
