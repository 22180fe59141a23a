//! A packed matrix as the product kernels take it, what becomes of its outputs, and which kernel multiplies what.

use super::launch::{Address, Argument};
use super::tiles::{TILE_COLUMNS, TILE_ROWS, TilePart};
use crate::{Error, PackedMatrix, Result};

/// Parts of a matrix at most; `MAX_PARTS` in `cuda/matrix.cuh`.
pub(super) const MAX_PARTS: usize = 4;

/// `Part` of `cuda/matrix.cuh`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Part {
    tiles: u64,
    kind: u32,
    rows: u32,
    first_output: u32,
    factor: f32,
}

/// `Matrix` of `cuda/matrix.cuh`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Matrix {
    parts: [Part; MAX_PARTS],
    num_parts: u32,
    units: u32,
}

// SAFETY: as declared there; 104 bytes without padding.
unsafe impl Argument for Matrix {}

impl Matrix {
    /// A matrix on the card.
    ///
    /// # Errors
    /// When it has too many parts.
    pub fn new(weight: &PackedMatrix) -> Result<Self> {
        let given = weight.tile_parts();
        if given.is_empty() || given.len() > MAX_PARTS {
            let message = format!("a matrix of {} parts on the card, which takes 1 to {MAX_PARTS}", given.len());
            return Err(Error::shape("linear", message));
        }
        let mut parts = [Part::default(); MAX_PARTS];
        let mut first_output = 0;
        for (to, part) in parts.iter_mut().zip(given) {
            let TilePart { rows, kind, factor, address, .. } = **part;
            *to = Part { tiles: address.0, kind, rows: rows as u32, first_output, factor };
            first_output += rows as u32;
        }
        let units = weight.columns().div_ceil(TILE_COLUMNS) as u32;
        Ok(Self { parts, num_parts: given.len() as u32, units })
    }

    /// Parts that are stacked.
    pub fn num_parts(&self) -> usize {
        self.num_parts as usize
    }

    /// Columns, padded.
    pub fn columns(&self) -> usize {
        self.units as usize * TILE_COLUMNS
    }

    /// Rows of tiles of every part.
    pub fn row_tiles(&self) -> impl Iterator<Item = usize> {
        self.parts[..self.num_parts as usize].iter().map(|part| (part.rows as usize).div_ceil(TILE_ROWS))
    }

    /// Whether it is gate's rows, then as many of up, of one type: what one kernel multiplies and gates.
    pub fn is_gate_of_one_type(&self) -> bool {
        let [gate, up, ..] = self.parts;
        self.num_parts == 2 && gate.kind == up.kind && gate.rows == up.rows
    }
}

/// Formats that one kernel multiplies, and its names for 8, 16, 64 and 128 tokens; `FOR_EACH_FORMAT_SET` of
/// `cuda/tile.cuh`.
pub(super) struct FormatSet {
    kinds: &'static [u32],
    pub few_8: &'static str,
    pub few_16: &'static str,
    pub many_64: &'static str,
    pub many_128: &'static str,
}

macro_rules! format_sets {
    ($($name:literal: $kinds:expr),* $(,)?) => {
        [$(FormatSet {
            kinds: &$kinds,
            few_8: concat!("linear_few_8_", $name),
            few_16: concat!("linear_few_16_", $name),
            many_64: concat!("linear_many_64_", $name),
            many_128: concat!("linear_many_128_", $name),
        }),*]
    };
}

const FORMAT_SETS: [FormatSet; 12] = format_sets! {
    "q4_k_q6_k": [8, 10],
    "q5_k_q6_k": [9, 10],
    "q2_k": [6],
    "q3_k": [7],
    "q8_0": [5],
    "q4_0": [1],
    "q4_1": [2],
    "q5_0": [3],
    "q5_1": [4],
    "iq4_nl": [11],
    "iq4_xs": [12],
    "f16": [0],
};

/// The kind of a part that another launch computes.
const SKIPPED: u32 = u32::MAX;

impl Matrix {
    /// Takes parts out that one kernel computes together, as many as there is a kernel for; `None` when none is left.
    pub fn take_set(&mut self) -> Option<(&'static FormatSet, Self)> {
        let kinds =
            || self.parts[..self.num_parts as usize].iter().map(|part| part.kind).filter(|&kind| kind != SKIPPED);
        let first = kinds().next()?;
        let covered = |set: &&FormatSet| kinds().filter(|kind| set.kinds.contains(kind)).count();
        let set = FORMAT_SETS.iter().filter(|set| set.kinds.contains(&first)).max_by_key(covered)?;
        let mut taken = *self;
        for (left, taken) in self.parts.iter_mut().zip(&mut taken.parts) {
            let other = if set.kinds.contains(&left.kind) { left } else { taken };
            other.kind = SKIPPED;
        }
        Some((set, taken))
    }
}

/// What becomes of outputs; `OutputKind` of `cuda/matrix.cuh`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OutputKind {
    /// They overwrite f32 rows.
    Store,
    /// They are added to f32 rows.
    Add,
    /// `silu(first half) * second half` becomes an operand.
    Gate,
}

/// `Output` of `cuda/matrix.cuh`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Output {
    pub values: Address,
    pub kind: u32,
    pub width: u32,
    pub num_tokens: u32,
    pub factor: f32,
}

// SAFETY: as declared there; 24 bytes without padding.
unsafe impl Argument for Output {}
