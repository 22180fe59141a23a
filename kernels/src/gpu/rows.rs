//! Small operations on rows of f32 on the card.

use candle_core::Tensor;

use super::Gpu;
use super::step::StepTables;
use crate::{Result, rows};

/// Threads of a block; as in `cuda/rows.cu`.
const THREADS: usize = 128;

impl Gpu {
    /// As [`crate::Compute::keep_rows`]: moves the rows that are the ids of `kept`, ascending, to the front of `x`.
    ///
    /// # Errors
    /// When `x` is no matrix, or the card has failed.
    pub fn keep_rows(&self, x: &Tensor, kept: &StepTables) -> Result<()> {
        let (_, columns) = rows::matrix("keep_rows", "x", x)?;
        if columns == 0 || kept.num_rows() == 0 {
            return Ok(());
        }
        let launch = self.kernel("keep_rows").grid(columns.div_ceil(THREADS), 1).threads(THREADS);
        let launch = launch.arg(self.address(x)?).arg(kept.ids(self)?).arg(kept.counts(self)?).arg(columns as u32);
        // SAFETY: the ids are rows of `x`, which the caller has checked when they were filled in.
        unsafe { launch.run() }
    }

    /// As [`crate::Compute::add_bias`], which has checked the shapes.
    ///
    /// # Errors
    /// When the card has failed.
    pub fn add_bias(&self, x: &Tensor, bias: &Tensor) -> Result<()> {
        /// Elements of a thread, about.
        const ELEMENTS: usize = 4;
        let (columns, len) = (bias.elem_count(), x.elem_count());
        let launch = self.kernel("add_bias").grid(len.div_ceil(THREADS * ELEMENTS), 1).threads(THREADS);
        let launch = launch.arg(self.address(x)?).arg(self.address(bias)?).arg(columns as u32).arg(len as u32);
        // SAFETY: rows have as many elements as the bias.
        unsafe { launch.run() }
    }

    /// As [`crate::Compute::head_norm`], which has checked the shapes.
    ///
    /// # Errors
    /// When the card has failed.
    pub fn head_norm(&self, x: &Tensor, first_head: usize, num_heads: usize, weight: &Tensor, eps: f32) -> Result<()> {
        let (num_tokens, columns, head_dim) = (x.dims()[0], x.dims()[1], weight.elem_count());
        let launch = self.kernel("head_norm").grid((num_tokens * num_heads).div_ceil(THREADS / 32), 1).threads(THREADS);
        let launch = launch.arg(self.address(x)?).arg(self.address(weight)?).arg(num_tokens as u32).arg(columns as u32);
        let launch = launch.arg(first_head as u32).arg(num_heads as u32).arg(head_dim as u32).arg(eps);
        // SAFETY: the heads lie in the rows.
        unsafe { launch.run() }
    }
}

#[cfg(all(test, any(feature = "cuda", feature = "cuda-emulation")))]
#[path = "rows_tests.rs"]
mod tests;
