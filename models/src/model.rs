//! A loaded model of any architecture: weights packed once, workspaces made once, one forward.

use candle_core::Tensor;
use kernels::{Compute, PackedMatrix, RopeTable};

use crate::{
    Error, ForwardBatch, KvCache, ModelConfig, ModelFile, Result,
    arch::Blocks,
    layers::{Vocabulary, Workspace},
    rope::rope_table,
    weights::Weights,
};

/// A model whose weights are packed and whose workspaces are made.
#[derive(Debug)]
pub struct Model {
    config: ModelConfig,
    compute: Compute,
    rope: RopeTable,
    vocabulary: Vocabulary,
    blocks: Blocks,
    workspace: Workspace,
    weight_bytes: usize,
    matrices: Vec<(String, PackedMatrix)>,
}

impl Model {
    /// Loads and packs the weights. Workspaces hold `max_tokens` rows a step and `max_logit_rows` rows of logits;
    /// `progress` hears the share of weights done, 0 to 1.
    ///
    /// # Errors
    /// When the configuration or a weight cannot be read, a weight is missing or its shape is not the configuration's.
    pub fn load(
        file: &ModelFile,
        compute: &Compute,
        max_tokens: usize,
        max_logit_rows: usize,
        progress: &mut dyn FnMut(f32),
    ) -> Result<Self> {
        let config = file.config()?;
        let mut weights = Weights::new(file, &config, compute, progress);
        let vocabulary = Vocabulary::load(&mut weights)?;
        let blocks = Blocks::load(&mut weights)?;
        let (weight_bytes, matrices) = (weights.packed_bytes(), weights.into_matrices());
        let workspace = Workspace::new(&config, max_tokens, max_logit_rows, compute.device())?;
        let rope = rope_table(&config);
        Ok(Self { config, compute: compute.clone(), rope, vocabulary, blocks, workspace, weight_bytes, matrices })
    }

    /// The hyperparameters.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The packed matrices under their names, for [`PackedFile::write`](crate::PackedFile::write).
    pub fn matrices(&self) -> &[(String, PackedMatrix)] {
        &self.matrices
    }

    /// Bytes of the packed weights.
    pub fn weight_bytes(&self) -> usize {
        self.weight_bytes
    }

    /// Runs one step: writes the spans' keys and values into `kv` and returns the logits of `logit_rows`, f32
    /// `(logit_rows.len(), vocab_size)`, a view of a workspace that the next call overwrites.
    ///
    /// # Errors
    /// [`Error::Batch`] when the batch is not sound or larger than the workspaces; nothing has been written then.
    pub fn forward(&mut self, batch: &ForwardBatch, kv: &KvCache) -> Result<Tensor> {
        self.check(batch, kv)?;
        let step = self.workspace.step(&self.compute, &self.rope, &batch.spans, batch.token_ids.len())?;
        self.vocabulary.embed(&step, &batch.token_ids)?;
        let step = self.blocks.forward(step, &kv.layers, &batch.logit_rows)?;
        let logits = self.workspace.logits(batch.logit_rows.len())?;
        self.vocabulary.logits(&step, &logits)?;
        Ok(logits)
    }

    fn check(&self, batch: &ForwardBatch, kv: &KvCache) -> Result<()> {
        let (tokens, max_tokens) = (batch.token_ids.len(), self.workspace.max_tokens());
        let (rows, max_rows) = (batch.logit_rows.len(), self.workspace.max_logit_rows());
        if tokens == 0 || tokens > max_tokens || rows > max_rows {
            let limits = format!("{max_tokens} tokens and {max_rows} rows of logits");
            return Err(Error::Batch(format!("{tokens} tokens and {rows} rows of logits; a step takes 1 to {limits}")));
        }
        if kv.layers.len() != self.config.num_layers {
            let (layers, blocks) = (kv.layers.len(), self.config.num_layers);
            return Err(Error::Batch(format!("a cache of {layers} layers for a model of {blocks}")));
        }
        batch.check(self.config.vocab_size, kv.num_blocks)
    }
}
