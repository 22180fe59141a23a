//! The tensors that every step works in: made once, viewed by each step at its number of tokens.

use candle_core::{DType, Device, Tensor};
use kernels::{Compute, KvLayer, RopeTable, Span};

use crate::{ModelConfig, Result};

/// Activations of up to `max_tokens` rows and logits of up to `max_logit_rows`, all f32.
#[derive(Debug)]
pub(crate) struct Workspace {
    hidden: Tensor,
    normed: Tensor,
    qkv: Tensor,
    attended: Tensor,
    gate_up: Tensor,
    activated: Tensor,
    picked: Tensor,
    logits: Tensor,
}

impl Workspace {
    pub(crate) fn new(config: &ModelConfig, max_tokens: usize, max_logit_rows: usize, device: &Device) -> Result<Self> {
        let zeros = |rows: usize, columns: usize| Tensor::zeros((rows, columns), DType::F32, device);
        let [hidden, qkv, attended, gate_up, activated] = widths(config);
        Ok(Self {
            hidden: zeros(max_tokens, hidden)?,
            normed: zeros(max_tokens, hidden)?,
            qkv: zeros(max_tokens, qkv)?,
            attended: zeros(max_tokens, attended)?,
            gate_up: zeros(max_tokens, gate_up)?,
            activated: zeros(max_tokens, activated)?,
            picked: zeros(max_logit_rows, config.hidden_size)?,
            logits: zeros(max_logit_rows, config.vocab_size)?,
        })
    }

    /// Bytes that [`Workspace::new`] takes.
    pub(crate) fn bytes(config: &ModelConfig, max_tokens: usize, max_logit_rows: usize) -> usize {
        let [hidden, qkv, attended, gate_up, activated] = widths(config);
        let per_token = 2 * hidden + qkv + attended + gate_up + activated;
        let per_logit_row = config.hidden_size + config.vocab_size;
        (max_tokens * per_token + max_logit_rows * per_logit_row) * size_of::<f32>()
    }

    /// Rows that a step may have.
    pub(crate) fn max_tokens(&self) -> usize {
        self.hidden.dims()[0]
    }

    /// Rows of logits that a step may ask for.
    pub(crate) fn max_logit_rows(&self) -> usize {
        self.logits.dims()[0]
    }

    /// Views of the first `num_tokens` rows.
    pub(crate) fn step<'a>(
        &self,
        compute: &'a Compute,
        rope: &'a RopeTable,
        spans: &'a [Span],
        num_tokens: usize,
    ) -> Result<Step<'a>> {
        let rows = |tensor: &Tensor| tensor.narrow(0, 0, num_tokens);
        Ok(Step {
            compute,
            rope,
            spans,
            hidden: rows(&self.hidden)?,
            normed: rows(&self.normed)?,
            qkv: rows(&self.qkv)?,
            attended: rows(&self.attended)?,
            gate_up: rows(&self.gate_up)?,
            activated: rows(&self.activated)?,
        })
    }

    /// Views for the vocabulary projection of `num_rows` rows: picked hidden rows, the same normed, and their logits.
    pub(crate) fn logit_rows(&self, num_rows: usize) -> Result<[Tensor; 3]> {
        let rows = |tensor: &Tensor| tensor.narrow(0, 0, num_rows);
        Ok([rows(&self.picked)?, rows(&self.normed)?, rows(&self.logits)?])
    }
}

/// Columns of hidden, qkv, attended, gate and up, activated.
fn widths(config: &ModelConfig) -> [usize; 5] {
    let q_size = config.num_heads * config.head_dim;
    let kv_size = config.num_kv_heads * config.head_dim;
    [config.hidden_size, q_size + 2 * kv_size, q_size, 2 * config.intermediate_size, config.intermediate_size]
}

/// What the layers of one step share: who computes, whose tokens, and the rows they are worked in.
#[derive(Debug)]
pub(crate) struct Step<'a> {
    pub(crate) compute: &'a Compute,
    pub(crate) rope: &'a RopeTable,
    pub(crate) spans: &'a [Span],
    /// The residual stream, `(num_tokens, hidden_size)`.
    pub(crate) hidden: Tensor,
    /// Its norm, `(num_tokens, hidden_size)`.
    pub(crate) normed: Tensor,
    /// `(num_tokens, (num_heads + 2 * num_kv_heads) * head_dim)`.
    pub(crate) qkv: Tensor,
    /// `(num_tokens, num_heads * head_dim)`.
    pub(crate) attended: Tensor,
    /// `(num_tokens, 2 * intermediate_size)`, gate first.
    pub(crate) gate_up: Tensor,
    /// `(num_tokens, intermediate_size)`.
    pub(crate) activated: Tensor,
}

impl Step<'_> {
    /// Rotates q and k by their positions and writes k and v into `kv`.
    pub(crate) fn store(&self, kv: &KvLayer) -> Result<()> {
        Ok(self.compute.rope_and_store(&self.qkv, self.rope, self.spans, kv)?)
    }
}
