//! The tensors that every step works in: made once, viewed by each step at its number of tokens.

use std::borrow::Cow;

use candle_core::{DType, Device, Tensor};
use kernels::{BLOCK_SIZE, Compute, KvLayer, RopeTable, Span};

use crate::{ModelConfig, Result};

/// Activations of up to `max_tokens` rows and logits of up to `max_logit_rows`, all f32.
#[derive(Debug)]
pub(crate) struct Workspace {
    hidden: Tensor,
    qkv: Tensor,
    attended: Tensor,
    gate_up: Tensor,
    logits: Tensor,
}

impl Workspace {
    pub(crate) fn new(config: &ModelConfig, max_tokens: usize, max_logit_rows: usize, device: &Device) -> Result<Self> {
        let zeros = |rows: usize, columns: usize| Tensor::zeros((rows, columns), DType::F32, device);
        let [hidden, qkv, attended, gate_up] = widths(config);
        Ok(Self {
            hidden: zeros(max_tokens, hidden)?,
            qkv: zeros(max_tokens, qkv)?,
            attended: zeros(max_tokens, attended)?,
            gate_up: zeros(max_tokens, gate_up)?,
            logits: zeros(max_logit_rows, config.vocab_size)?,
        })
    }

    /// Bytes that [`Workspace::new`] takes.
    pub(crate) fn bytes(config: &ModelConfig, max_tokens: usize, max_logit_rows: usize) -> usize {
        let [hidden, qkv, attended, gate_up] = widths(config);
        let per_token = hidden + qkv + attended + gate_up;
        (max_tokens * per_token + max_logit_rows * config.vocab_size) * size_of::<f32>()
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
        let Self { hidden, qkv, attended, gate_up, .. } = self;
        let rows = |tensor: &Tensor| tensor.narrow(0, 0, num_tokens);
        Ok(Step {
            compute,
            rope,
            spans: Cow::Borrowed(spans),
            hidden: rows(hidden)?,
            qkv: rows(qkv)?,
            attended: rows(attended)?,
            gate_up: rows(gate_up)?,
        })
    }

    /// Logits of `num_rows` rows, `(num_rows, vocab_size)`.
    pub(crate) fn logits(&self, num_rows: usize) -> Result<Tensor> {
        Ok(self.logits.narrow(0, 0, num_rows)?)
    }
}

/// Columns of hidden, qkv, attended, gate and up.
fn widths(config: &ModelConfig) -> [usize; 4] {
    let q_size = config.num_heads * config.head_dim;
    let kv_size = config.num_kv_heads * config.head_dim;
    [config.hidden_size, q_size + 2 * kv_size, q_size, 2 * config.intermediate_size]
}

/// What the layers of one step share: who computes, whose tokens, and the rows they are worked in.
#[derive(Debug)]
pub(crate) struct Step<'a> {
    pub(crate) compute: &'a Compute,
    pub(crate) rope: &'a RopeTable,
    pub(crate) spans: Cow<'a, [Span]>,
    /// The residual stream, `(num_tokens, hidden_size)`.
    pub(crate) hidden: Tensor,
    /// `(num_tokens, (num_heads + 2 * num_kv_heads) * head_dim)`.
    pub(crate) qkv: Tensor,
    /// `(num_tokens, num_heads * head_dim)`.
    pub(crate) attended: Tensor,
    /// `(num_tokens, 2 * intermediate_size)`, gate first.
    pub(crate) gate_up: Tensor,
}

impl<'a> Step<'a> {
    /// Rotates q and k by their positions and writes k and v into `kv`.
    pub(crate) fn store(&self, kv: &KvLayer) -> Result<()> {
        Ok(self.compute.rope_and_store(&self.qkv, self.rope, &self.spans, kv)?)
    }

    /// The step of the rows `rows` alone, ascending: what `hidden` and `qkv` hold of them moves to the front.
    pub(crate) fn keep_rows(self, rows: &[u32]) -> Result<Step<'a>> {
        if rows.len() == self.hidden.dims()[0] {
            return Ok(self);
        }
        self.compute.keep_rows(&self.hidden, rows)?;
        self.compute.keep_rows(&self.qkv, rows)?;
        let front = |tensor: Tensor| tensor.narrow(0, 0, rows.len());
        Ok(Step {
            spans: kept_spans(&self.spans, rows).into(),
            hidden: front(self.hidden)?,
            qkv: front(self.qkv)?,
            attended: front(self.attended)?,
            gate_up: front(self.gate_up)?,
            ..self
        })
    }
}

/// The spans of the rows `rows` alone, ascending: one for each run of neighbours.
fn kept_spans(spans: &[Span], mut rows: &[u32]) -> Vec<Span> {
    let mut kept = Vec::with_capacity(spans.len());
    let mut query_start = 0;
    for span in spans {
        let end = span.query_start + span.query_len;
        let (within, later) = rows.split_at(rows.partition_point(|&row| (row as usize) < end));
        for run in within.chunk_by(|a, b| a + 1 == *b) {
            let position = span.first_position() + run[0] as usize - span.query_start;
            let context_len = position + run.len();
            let block_table = span.block_table[..context_len.div_ceil(BLOCK_SIZE)].to_vec();
            kept.push(Span { query_start, query_len: run.len(), context_len, block_table });
            query_start += run.len();
        }
        rows = later;
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_of_kept_rows_have_their_positions_and_blocks() {
        let span = |query_start, query_len, context_len, block_table: &[u32]| Span {
            query_start,
            query_len,
            context_len,
            block_table: block_table.to_vec(),
        };
        let spans = [span(0, 1, 40, &[7, 8]), span(1, 60, 70, &[1, 2, 3]), span(61, 5, 5, &[4]), span(66, 1, 9, &[5])];
        // Rows 1 to 60 are at the positions 10 to 69.
        let kept = kept_spans(&spans, &[0, 1, 2, 22, 60, 66]);
        let expected = [
            span(0, 1, 40, &[7, 8]),
            span(1, 2, 12, &[1]),
            span(3, 1, 32, &[1]),
            span(4, 1, 70, &[1, 2, 3]),
            span(5, 1, 9, &[5]),
        ];
        assert_eq!(kept, expected);
        assert!(kept_spans(&spans, &[]).is_empty());
    }
}
