//! The residual stream as an operand of products, made by those that add to it; see `cuda/norm.cuh`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::{DType, Tensor};

use super::launch::Argument;
use super::tiles::TILE_COLUMNS;
use super::{Address, CardInfo, Gpu};
use crate::{Error, Norm, Result, rows};

/// Columns whose squares are added up by who computes them.
const SQUARE_COLUMNS: usize = 16;

const OP: &str = "norm";

/// What lies beside the residual stream on a card.
#[derive(Debug, Clone)]
pub(crate) struct NormedRows {
    columns: usize,
    operand: Tensor,
    /// f32 `(max_tokens, columns / SQUARE_COLUMNS)`, rounded up.
    squares: Tensor,
    /// f32 `(max_tokens, 1)`.
    scales: Tensor,
    /// f32 `(max_tokens, 1)`.
    roots: Tensor,
    /// The weight of the norm that the operand is of.
    weight: Arc<AtomicU64>,
}

/// `Normed` of `cuda/norm.cuh`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Normed {
    pub operand: Address,
    squares: Address,
    scales: Address,
    roots: Address,
    weight: Address,
    columns: u32,
    padded: u32,
    eps: f32,
    unused: u32,
}

// SAFETY: as declared there; 56 bytes without padding.
unsafe impl Argument for Normed {}

impl Normed {
    /// No norm.
    pub const NONE: Self = Self {
        operand: Address::NULL,
        squares: Address::NULL,
        scales: Address::NULL,
        roots: Address::NULL,
        weight: Address::NULL,
        columns: 0,
        padded: 0,
        eps: 0.0,
        unused: 0,
    };

    /// Without the tokens before this one, whole fragments.
    pub fn without_first(self, token: usize) -> Self {
        if self.operand == Address::NULL {
            return self;
        }
        let word = size_of::<f32>();
        Self {
            operand: self.operand.offset(token * self.padded as usize * size_of::<u16>()),
            squares: self.squares.offset(token * (self.columns as usize).div_ceil(SQUARE_COLUMNS) * word),
            scales: self.scales.offset(token * word),
            roots: self.roots.offset(token * word),
            ..self
        }
    }
}

impl NormedRows {
    /// For up to `max_tokens` rows of `columns`.
    ///
    /// # Errors
    /// When the card has no memory.
    pub fn new(gpu: &Gpu, max_tokens: usize, columns: usize) -> Result<Self> {
        let zeros = |columns: usize| Tensor::zeros((max_tokens, columns), DType::F32, gpu.device());
        Ok(Self {
            columns,
            operand: gpu.operand(max_tokens, columns)?,
            squares: zeros(columns.div_ceil(SQUARE_COLUMNS))?,
            scales: zeros(1)?,
            roots: zeros(1)?,
            weight: Arc::default(),
        })
    }

    /// The roots of the rows' norms, as the last product that read them has found them: f32 `(max_tokens, 1)`.
    pub fn roots(&self) -> &Tensor {
        &self.roots
    }

    /// As a product takes it that makes it of this norm.
    ///
    /// # Errors
    /// When the norm is of rows of other columns.
    pub(super) fn to_be(&self, gpu: &Gpu, norm: Norm<'_>) -> Result<Normed> {
        rows::expect(OP, "weight", norm.weight, &[self.columns])?;
        let normed = self.argument(gpu, norm)?;
        self.weight.store(normed.weight.0, Ordering::Relaxed);
        Ok(normed)
    }

    /// As a product takes it that reads it.
    ///
    /// # Errors
    /// When it was made of another norm.
    pub(super) fn made(&self, gpu: &Gpu, norm: Norm<'_>) -> Result<Normed> {
        let normed = self.argument(gpu, norm)?;
        if self.weight.load(Ordering::Relaxed) != normed.weight.0 {
            return Err(Error::shape(OP, "the rows were not made ready for this norm"));
        }
        Ok(normed)
    }

    fn argument(&self, gpu: &Gpu, norm: Norm<'_>) -> Result<Normed> {
        Ok(Normed {
            operand: gpu.address(&self.operand)?,
            squares: gpu.address(&self.squares)?,
            scales: gpu.address(&self.scales)?,
            roots: gpu.address(&self.roots)?,
            weight: gpu.address(norm.weight)?,
            columns: self.columns as u32,
            padded: self.columns.next_multiple_of(TILE_COLUMNS) as u32,
            eps: norm.eps,
            unused: 0,
        })
    }
}

impl CardInfo {
    /// Bytes of what lies beside the residual stream, as [`crate::Compute::residual`] makes it.
    pub fn residual_bytes(max_tokens: usize, columns: usize) -> usize {
        let words = columns.div_ceil(SQUARE_COLUMNS) + 2;
        Self::operand_bytes(max_tokens, columns) + max_tokens * words * size_of::<f32>()
    }
}

impl Gpu {
    /// As [`crate::Compute::norm`], of rows whose shape the caller has checked.
    ///
    /// # Errors
    /// When the weight has another length, or the card has failed.
    pub fn norm_rows(&self, rows: &Tensor, normed: &NormedRows, norm: Norm<'_>) -> Result<()> {
        let (num_tokens, _) = rows::matrix(OP, "x", rows)?;
        let normed = normed.to_be(self, norm)?;
        if num_tokens == 0 {
            return Ok(());
        }
        self.launch_norm(self.address(rows)?, normed, num_tokens, true)
    }

    /// Makes `normed` of rows that a product has written, or (`is_first`) that none has.
    pub(super) fn launch_norm(&self, rows: Address, normed: Normed, num_tokens: usize, is_first: bool) -> Result<()> {
        let launch = self.kernel("norm_rows").grid(num_tokens, 1).threads(256);
        // SAFETY: there are so many rows of its columns, and room beside them for as many.
        unsafe { launch.arg(rows).arg(normed).arg(u32::from(is_first)).run() }
    }
}
