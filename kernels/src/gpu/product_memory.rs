//! Memory that products work in, made before a step is recorded.

use candle_core::{DType, Tensor};

use super::launch::Argument;
use super::linear::{Many, OPERAND_TOKENS};
use super::tiles::TILE_COLUMNS;
use super::{Address, Gpu};
use crate::Result;

/// `SplitScratch` of `cuda/linear_many.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Split {
    sums: u64,
    arrived: u64,
}

// SAFETY: as declared there; two words.
unsafe impl Argument for Split {}

/// Memory that products work in. What a recorded step has seen stays when more is needed.
#[derive(Debug, Default)]
pub(crate) struct ProductMemory {
    /// Operands, the last one being the largest.
    operands: Vec<Tensor>,
    /// Sums of slices, and counters of who has arrived.
    split: Option<(Tensor, Tensor)>,
    /// f32 rows of gate and up that one kernel cannot gate.
    gates: Vec<Tensor>,
}

impl ProductMemory {
    /// An operand for so many tokens and columns.
    pub fn operand(&mut self, gpu: &Gpu, max_tokens: usize, max_columns: usize) -> Result<Address> {
        let padded = max_tokens.next_multiple_of(OPERAND_TOKENS) * max_columns.next_multiple_of(TILE_COLUMNS);
        gpu.address(largest(&mut self.operands, padded, || gpu.operand(max_tokens, max_columns))?)
    }

    /// f32 `(OPERAND_TOKENS, columns)`, and more.
    pub fn gates(&mut self, gpu: &Gpu, columns: usize) -> Result<Address> {
        let zeros = || Ok(Tensor::zeros((OPERAND_TOKENS, columns), DType::F32, gpu.device())?);
        gpu.address(largest(&mut self.gates, OPERAND_TOKENS * columns, zeros)?)
    }

    /// Sums and counters for as many blocks as split.
    pub fn split(&mut self, gpu: &Gpu) -> Result<Split> {
        let blocks = gpu.info().multiprocessors as usize;
        let (sums, arrived) = match &mut self.split {
            Some(split) => split,
            none => none.insert((
                Tensor::zeros(blocks * Many::LARGE.split_sums(), DType::F32, gpu.device())?,
                Tensor::zeros(blocks, DType::U32, gpu.device())?,
            )),
        };
        Ok(Split { sums: gpu.address(sums)?.0, arrived: gpu.address(arrived)?.0 })
    }
}

/// The last of these tensors, or a new one behind it where that has too few elements.
fn largest(tensors: &mut Vec<Tensor>, elements: usize, make: impl FnOnce() -> Result<Tensor>) -> Result<&Tensor> {
    if tensors.last().is_none_or(|last| last.elem_count() < elements) {
        tensors.push(make()?);
    }
    Ok(&tensors[tensors.len() - 1])
}
