//! The architectures: one short file each, saying what sets its blocks apart from the block that all of them share.
//! Must not know files' formats, requests or the cache's owner.

mod block;
mod llama;
mod qwen2;
mod qwen3;

use kernels::KvLayer;

use self::{block::Block, llama::Llama, qwen2::Qwen2, qwen3::Qwen3};
use crate::{Architecture, Result, layers::Step, weights::Weights};

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
    pub(crate) fn load(weights: &mut Weights) -> Result<Self> {
        Ok(match weights.config().architecture {
            // Mistral's window is a hyperparameter that every block's attention obeys.
            Architecture::Llama | Architecture::Mistral => Self::Llama(load_all(weights)?),
            Architecture::Qwen2 => Self::Qwen2(load_all(weights)?),
            Architecture::Qwen3 => Self::Qwen3(load_all(weights)?),
        })
    }

    /// Runs every block in order; `kv` has one layer for each.
    pub(crate) fn forward(&self, step: &Step, kv: &[KvLayer]) -> Result<()> {
        match self {
            Self::Llama(blocks) => run_all(blocks, step, kv),
            Self::Qwen2(blocks) => run_all(blocks, step, kv),
            Self::Qwen3(blocks) => run_all(blocks, step, kv),
        }
    }
}

fn load_all<V: Variant>(weights: &mut Weights) -> Result<Vec<Block<V>>> {
    (0..weights.config().num_layers).map(|layer| Block::load(weights, layer)).collect()
}

fn run_all<V: Variant>(blocks: &[Block<V>], step: &Step, kv: &[KvLayer]) -> Result<()> {
    blocks.iter().zip(kv).try_for_each(|(block, kv)| block.forward(step, kv))
}
