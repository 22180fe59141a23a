//! The architectures: one short file each, saying what one of its transformer blocks holds and in which order it runs
//! the shared layers. Must not know files' formats, requests or the cache's owner.

mod llama;
mod mistral;
mod qwen2;
mod qwen3;

use kernels::KvLayer;

use crate::{Architecture, Result, layers::Step, weights::Weights};

/// What the blocks of one architecture are made of.
pub(crate) trait Block: Sized {
    /// Reads and packs the weights of block `layer`.
    fn load(weights: &mut Weights, layer: usize) -> Result<Self>;

    /// Adds this block's attention and feed-forward network to `step.hidden`, writing the step's keys and values into
    /// `kv`.
    fn forward(&self, step: &Step, kv: &KvLayer) -> Result<()>;
}

/// The blocks of a model, all of one architecture.
#[derive(Debug)]
pub(crate) enum Blocks {
    Llama(Vec<llama::LlamaBlock>),
    Mistral(Vec<mistral::MistralBlock>),
    Qwen2(Vec<qwen2::Qwen2Block>),
    Qwen3(Vec<qwen3::Qwen3Block>),
}

impl Blocks {
    pub(crate) fn load(weights: &mut Weights) -> Result<Self> {
        Ok(match weights.config().architecture {
            Architecture::Llama => Self::Llama(load_all(weights)?),
            Architecture::Mistral => Self::Mistral(load_all(weights)?),
            Architecture::Qwen2 => Self::Qwen2(load_all(weights)?),
            Architecture::Qwen3 => Self::Qwen3(load_all(weights)?),
        })
    }

    /// Runs every block in order; `kv` has one layer for each.
    pub(crate) fn forward(&self, step: &Step, kv: &[KvLayer]) -> Result<()> {
        match self {
            Self::Llama(blocks) => run_all(blocks, step, kv),
            Self::Mistral(blocks) => run_all(blocks, step, kv),
            Self::Qwen2(blocks) => run_all(blocks, step, kv),
            Self::Qwen3(blocks) => run_all(blocks, step, kv),
        }
    }
}

fn load_all<B: Block>(weights: &mut Weights) -> Result<Vec<B>> {
    (0..weights.config().num_layers).map(|layer| B::load(weights, layer)).collect()
}

fn run_all<B: Block>(blocks: &[B], step: &Step, kv: &[KvLayer]) -> Result<()> {
    blocks.iter().zip(kv).try_for_each(|(block, kv)| block.forward(step, kv))
}
