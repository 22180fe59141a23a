//! A loaded model of any architecture: weights packed once, workspaces made once, one forward.

use candle_core::Tensor;
use kernels::{PackedMatrix, RopeTable, StepRows};

use crate::{
    Error, ForwardBatch, KvCache, ModelConfig, ModelFile, Placement, Result,
    layers::kept_spans,
    rope::rope_table,
    stage::{MaxRows, Stage},
    weights::Weights,
};

/// A model whose weights are packed and whose workspaces are made.
#[derive(Debug)]
pub struct Model {
    config: ModelConfig,
    rope: RopeTable,
    /// In the order of layers.
    stages: Vec<Stage>,
    max: MaxRows,
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
        placement: impl Into<Placement>,
        max_tokens: usize,
        max_logit_rows: usize,
        progress: &mut dyn FnMut(f32),
    ) -> Result<Self> {
        let config = file.config()?;
        let placement = placement.into();
        let max = MaxRows { tokens: max_tokens, logits: max_logit_rows };
        let mut weights = Weights::new(file, &config, placement.last(), progress);
        let stages = placement.stages(config.num_layers).into_iter();
        let stages = stages.map(|(compute, layers)| Stage::load(&mut weights, compute, layers, max));
        let stages = stages.collect::<Result<_>>()?;
        let (weight_bytes, matrices) = (weights.packed_bytes(), weights.into_matrices());
        Ok(Self { rope: rope_table(&config), config, stages, max, weight_bytes, matrices })
    }

    /// Where a step may find tokens that the host does not know: u32 on the card, by slot. Takes them if the embedding is
    /// there, too.
    pub fn take_last_tokens(&mut self, last_tokens: &Tensor) -> bool {
        self.stages[0].take_last_tokens(last_tokens)
    }

    /// Rows of logits that a step may ask for.
    pub fn max_logit_rows(&self) -> usize {
        self.max.logits
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
        let rows = StepRows::new(&batch.token_ids, &batch.spans);
        let is_all = batch.logit_rows.len() == batch.token_ids.len();
        let kept_spans = if is_all { Vec::new() } else { kept_spans(&batch.spans, &batch.logit_rows) };
        let kept = (!is_all).then(|| StepRows::new(&batch.logit_rows, &kept_spans));
        let mut before = None;
        for stage in &mut self.stages {
            stage.forward(&self.rope, (rows, kept), kv, before.as_ref())?;
            match stage.logits(batch.logit_rows.len()) {
                Some(logits) => return logits,
                None => before = Some(stage.hidden(rows.len())?),
            }
        }
        unreachable!("the last stage has logits")
    }

    fn check(&self, batch: &ForwardBatch, kv: &KvCache) -> Result<()> {
        let (tokens, max_tokens) = (batch.token_ids.len(), self.max.tokens);
        let (rows, max_rows) = (batch.logit_rows.len(), self.max.logits);
        if tokens == 0 || tokens > max_tokens || rows > max_rows {
            let limits = format!("{max_tokens} tokens and {max_rows} rows of logits");
            return Err(Error::Batch(format!("{tokens} tokens and {rows} rows of logits; a step takes 1 to {limits}")));
        }
        if kv.layers.len() != self.config.num_layers {
            let (layers, blocks) = (kv.layers.len(), self.config.num_layers);
            return Err(Error::Batch(format!("a cache of {layers} layers for a model of {blocks}")));
        }
        batch.check(self.config.vocab_size, kv.num_blocks, self.stages[0].num_slots())
    }
}
