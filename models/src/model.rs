//! A loaded model of any architecture: one enum, one forward.

use candle_core::Tensor;
use kernels::Compute;

use crate::{Error, ForwardBatch, KvCache, ModelConfig, ModelFile, Result};

/// A model whose weights are packed and whose workspaces are made.
#[derive(Debug)]
pub struct Model {
    config: ModelConfig,
}

impl Model {
    /// Loads and packs the weights. Workspaces hold `max_tokens` rows a step and `max_logit_rows` rows of logits;
    /// `progress` hears the share of weights done, 0 to 1.
    pub fn load(
        file: &ModelFile,
        compute: &Compute,
        max_tokens: usize,
        max_logit_rows: usize,
        progress: &mut dyn FnMut(f32),
    ) -> Result<Self> {
        let _ = (compute, max_tokens, max_logit_rows, progress);
        Ok(Self { config: file.config()? })
    }

    /// The hyperparameters.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Bytes of the packed weights.
    pub fn weight_bytes(&self) -> usize {
        0
    }

    /// Runs one step: writes the spans' keys and values into `kv` and returns the logits of `logit_rows`, f32
    /// `(logit_rows.len(), vocab_size)`, a view of a workspace that the next call overwrites.
    pub fn forward(&mut self, batch: &ForwardBatch, kv: &KvCache) -> Result<Tensor> {
        let _ = (batch, kv);
        Err(Error::Candle(candle_core::Error::Msg("no architecture yet".into())))
    }
}
