//! Weights packed for the card: tiles of 16 rows by 256 columns, as `cuda/tile.cuh` documents and reads them. Rows and
//! columns that a matrix lacks are zeros.

use std::sync::atomic::{AtomicU32, Ordering};

use candle_core::Tensor;
use half::f16;

use super::{Address, Gpu};
use crate::formats::block::{self, Block};
use crate::formats::read_floats;
use crate::shared::Shared;
use crate::{Compute, GgmlType, Result};

/// Rows of a tile.
pub(crate) const TILE_ROWS: usize = 16;
/// Columns of a tile.
pub(crate) const TILE_COLUMNS: usize = 256;
/// Weights are dequantised so many times too large.
const WEIGHT_SCALE: f32 = 256.0;
/// Columns of a block within a tile, and of those that one thread has.
const BLOCK: usize = 32;
const LANE: usize = 8;

/// Rows of one type on the card.
#[derive(Debug)]
pub(crate) struct TilePart {
    pub rows: usize,
    /// Number of the format in `cuda/tile.cuh`.
    pub kind: u32,
    /// What products are multiplied by.
    pub factor: f32,
    tiles: Tensor,
    pub address: Address,
}

impl TilePart {
    /// Packs the rows of a checked matrix and copies them to the card.
    pub fn pack(
        compute: &Compute,
        gpu: &Gpu,
        ggml_type: GgmlType,
        columns: usize,
        raw_rows: RawRows<'_>,
    ) -> Result<Self> {
        let layout = Layout::of(ggml_type);
        let exponent = if layout.integers == Integers::Halves { exponent(compute, ggml_type, raw_rows) } else { 0 };
        let factor = if layout.integers == Integers::Halves { (-exponent as f32).exp2() } else { WEIGHT_SCALE.recip() };
        let stride = columns.div_ceil(TILE_COLUMNS) * layout.bytes();
        let row_tiles = raw_rows.rows.div_ceil(TILE_ROWS);
        let mut packed = vec![0; row_tiles * stride];
        let shared = Shared::new(&mut packed);
        compute.parallel_for(row_tiles, |tile| {
            // SAFETY: every row of tiles is taken once, and they do not overlap.
            let tiles = unsafe { shared.slice(tile * stride, stride) };
            for row in tile * TILE_ROWS..((tile + 1) * TILE_ROWS).min(raw_rows.rows) {
                layout.put_row(ggml_type, raw_rows.row(row), row % TILE_ROWS, exponent, tiles);
            }
        });
        let len = packed.len();
        let tiles = Tensor::from_vec(packed, len, gpu.device())?;
        let address = gpu.address(&tiles)?;
        Ok(Self { rows: raw_rows.rows, kind: layout.kind, factor, tiles, address })
    }

    /// Bytes on the card.
    pub fn bytes(&self) -> usize {
        self.tiles.elem_count()
    }
}

/// Bytes of a matrix on the card.
pub(crate) fn tile_bytes(ggml_type: GgmlType, rows: usize, columns: usize) -> usize {
    rows.div_ceil(TILE_ROWS) * columns.div_ceil(TILE_COLUMNS) * Layout::of(ggml_type).bytes()
}

/// GGUF bytes of a matrix.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawRows<'a> {
    pub bytes: &'a [u8],
    pub rows: usize,
}

impl<'a> RawRows<'a> {
    fn row(&self, row: usize) -> &'a [u8] {
        let len = self.bytes.len() / self.rows;
        &self.bytes[row * len..][..len]
    }
}

/// The power of two that brings the largest magnitude of a float matrix just below 2^15, 0 of a matrix of zeros.
fn exponent(compute: &Compute, ggml_type: GgmlType, raw_rows: RawRows<'_>) -> i32 {
    // Magnitudes are ordered as their bits are. What is not finite is left for the product to show.
    let largest = AtomicU32::new(0);
    compute.parallel_for(raw_rows.rows, |row| {
        let bytes = raw_rows.row(row);
        let mut values = vec![0.0; bytes.len() / ggml_type.block_bytes()];
        read_floats(ggml_type, bytes, &mut values);
        let max = values.iter().filter(|value| value.is_finite()).fold(0f32, |max, value| max.max(value.abs()));
        largest.fetch_max(max.to_bits(), Ordering::Relaxed);
    });
    let largest = f32::from_bits(largest.into_inner());
    if largest == 0.0 { 0 } else { (14 - largest.log2().floor() as i32).clamp(-120, 100) }
}

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
struct Layout {
    kind: u32,
    integers: Integers,
    scales: Scales,
}

const NIBBLES: usize = 2048;
const PAIRS: usize = 1024;
const BITS: usize = 512;

impl Layout {
    fn of(ggml_type: GgmlType) -> Self {
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
    fn bytes(self) -> usize {
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

    /// Puts one row of GGUF bytes into its row of tiles, whose bytes were zero.
    fn put_row(self, ggml_type: GgmlType, raw: &[u8], row: usize, exponent: i32, tiles: &mut [u8]) {
        let columns = raw.len() / ggml_type.block_bytes() * ggml_type.block_len();
        for (unit, tile) in tiles.chunks_exact_mut(self.bytes()).enumerate() {
            let first = unit * TILE_COLUMNS;
            let len = (columns - first).min(TILE_COLUMNS);
            let bytes = |column: usize| column / ggml_type.block_len() * ggml_type.block_bytes();
            let raw = &raw[bytes(first)..bytes(first + len)];
            if self.integers == Integers::Halves {
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
