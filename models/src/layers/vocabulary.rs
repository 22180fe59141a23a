//! The two ends of a model: token ids to rows of the residual stream, and rows back to logits.

use candle_core::Tensor;
use kernels::PackedMatrix;

use super::{RmsNorm, Step, Workspace};
use crate::{Result, weights::Weights};

/// Embedding table, final norm and output projection; a tied model packs one matrix for both ends.
#[derive(Debug)]
pub(crate) struct Vocabulary {
    embedding: PackedMatrix,
    norm: RmsNorm,
    output: PackedMatrix,
}

impl Vocabulary {
    pub(crate) fn load(weights: &mut Weights) -> Result<Self> {
        let embedding = weights.matrix("token_embd.weight")?;
        let tied = weights.config().tied_embeddings;
        let output = if tied { embedding.clone() } else { weights.matrix("output.weight")? };
        Ok(Self { embedding, norm: RmsNorm::load(weights, "output_norm.weight")?, output: weights.precise(output) })
    }

    /// Fills `hidden` with the rows of `token_ids`.
    pub(crate) fn embed(&self, step: &Step, token_ids: &[u32]) -> Result<()> {
        Ok(step.compute.embed(&self.embedding, token_ids, &step.hidden)?)
    }

    /// Logits of the rows `logit_rows` of `hidden`: f32 `(logit_rows.len(), vocab_size)`.
    pub(crate) fn logits(&self, step: &Step, workspace: &Workspace, logit_rows: &[u32]) -> Result<Tensor> {
        let [picked, normed, logits] = workspace.logit_rows(logit_rows.len())?;
        if !logit_rows.is_empty() {
            step.compute.gather_rows(&step.hidden, logit_rows, &picked)?;
            self.norm.apply(step.compute, &picked, &normed)?;
            step.compute.linear(&self.output, &normed, &logits)?;
        }
        Ok(logits)
    }
}
