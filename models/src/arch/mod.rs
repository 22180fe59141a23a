//! The architectures: one short file each, saying what sets its blocks apart from the block that all of them share.
//! Must not know files' formats, requests or the cache's owner.

mod block;
mod llama;
mod qwen2;
mod qwen3;

use std::ops::Range;

use kernels::KvLayer;

use self::{block::Block, llama::Llama, qwen2::Qwen2, qwen3::Qwen3};
use crate::{
    Architecture, Result,
    layers::{RmsNorm, Step},
    weights::Weights,
};

/// What an architecture adds to the shared block.
pub(crate) trait Variant: Sized {
    /// Reads what block `layer` has beyond the shared weights.
    fn load(weights: &mut Weights, layer: usize) -> Result<Self>;

    /// Changes q, k and v of the step between their projection and their rotation.
    fn adjust_qkv(&self, step: &Step) -> Result<()>;
}

/// The blocks of a model, all of one architecture.
#[derive(Debug)]
pub(crate) enum Blocks {
    Llama(Vec<Block<Llama>>),
    Qwen2(Vec<Block<Qwen2>>),
    Qwen3(Vec<Block<Qwen3>>),
}

impl Blocks {
    /// Reads the blocks of `layers`.
    pub(crate) fn load(weights: &mut Weights, layers: Range<usize>) -> Result<Self> {
        Ok(match weights.config().architecture {
            // Mistral's window is a hyperparameter that every block's attention obeys.
            Architecture::Llama | Architecture::Mistral => Self::Llama(load_all(weights, layers)?),
            Architecture::Qwen2 => Self::Qwen2(load_all(weights, layers)?),
            Architecture::Qwen3 => Self::Qwen3(load_all(weights, layers)?),
        })
    }

    /// Runs every block in order; `kv` has one layer for each. Where the model ends with them, and with `last`, this
    /// returns the step of the wanted rows alone: once the last block has stored its keys and values, nothing depends on
    /// the others.
    pub(crate) fn forward<'a>(&self, step: Step<'a>, kv: &[KvLayer], last: Option<&RmsNorm>) -> Result<Step<'a>> {
        match self {
            Self::Llama(blocks) => run_all(blocks, step, kv, last),
            Self::Qwen2(blocks) => run_all(blocks, step, kv, last),
            Self::Qwen3(blocks) => run_all(blocks, step, kv, last),
        }
    }
}

fn load_all<V: Variant>(weights: &mut Weights, layers: Range<usize>) -> Result<Vec<Block<V>>> {
    layers.map(|layer| Block::load(weights, layer)).collect()
}

fn run_all<'a, V: Variant>(
    blocks: &[Block<V>],
    mut step: Step<'a>,
    kv: &[KvLayer],
    last: Option<&RmsNorm>,
) -> Result<Step<'a>> {
    if let Some(first) = blocks.first().map(Block::norm).or(last) {
        step.compute.norm(&step.hidden, first.norm())?;
    }
    for (index, (block, kv)) in blocks.iter().zip(kv).enumerate() {
        block.store(&step, kv)?;
        let next = blocks.get(index + 1).map(Block::norm);
        if next.is_none() && last.is_some() {
            step = step.keep_rows()?;
        }
        block.attend(&step, kv, next.or(last))?;
    }
    Ok(step)
}
