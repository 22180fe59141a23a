//! The two ends of a model: token ids to rows of the residual stream, and rows back to logits.

use candle_core::{DType, Tensor};
use kernels::PackedMatrix;

use super::{RmsNorm, Step};
use crate::{Result, weights::Weights};

const TABLE: &str = "token_embd.weight";

/// Embedding table.
#[derive(Debug)]
pub(crate) struct Embedding {
    table: PackedMatrix,
    /// Of pending ids; see [`kernels::sampling::pending`].
    last_tokens: Option<Tensor>,
}

impl Embedding {
    pub(crate) fn load(weights: &mut Weights) -> Result<Self> {
        Ok(Self { table: weights.matrix(TABLE)?, last_tokens: None })
    }

    /// Where pending ids find their tokens.
    pub(crate) fn set_last_tokens(&mut self, last_tokens: Tensor) {
        self.last_tokens = Some(last_tokens);
    }

    /// Slots that pending ids may name.
    pub(crate) fn num_slots(&self) -> usize {
        self.last_tokens.as_ref().map_or(0, Tensor::elem_count)
    }

    /// Fills `hidden` with the rows of the step's ids.
    pub(crate) fn embed(&self, step: &Step) -> Result<()> {
        Ok(step.compute.embed(&self.table, &step.rows, self.last_tokens.as_ref(), step.hidden.rows())?)
    }
}

/// Final norm and output projection, and the logits.
#[derive(Debug)]
pub(crate) struct Head {
    norm: RmsNorm,
    output: PackedMatrix,
    /// f32 `(max_rows, vocab_size)`.
    logits: Tensor,
}

impl Head {
    /// For up to `max_rows` rows of logits. A tied model shares the matrix of `embedding`, if that is on this device.
    pub(crate) fn load(weights: &mut Weights, embedding: Option<&Embedding>, max_rows: usize) -> Result<Self> {
        let config = weights.config();
        let output = match embedding {
            Some(embedding) if config.tied_embeddings => embedding.table.clone(),
            _ => weights.matrix(if config.tied_embeddings { TABLE } else { "output.weight" })?,
        };
        Ok(Self {
            norm: RmsNorm::load(weights, "output_norm.weight")?,
            output: weights.precise(output),
            logits: Tensor::zeros((max_rows, config.vocab_size), DType::F32, weights.compute().device())?,
        })
    }

    /// The norm of the rows that logits are made of.
    pub(crate) fn norm(&self) -> &RmsNorm {
        &self.norm
    }

    /// Rows of logits that a step may have.
    pub(crate) fn max_rows(&self) -> usize {
        self.logits.dims()[0]
    }

    /// Computes the logits of every row of the step.
    pub(crate) fn project(&self, step: &Step) -> Result<()> {
        let logits = self.logits(step.hidden.rows().dims()[0])?;
        Ok(step.compute.linear(&self.output, self.norm.of(step), &logits)?)
    }

    /// The first rows of what [`Head::project`] has computed, f32 `(num_rows, vocab_size)`.
    pub(crate) fn logits(&self, num_rows: usize) -> Result<Tensor> {
        Ok(self.logits.narrow(0, 0, num_rows)?)
    }
}
