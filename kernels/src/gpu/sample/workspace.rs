//! The sampler's device memory: made once, at addresses that stay.

use std::sync::Arc;

use candle_core::{DType, Tensor};

use super::records::{
    CHUNK, HEAD_WORDS, MAX_CANDIDATES, MAX_CHUNKS, MAX_LIKELY, ROW_ALTERNATIVES, ROW_WORDS, SlotRecord, THREADS,
    WorkspaceRecord,
};
use crate::gpu::{Address, Gpu};
use crate::{Error, Result};

/// What a sampler is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SamplerSizes {
    /// Tokens of the vocabulary, 2^18 at most.
    pub vocab: usize,
    /// Sequences that run side by side.
    pub max_slots: usize,
    /// Rows of logits that one step samples from or tells log-probabilities of.
    pub max_rows: usize,
}

/// Device memory of so many words.
#[derive(Debug)]
pub struct Memory {
    tensor: Tensor,
    pub address: Address,
}

impl Memory {
    /// Zeros.
    pub fn new(gpu: &Gpu, words: usize) -> Result<Self> {
        let tensor = Tensor::zeros(words.max(1), DType::U32, gpu.device())?;
        let address = gpu.address(&tensor)?;
        Ok(Self { tensor, address })
    }

    pub fn words(&self) -> usize {
        self.tensor.elem_count()
    }
}

/// Tokens that are counted by one launch.
pub const COUNTED_TOKENS: usize = 16 * 1024;

/// All memory that does not belong to single sequences.
#[derive(Debug)]
pub struct Workspace {
    pub gpu: Arc<Gpu>,
    pub sizes: SamplerSizes,
    pub record: WorkspaceRecord,
    /// Tokens on their way into a table of counts, [`COUNTED_TOKENS`].
    pub tokens: Memory,
    /// u32 `(max_slots)`.
    pub last_tokens: Tensor,
    /// What the record names, kept as long as it.
    _memory: Vec<Memory>,
}

impl Workspace {
    pub fn new(gpu: Arc<Gpu>, sizes: SamplerSizes) -> Result<Self> {
        let SamplerSizes { vocab, max_slots, max_rows } = sizes;
        let chunks = vocab.div_ceil(CHUNK);
        if !(1..=MAX_CHUNKS).contains(&chunks) || max_slots == 0 || max_rows == 0 {
            return Err(Error::shape("sampler", format!("no sampler has {sizes:?}")));
        }
        let last_tokens = Tensor::zeros(max_slots, DType::U32, gpu.device())?;
        let memory = sizes.words().into_iter().map(|words| Memory::new(&gpu, words)).collect::<Result<Vec<_>>>()?;
        let [slots, step, masks, changed, scans, peaks, sums, candidates, likely, listed, arrived, output] =
            std::array::from_fn(|i| memory[i].address);
        let record = WorkspaceRecord {
            slots,
            step,
            masks,
            last_tokens: gpu.address(&last_tokens)?,
            changed,
            scans,
            peaks,
            sums,
            candidates,
            likely,
            listed,
            arrived,
            output,
            vocab: vocab as u32,
            chunks: chunks as u32,
            max_rows: max_rows as u32,
            unused: 0,
        };
        let tokens = Memory::new(&gpu, COUNTED_TOKENS)?;
        Ok(Self { gpu, sizes, record, tokens, last_tokens, _memory: memory })
    }
}

impl SamplerSizes {
    /// Words of the parts of [`WorkspaceRecord`], without the last tokens.
    fn words(&self) -> [usize; 12] {
        let Self { vocab, max_slots, max_rows } = *self;
        let chunks = vocab.div_ceil(CHUNK);
        let warps = THREADS / 32;
        [
            max_slots * size_of::<SlotRecord>() / 4,
            (1 + max_rows) * ROW_WORDS,
            max_rows * vocab.div_ceil(32),
            max_rows * vocab,
            max_rows * chunks * 4,
            2 * max_rows * chunks * warps,
            max_rows * chunks * 6,
            max_rows * MAX_CANDIDATES * 2,
            max_rows * MAX_LIKELY * 2,
            2 * max_rows,
            max_rows,
            2 * max_rows * (HEAD_WORDS + ROW_ALTERNATIVES),
        ]
    }

    /// Bytes of device memory, with those of sequences that all have penalties.
    pub(crate) fn bytes(&self) -> usize {
        let of_sequences = self.max_slots * (1 + self.vocab);
        4 * (COUNTED_TOKENS + self.words().iter().sum::<usize>() + of_sequences)
    }
}
