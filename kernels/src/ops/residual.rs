//! The residual stream: the rows that blocks add to, and that norms are made of.

use candle_core::Tensor;

use crate::gpu::norm::NormedRows;
use crate::{Compute, Result, StepRows, rows};

/// A root-mean-square norm (Zhang & Sennrich, 2019): `x / sqrt(mean(x²) + eps) * weight`.
#[derive(Debug, Clone, Copy)]
pub struct Norm<'a> {
    /// f32 `(columns)`.
    pub weight: &'a Tensor,
    /// Added to the mean of the squares.
    pub eps: f32,
}

/// Rows of the residual stream. On a card there lies beside them what the next norm makes of them: whoever writes the
/// rows names that norm. On the CPU products make it as they read the rows.
#[derive(Debug, Clone)]
pub struct Residual {
    rows: Tensor,
    pub(crate) normed: Option<NormedRows>,
}

impl Residual {
    /// f32 `(num_tokens, columns)`.
    pub fn rows(&self) -> &Tensor {
        &self.rows
    }

    /// The first rows.
    ///
    /// # Errors
    /// When there are not so many.
    pub fn first_rows(&self, num_tokens: usize) -> Result<Self> {
        Ok(Self { rows: self.rows.narrow(0, 0, num_tokens)?, normed: self.normed.clone() })
    }
}

impl Compute {
    /// A residual stream over these rows, f32 `(max_tokens, columns)`.
    ///
    /// # Errors
    /// When they have another shape, or a card has no memory.
    pub fn residual(&self, rows: Tensor) -> Result<Residual> {
        let (max_tokens, columns) = rows::matrix("residual", "x", &rows)?;
        let normed = self.gpu().map(|gpu| NormedRows::new(gpu, max_tokens, columns)).transpose()?;
        Ok(Residual { rows, normed })
    }

    /// Makes rows that no [`Compute::linear_add`] has written ready for products of their norm.
    ///
    /// # Errors
    /// When the weight has another length, or the card has failed.
    pub fn norm(&self, x: &Residual, norm: Norm<'_>) -> Result<()> {
        match (self.gpu(), &x.normed) {
            (Some(gpu), Some(normed)) => gpu.norm_rows(&x.rows, normed, norm),
            _ => Ok(()),
        }
    }

    /// As [`Compute::keep_rows`], for products that add to the rows afterwards; they are not ready for a norm.
    ///
    /// # Errors
    /// As there.
    pub fn keep_residual(&self, x: &Residual, kept: &StepRows<'_>) -> Result<()> {
        self.keep_rows(&x.rows, kept)?;
        x.normed.as_ref().map_or(Ok(()), |normed| self.keep_rows(normed.roots(), kept))
    }
}
