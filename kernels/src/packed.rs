//! Weight matrices in the layout that the kernels read: made once at load from GGUF blocks or safetensors values.
//!
//! Quantised types are interleaved in groups of 8 rows (see `formats`); float types keep their rows as they are.

use std::sync::Arc;

use memmap2::Mmap;

use crate::formats::{CHUNK, Codec, GROUP, read_floats};
use crate::gpu::{RawRows, TilePart, tile_bytes};
use crate::lines::Line;
use crate::memory::Memory;
use crate::shared::Shared;
use crate::{Compute, Error, GgmlType, Result};

/// A weight matrix of shape `(rows, columns)`, `rows` being outputs, ready for [`Compute::linear`] and
/// [`Compute::embed`]. Several matrices with the same columns can be stacked into one (q/k/v, gate/up); the parts may
/// be of different types. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PackedMatrix {
    rows: usize,
    columns: usize,
    parts: Parts,
    precise: bool,
}

/// Rows of several types, where they are multiplied.
#[derive(Debug, Clone)]
enum Parts {
    /// In this machine's memory.
    Host(Vec<Arc<Part>>),
    /// On a card.
    Card(Vec<Arc<TilePart>>),
}

/// Rows of one type.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) ggml_type: GgmlType,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    /// `None` for the float types.
    codec: Option<Codec>,
    /// Bytes from one unit to the next: a group of 8 rows, or one row of a float type.
    stride: usize,
    memory: Memory,
}

impl PackedMatrix {
    /// Packs `bytes`, `rows` rows of `columns` elements in ggml's block layout of `ggml_type` (for F32, F16 and BF16:
    /// little-endian values).
    ///
    /// # Errors
    /// When `bytes` is not exactly `rows * columns / block_len * block_bytes` long, or `columns` is no multiple of the
    /// block length.
    pub fn pack(compute: &Compute, ggml_type: GgmlType, rows: usize, columns: usize, bytes: &[u8]) -> Result<Self> {
        check_bytes(ggml_type, rows, columns, bytes)?;
        let parts = if let Some(gpu) = compute.gpu() {
            let part = TilePart::pack(compute, gpu, ggml_type, columns, RawRows { bytes, rows })?;
            Parts::Card(vec![Arc::new(part)])
        } else {
            Parts::Host(vec![Arc::new(Part::pack(compute, ggml_type, rows, columns, bytes)?)])
        };
        Ok(Self { rows, columns, parts, precise: false })
    }

    /// A matrix that was packed before, on a machine and by a program that pack the same: what [`PackedMatrix::packed`]
    /// gave is in `map` from `start` on, a multiple of 64.
    ///
    /// # Errors
    /// When `columns` is no multiple of the block length, or the matrix does not lie in the map.
    pub fn mapped(ggml_type: GgmlType, rows: usize, columns: usize, map: &Arc<Mmap>, start: usize) -> Result<Self> {
        let part = Part::mapped(ggml_type, rows, columns, map, start)?;
        Ok(Self { rows, columns, parts: Parts::Host(vec![Arc::new(part)]), precise: false })
    }

    /// The packed bytes, part by part, for [`PackedMatrix::mapped`]; nothing of a matrix on a card.
    pub fn packed(&self) -> impl Iterator<Item = &[u8]> {
        self.parts().iter().map(|part| &*part.memory)
    }

    /// Stacks matrices of equal `columns` on top of each other: outputs follow each other in this order.
    ///
    /// # Errors
    /// When there are no parts, or their columns differ.
    pub fn stack(parts: Vec<Self>) -> Result<Self> {
        let Some(columns) = parts.first().map(Self::columns) else {
            return Err(Error::shape("stack", "no matrices to stack"));
        };
        if let Some(other) = parts.iter().find(|part| part.columns != columns) {
            return Err(Error::shape("stack", format!("a part has {} columns, the first {columns}", other.columns)));
        }
        let rows = parts.iter().map(Self::rows).sum();
        let parts = parts.into_iter().map(|matrix| matrix.parts).reduce(Parts::followed_by);
        Ok(Self { rows, columns, parts: parts.unwrap_or(Parts::Host(Vec::new())), precise: false })
    }

    /// The same matrix, whose products take activations as two int8 terms, the second one being what the first one's
    /// rounding left: about 15 bits for twice the arithmetic. For matrices whose outputs decide more than others.
    #[must_use]
    pub fn with_precise_activations(self) -> Self {
        Self { precise: true, ..self }
    }

    pub(crate) fn is_precise(&self) -> bool {
        self.precise
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Bytes that the packed form takes, in this machine's memory or on the card.
    pub fn bytes(&self) -> usize {
        match &self.parts {
            Parts::Host(parts) => parts.iter().map(|part| part.memory.len()).sum(),
            Parts::Card(parts) => parts.iter().map(|part| part.bytes()).sum(),
        }
    }

    /// Bytes that a matrix of this type and shape takes once it is packed.
    pub fn packed_bytes(ggml_type: GgmlType, rows: usize, columns: usize) -> usize {
        let (unit_rows, stride) = unit(Codec::new(ggml_type).as_ref(), ggml_type, columns);
        (rows.div_ceil(unit_rows) * stride).next_multiple_of(size_of::<Line>())
    }

    /// Checks that it lies where the handle's operations run.
    ///
    /// # Errors
    /// When it was packed by a handle of another device.
    pub(crate) fn check_place(&self, op: &'static str, compute: &Compute) -> Result<()> {
        if matches!(self.parts, Parts::Card(_)) == compute.gpu().is_some() {
            return Ok(());
        }
        Err(Error::shape(op, "the matrix was packed for another device"))
    }

    /// The same on a card.
    pub fn card_bytes(ggml_type: GgmlType, rows: usize, columns: usize) -> usize {
        tile_bytes(ggml_type, rows, columns)
    }

    /// The parts in this machine's memory.
    pub(crate) fn parts(&self) -> &[Arc<Part>] {
        match &self.parts {
            Parts::Host(parts) => parts,
            Parts::Card(_) => &[],
        }
    }

    /// The parts on a card.
    pub(crate) fn tile_parts(&self) -> &[Arc<TilePart>] {
        match &self.parts {
            Parts::Host(_) => &[],
            Parts::Card(parts) => parts,
        }
    }
}

impl Parts {
    /// Both, which one handle has packed.
    fn followed_by(self, other: Self) -> Self {
        match (self, other) {
            (Self::Host(parts), Self::Host(others)) => Self::Host([parts, others].concat()),
            (Self::Card(parts), Self::Card(others)) => Self::Card([parts, others].concat()),
            _ => unreachable!("one handle packs all matrices of a model"),
        }
    }
}

impl Part {
    fn pack(compute: &Compute, ggml_type: GgmlType, rows: usize, columns: usize, bytes: &[u8]) -> Result<Self> {
        let row_bytes = bytes.len() / rows;
        let codec = Codec::new(ggml_type);
        let (unit_rows, stride) = unit(codec.as_ref(), ggml_type, columns);
        let units = rows.div_ceil(unit_rows);
        let memory = fill_units(compute, units, stride, |unit, packed| {
            let raw = &bytes[unit * unit_rows * row_bytes..((unit + 1) * unit_rows * row_bytes).min(bytes.len())];
            match &codec {
                Some(codec) => (codec.pack_group)(raw, columns, packed),
                None => packed.copy_from_slice(raw),
            }
        })?;
        Ok(Self { ggml_type, rows, columns, codec, stride, memory })
    }

    fn mapped(ggml_type: GgmlType, rows: usize, columns: usize, map: &Arc<Mmap>, start: usize) -> Result<Self> {
        check_columns(ggml_type, rows, columns)?;
        let codec = Codec::new(ggml_type);
        let (_, stride) = unit(codec.as_ref(), ggml_type, columns);
        let memory = Memory::part(map, start, PackedMatrix::packed_bytes(ggml_type, rows, columns));
        let memory = memory.ok_or_else(|| Error::shape("mapped", format!("byte {start} of {}", map.len())))?;
        Ok(Self { ggml_type, rows, columns, codec, stride, memory })
    }

    /// Whether the values are floats, not quantised.
    pub(crate) fn is_float(&self) -> bool {
        self.codec.is_none()
    }

    /// The packed bytes of unit `index`: a group of 8 rows, or one row of a float type.
    pub(crate) fn unit(&self, index: usize) -> &[u8] {
        &self.memory[index * self.stride..][..self.stride]
    }

    /// Writes columns `start..start + out.len()` of a row as f32. For quantised types both ends are multiples of 32.
    pub(crate) fn dequantise(&self, row: usize, start: usize, out: &mut [f32]) {
        if let Some(codec) = &self.codec {
            let group = self.unit(row / GROUP);
            for (index, out) in out.chunks_mut(CHUNK).enumerate() {
                (codec.dequantise)(group, row % GROUP, start / CHUNK + index, out);
            }
            return;
        }
        read_floats(self.ggml_type, &self.unit(row)[start * self.ggml_type.block_bytes()..], out);
    }
}

fn check_bytes(ggml_type: GgmlType, rows: usize, columns: usize, bytes: &[u8]) -> Result<()> {
    check_columns(ggml_type, rows, columns)?;
    let row_bytes = (columns / ggml_type.block_len()).checked_mul(ggml_type.block_bytes());
    if row_bytes.and_then(|row_bytes| row_bytes.checked_mul(rows)) == Some(bytes.len()) {
        return Ok(());
    }
    let message = format!("{} bytes for ({rows}, {columns}) of {}", bytes.len(), ggml_type.name());
    Err(Error::shape("pack", message))
}

fn check_columns(ggml_type: GgmlType, rows: usize, columns: usize) -> Result<()> {
    if rows > 0 && columns > 0 && columns.is_multiple_of(ggml_type.block_len()) {
        return Ok(());
    }
    let (name, len) = (ggml_type.name(), ggml_type.block_len());
    let message = format!("{rows} rows of {columns} columns; {name} takes positive multiples of {len} columns");
    Err(Error::shape("pack", message))
}

/// Rows and packed bytes of one unit: a group of 8 rows, or one row of a float type.
fn unit(codec: Option<&Codec>, ggml_type: GgmlType, columns: usize) -> (usize, usize) {
    let blocks = columns / ggml_type.block_len();
    codec.map_or((1, blocks * ggml_type.block_bytes()), |codec| (GROUP, blocks * codec.block_bytes))
}

/// Memory for `units` units of `stride` bytes, each of them zeros that `fill` changes on the pool.
fn fill_units(
    compute: &Compute,
    units: usize,
    stride: usize,
    fill: impl Fn(usize, &mut [u8]) + Sync,
) -> Result<Memory> {
    const UNITS_PER_TASK: usize = 8;
    let len = (units * stride).next_multiple_of(size_of::<Line>());
    let memory = Memory::filled(len, |bytes| {
        let shared = Shared::new(bytes);
        compute.parallel_for(units.div_ceil(UNITS_PER_TASK), |task| {
            for unit in task * UNITS_PER_TASK..units.min((task + 1) * UNITS_PER_TASK) {
                // SAFETY: every unit is taken once, and units do not overlap.
                fill(unit, unsafe { shared.slice(unit * stride, stride) });
            }
        });
    });
    memory.map_err(Error::Memory)
}
