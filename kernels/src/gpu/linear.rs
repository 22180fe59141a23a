//! Products on the card: which kernel for how many tokens, over what grid; and operands made for them.

use std::sync::{MutexGuard, PoisonError};

use candle_core::{DType, Tensor};
use half::f16;

use super::matrix::{MAX_PARTS, Matrix, Output, OutputKind};
use super::norm::{Normed, NormedRows};
use super::product_memory::ProductMemory;
use super::tiles::{TILE_COLUMNS, TILE_ROWS};
use super::{Address, CardInfo, Gpu};
use crate::{Error, Norm, Operand, PackedMatrix, Residual, Result, rows};

/// Gated values are kept so many times smaller; `1 / GATED_SCALE` there.
const GATED_FACTOR: f32 = 64.0;
/// Operands have whole tiles of the largest kernel: tokens behind the last are read, and never shown.
pub(super) const OPERAND_TOKENS: usize = 128;
/// Slices that columns are summed in.
const SLICES: usize = 4;

const OP: &str = "linear";

/// A kernel for many tokens.
pub(super) struct Many {
    /// Rows and tokens of a block.
    rows: usize,
    tokens: usize,
    threads: usize,
}

impl Many {
    const SMALL: Self = Self { rows: 64, tokens: 64, threads: 128 };
    pub const LARGE: Self = Self { rows: 128, tokens: 128, threads: 256 };
    /// Bytes of a stage for each token, and stages.
    const STAGE_BYTES: usize = 128;
    const STAGES: usize = 4;

    /// Partial sums of the slices of one block.
    pub fn split_sums(&self) -> usize {
        self.rows * self.tokens * SLICES
    }
}

/// Bytes of the sums of slices that products of blocks which split need on a card.
pub(super) fn split_bytes(card: &CardInfo) -> usize {
    card.multiprocessors as usize * Many::LARGE.split_sums() * size_of::<f32>()
}

impl Gpu {
    /// Makes the memory for products, of at most so many columns of gate or of up.
    ///
    /// # Errors
    /// When the card has none left.
    pub fn reserve(&self, max_columns: usize) -> Result<()> {
        let mut memory = self.product_memory();
        memory.split(self)?;
        memory.gates(self, 2 * max_columns).map(drop)
    }

    fn product_memory(&self) -> MutexGuard<'_, ProductMemory> {
        self.products.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Zeros for an operand: f16, `(max_tokens, columns)` with both padded, in the order of `cuda/operand.cuh`.
    pub fn operand(&self, max_tokens: usize, columns: usize) -> Result<Tensor> {
        let shape = (max_tokens.next_multiple_of(OPERAND_TOKENS), columns.next_multiple_of(TILE_COLUMNS));
        Ok(Tensor::zeros(shape, DType::F16, self.device())?)
    }

    /// Multiplies rows with a matrix. `out`: f32 `(num_tokens, rows)`, or for [`OutputKind::Gate`] an operand for half as
    /// many columns as the matrix has rows. `next`: the norm of `out` that a product takes next, and where it is made.
    ///
    /// # Errors
    /// When shapes or types are others, or the card has failed.
    pub fn linear(
        &self,
        weight: &PackedMatrix,
        x: Operand<'_>,
        (kind, out): (OutputKind, &Tensor),
        next: Option<(&NormedRows, Norm<'_>)>,
    ) -> Result<()> {
        let matrix = Matrix::new(weight)?;
        let num_tokens = match (kind, x) {
            (OutputKind::Gate, Operand::Rows(rows)) => rows.dims()[0],
            (OutputKind::Gate, Operand::Normed(x, _)) => x.rows().dims()[0],
            _ => out.dims()[0],
        };
        check_operand(x, num_tokens, weight.columns())?;
        let width = if kind == OutputKind::Gate {
            check_fragments("out", out, num_tokens, weight.rows() / 2)?
        } else {
            rows::expect(OP, "out", out, &[num_tokens, weight.rows()])?;
            weight.rows()
        };
        if num_tokens == 0 {
            return Ok(());
        }
        let (operand, factor, norm) = self.operand_of(x, num_tokens, weight.columns())?;
        let norm = match next {
            Some(_) if matrix.num_parts() > 1 => {
                return Err(Error::shape(OP, "a stacked matrix is added without a norm"));
            }
            Some((normed, next)) => normed.to_be(self, next)?,
            None => norm,
        };
        let (values, width) = (self.address(out)?, width as u32);
        let output = Output { values, kind: kind as u32, width, num_tokens: num_tokens as u32, factor };
        if kind == OutputKind::Gate && !matrix.is_gate_of_one_type() {
            return self.multiply_and_gate(&matrix, (operand, norm), output, weight.rows());
        }
        self.multiply(matrix, (operand, norm), output)?;
        // The largest kernel leaves the norm of what it has written to others.
        if next.is_some() && num_tokens > Many::SMALL.tokens {
            self.launch_norm(values, norm, num_tokens, false)?;
        }
        Ok(())
    }

    /// A product whose kernels are launched, one for each set of formats.
    fn multiply(&self, mut matrix: Matrix, operand: (Address, Normed), output: Output) -> Result<()> {
        while let Some((formats, matrix)) = matrix.take_set() {
            match output.num_tokens {
                0 => {}
                1..=8 => self.few((formats.few_8, 4), &matrix, operand, output)?,
                9..=16 => self.few((formats.few_16, 3), &matrix, operand, output)?,
                17..=64 => self.many((formats.many_64, &Many::SMALL), &matrix, operand, output)?,
                _ => self.many((formats.many_128, &Many::LARGE), &matrix, operand, output)?,
            }
        }
        Ok(())
    }

    /// Gate and up in f32, then what they make, some tokens at a time: for matrices of several types.
    fn multiply_and_gate(
        &self,
        matrix: &Matrix,
        (operand, norm): (Address, Normed),
        gated: Output,
        rows: usize,
    ) -> Result<()> {
        let half = size_of::<f16>();
        let values = self.product_memory().gates(self, rows)?;
        for first in (0..gated.num_tokens as usize).step_by(OPERAND_TOKENS) {
            let num_tokens = OPERAND_TOKENS.min(gated.num_tokens as usize - first);
            let operand = (operand.offset(first * matrix.columns() * half), norm.without_first(first));
            let kind = OutputKind::Store as u32;
            let apart =
                Output { values, kind, width: rows as u32, num_tokens: num_tokens as u32, factor: gated.factor };
            self.multiply(*matrix, operand, apart)?;
            let to = gated.values.offset(first * gated.width as usize * half);
            let launch = self.kernel("gate_operand").grid(num_tokens, 1).threads(256);
            let launch = launch.arg(values).arg(to).arg((rows / 2) as u32).arg(gated.width);
            // SAFETY: the rows were just computed, and the operand has as many.
            unsafe { launch.run()? };
        }
        Ok(())
    }

    /// Where the operand lies, made if it does not yet, what products with it are multiplied by, and the norm that it is
    /// of.
    fn operand_of(&self, x: Operand<'_>, num_tokens: usize, columns: usize) -> Result<(Address, f32, Normed)> {
        let rows = match x {
            Operand::Gated(gated) => return Ok((self.address(gated)?, GATED_FACTOR, Normed::NONE)),
            Operand::Normed(Residual { normed: Some(rows), .. }, norm) => {
                let normed = rows.made(self, norm)?;
                return Ok((normed.operand, 1.0, normed));
            }
            Operand::Normed(..) => return Err(Error::shape(OP, "the rows lie elsewhere")),
            Operand::Rows(rows) if rows.dtype() == DType::F16 => return Ok((self.address(rows)?, 1.0, Normed::NONE)),
            Operand::Rows(rows) => rows,
        };
        let out = self.product_memory().operand(self, num_tokens, columns)?;
        let padded = columns.next_multiple_of(TILE_COLUMNS);
        let launch = self.kernel("make_operand").grid(num_tokens, 1).threads(256).arg(self.address(rows)?).arg(out);
        let launch = launch.arg(columns as u32).arg(padded as u32);
        // SAFETY: `rows` has so many rows and columns, which the caller has checked; the operand has room for them.
        unsafe { launch.run()? };
        Ok((out, 1.0, Normed::NONE))
    }

    /// `resident`: blocks that a multiprocessor holds.
    fn few(
        &self,
        (kernel, resident): (&'static str, usize),
        matrix: &Matrix,
        (operand, norm): (Address, Normed),
        output: Output,
    ) -> Result<()> {
        let parts = if output.kind == OutputKind::Gate as u32 { 1 } else { MAX_PARTS };
        let tiles: usize = matrix.row_tiles().take(parts).sum();
        let blocks = tiles.min(self.info().multiprocessors as usize * resident);
        let launch = self.kernel(kernel).grid(blocks, 1).threads(128).overlapping();
        // SAFETY: the operand has the matrix's columns and whole fragments of tokens; the output's rows are the
        // matrix's, which the caller has checked.
        unsafe { launch.arg(*matrix).arg(operand).arg(output).arg(norm).run() }
    }

    fn many(
        &self,
        (kernel, many): (&'static str, &Many),
        matrix: &Matrix,
        (operand, norm): (Address, Normed),
        output: Output,
    ) -> Result<()> {
        let gated = output.kind == OutputKind::Gate as u32;
        let (parts, rows) = if gated { (1, many.rows / 2) } else { (MAX_PARTS, many.rows) };
        let across: usize = matrix.row_tiles().take(parts).map(|tiles| (tiles * TILE_ROWS).div_ceil(rows)).sum();
        let down = (output.num_tokens as usize).div_ceil(many.tokens);
        let splits = across * down < self.info().multiprocessors as usize;
        let split = self.product_memory().split(self)?;
        let launch = self.kernel(kernel).grid3(across, down, if splits { SLICES } else { 1 }).threads(many.threads);
        let launch = launch.shared(Many::STAGES * many.tokens * Many::STAGE_BYTES).overlapping();
        // SAFETY: as above; operands are padded to whole blocks of tokens, and there are sums and counters for as many
        // blocks as split.
        unsafe { launch.arg(*matrix).arg(operand).arg(output).arg(norm).arg(split).run() }
    }

    /// Writes rows `ids` of `table`, u32 on the card, to `out`, f32 `(num_tokens, columns)`. A pending id is that of the
    /// token in `last_tokens`.
    ///
    /// # Errors
    /// When the card has failed.
    pub fn embed(
        &self,
        table: &PackedMatrix,
        (ids, last_tokens): (Address, Address),
        num_tokens: usize,
        out: &Tensor,
    ) -> Result<()> {
        let launch = self.kernel("embed").grid(num_tokens, 1).threads(128).arg(Matrix::new(table)?);
        let launch = launch.arg(ids).arg(last_tokens);
        // SAFETY: there are so many ids of rows of the table, and `out` has its columns, which the caller has checked.
        unsafe { launch.arg(self.address(out)?).arg(table.columns() as u32).run() }
    }
}

/// Checks a product's left factor.
fn check_operand(x: Operand<'_>, num_tokens: usize, columns: usize) -> Result<()> {
    match x {
        Operand::Gated(x) => check_fragments("x", x, num_tokens, columns).map(drop),
        Operand::Rows(x) if x.dtype() == DType::F16 => check_fragments("x", x, num_tokens, columns).map(drop),
        Operand::Rows(x) => rows::expect(OP, "x", x, &[num_tokens, columns]),
        Operand::Normed(x, norm) => {
            rows::expect(OP, "weight", norm.weight, &[columns])?;
            rows::expect(OP, "x", x.rows(), &[num_tokens, columns])
        }
    }
}

/// Checks that a tensor is an operand with room for so many tokens and columns. Returns its columns.
fn check_fragments(name: &str, x: &Tensor, num_tokens: usize, columns: usize) -> Result<usize> {
    rows::contiguous(OP, name, x, DType::F16)?;
    let padded = columns.next_multiple_of(TILE_COLUMNS);
    match *x.dims() {
        [rows, found] if found == padded && rows >= num_tokens && rows % OPERAND_TOKENS == 0 => Ok(padded),
        ref dims => {
            let needed = format!("an operand of {num_tokens} tokens and {columns} columns");
            Err(Error::shape(OP, format!("{name} has shape {dims:?} where {needed} is needed")))
        }
    }
}

#[cfg(all(test, any(feature = "cuda", feature = "cuda-emulation")))]
#[path = "linear_tests.rs"]
mod tests;
