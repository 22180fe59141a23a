//! Runs token sequences through a model in a chosen way: chunk size, batch, and which blocks hold them.

use std::path::PathBuf;

use kernels::{Activations, BLOCK_SIZE, Compute, ComputeOptions, KvCacheType, Span};
use models::{ForwardBatch, KvCache, MemoryPlan, Model, ModelFile, Placement};

use crate::Result;

/// Rows that one step of these tests may have.
pub(crate) const MAX_TOKENS: usize = 1024;

/// A model with a cache of its own.
pub(crate) struct Runner {
    pub(crate) model: Model,
    kv: KvCache,
    free_blocks: Vec<u32>,
}

/// A sequence being fed: its tokens, its blocks, and how many tokens have been computed.
struct Sequence<'a> {
    token_ids: &'a [u32],
    block_table: Vec<u32>,
    computed: usize,
}

impl Runner {
    /// Loads `file` with `num_blocks` cache blocks, handed out in an order shuffled by `seed`.
    pub(crate) fn new(file: &ModelFile, activations: Activations, num_blocks: usize, seed: u64) -> Result<Self> {
        Self::with_cache(file, activations, KvCacheType::F16, num_blocks, seed)
    }

    /// The same over a cache of `cache_type`.
    pub(crate) fn with_cache(
        file: &ModelFile,
        activations: Activations,
        cache_type: KvCacheType,
        num_blocks: usize,
        seed: u64,
    ) -> Result<Self> {
        let compute = Compute::cpu(options(activations))?;
        let runner = Self::on(&(&compute).into(), file, cache_type, num_blocks, seed)?;
        let plan = MemoryPlan::new(file, cache_type, (MAX_TOKENS, MAX_TOKENS), None)?;
        assert_eq!(plan.host.weights, runner.model.weight_bytes());
        Ok(runner)
    }

    /// The same on chosen devices.
    pub(crate) fn on(
        placement: &Placement,
        file: &ModelFile,
        cache_type: KvCacheType,
        num_blocks: usize,
        seed: u64,
    ) -> Result<Self> {
        let model = Model::load(file, placement.clone(), MAX_TOKENS, MAX_TOKENS, &mut |_| ())?;
        let kv = KvCache::new(model.config(), cache_type, num_blocks, placement.clone())?;
        let mut free_blocks: Vec<u32> = (0..num_blocks as u32).collect();
        fastrand::Rng::with_seed(seed).shuffle(&mut free_blocks);
        Ok(Self { model, kv, free_blocks })
    }

    /// Logits at every position of each sequence, fed together, at most `chunk` tokens of each in a step.
    pub(crate) fn logits(&mut self, sequences: &[&[u32]], chunk: usize) -> Result<Vec<Vec<Vec<f32>>>> {
        self.logits_at(sequences, chunk, |_| true)
    }

    /// The same at some positions only.
    pub(crate) fn logits_at<'a>(
        &mut self,
        sequences: &[&'a [u32]],
        chunk: usize,
        is_wanted: impl Fn(usize) -> bool,
    ) -> Result<Vec<Vec<Vec<f32>>>> {
        let mut free = self.free_blocks.iter().copied();
        let mut open = |&token_ids: &&'a [u32]| {
            let block_table = free.by_ref().take(token_ids.len().div_ceil(BLOCK_SIZE)).collect();
            Sequence { token_ids, block_table, computed: 0 }
        };
        let mut running: Vec<Sequence> = sequences.iter().map(&mut open).collect();
        let mut logits = vec![Vec::new(); sequences.len()];
        while running.iter().any(|s| s.computed < s.token_ids.len()) {
            let (batch, owners) = next_step(&mut running, chunk, &is_wanted);
            let rows = self.model.forward(&batch, &self.kv)?.to_vec2::<f32>()?;
            owners.into_iter().zip(rows).for_each(|(owner, row)| logits[owner].push(row));
        }
        Ok(logits)
    }
}

/// The next chunk of every unfinished sequence, with logits asked for at some positions, and whose each row of them is.
fn next_step(running: &mut [Sequence], chunk: usize, is_wanted: &impl Fn(usize) -> bool) -> (ForwardBatch, Vec<usize>) {
    let mut batch = ForwardBatch::default();
    let mut owners = Vec::new();
    for (index, sequence) in running.iter_mut().enumerate() {
        let room = MAX_TOKENS - batch.token_ids.len();
        let query_len = chunk.min(sequence.token_ids.len() - sequence.computed).min(room);
        if query_len == 0 {
            continue;
        }
        let next = sequence.computed + query_len;
        batch.spans.push(Span {
            query_start: batch.token_ids.len(),
            query_len,
            context_len: next,
            block_table: sequence.block_table.clone(),
        });
        for position in (sequence.computed..next).filter(|&position| is_wanted(position)) {
            batch.logit_rows.push((batch.token_ids.len() + position - sequence.computed) as u32);
            owners.push(index);
        }
        batch.token_ids.extend(&sequence.token_ids[sequence.computed..next]);
        sequence.computed = next;
    }
    (batch, owners)
}

/// A compute handle for a test.
pub(crate) fn options(activations: Activations) -> ComputeOptions {
    ComputeOptions { threads: 2, isa: None, activations }
}

/// The demo model, which `scripts/test` and `scripts/serve` bring into `weights/`.
pub(crate) fn demo_model() -> Result<ModelFile> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../weights/SmolLM2-135M-Instruct.Q4_1.gguf");
    if !path.exists() {
        return Err(format!("{} is missing: scripts/serve or scripts/test brings it", path.display()).into());
    }
    Ok(ModelFile::open(&path)?)
}
