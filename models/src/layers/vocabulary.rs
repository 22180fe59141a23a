//! The two ends of a model: token ids to rows of the residual stream, and rows back to logits.

use candle_core::Tensor;
use kernels::PackedMatrix;

use super::{RmsNorm, Step};
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

    /// Writes the logits of every row of `hidden` to `out`, f32 `(num_tokens, vocab_size)`.
    pub(crate) fn logits(&self, step: &Step, out: &Tensor) -> Result<()> {
        Ok(step.compute.linear(&self.output, self.norm.of(step), out)?)
    }
}
