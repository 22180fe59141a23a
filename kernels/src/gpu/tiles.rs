//! Weights packed for the card: tiles of 16 rows by 256 columns, as `cuda/tile_layout.cuh` documents. Rows and
//! columns that a matrix lacks are zeros.

use std::sync::atomic::{AtomicU32, Ordering};

use candle_core::Tensor;

use super::tile_layout::TileLayout;
use super::{Address, Gpu};
use crate::formats::read_floats;
use crate::shared::Shared;
use crate::{Compute, GgmlType, Result};

/// Rows of a tile.
pub(crate) const TILE_ROWS: usize = 16;
/// Columns of a tile.
pub(crate) const TILE_COLUMNS: usize = 256;
/// Weights are dequantised so many times too large.
const WEIGHT_SCALE: f32 = 256.0;

/// Rows of one type on the card.
#[derive(Debug)]
pub(crate) struct TilePart {
    pub rows: usize,
    /// [`TileLayout::kind`].
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
        let layout = TileLayout::of(ggml_type);
        let (exponent, factor) = if layout.is_float() {
            let exponent = exponent(compute, ggml_type, raw_rows);
            (exponent, (-exponent as f32).exp2())
        } else {
            (0, WEIGHT_SCALE.recip())
        };
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
    rows.div_ceil(TILE_ROWS) * columns.div_ceil(TILE_COLUMNS) * TileLayout::of(ggml_type).bytes()
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
