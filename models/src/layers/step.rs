//! What the layers of a step share, and which rows of it are left at the end.

use candle_core::Tensor;
use kernels::{BLOCK_SIZE, Compute, KvLayer, Residual, RopeTable, Span, StepRows};

use crate::Result;

/// What the layers of one step share: who computes, whose tokens, and the rows they are worked in.
#[derive(Debug)]
pub(crate) struct Step<'a> {
    pub(crate) compute: &'a Compute,
    pub(crate) rope: &'a RopeTable,
    pub(crate) rows: StepRows<'a>,
    /// The rows that are wanted in the end, if not all are.
    pub(crate) kept: Option<StepRows<'a>>,
    /// The residual stream, `(num_tokens, hidden_size)`.
    pub(crate) hidden: Residual,
    /// `(num_tokens, (num_heads + 2 * num_kv_heads) * head_dim)`.
    pub(crate) qkv: Tensor,
    /// Of `num_heads * head_dim` columns, as [`Compute::attended_rows`] makes them.
    pub(crate) attended: Tensor,
    /// Of `intermediate_size` columns, as [`Compute::gated_rows`] makes them.
    pub(crate) gated: Tensor,
}

impl Step<'_> {
    /// Rotates q and k by their positions and writes k and v into `kv`.
    pub(crate) fn store(&self, kv: &KvLayer) -> Result<()> {
        Ok(self.compute.rope_and_store(&self.qkv, self.rope, &self.rows, kv)?)
    }

    /// The step of the wanted rows alone: what `hidden` and `qkv` hold of them moves to the front.
    pub(crate) fn keep_rows(self) -> Result<Self> {
        let Some(kept) = self.kept else { return Ok(self) };
        self.compute.keep_residual(&self.hidden, &kept)?;
        self.compute.keep_rows(&self.qkv, &kept)?;
        Ok(Self {
            rows: kept,
            kept: None,
            hidden: self.hidden.first_rows(kept.len())?,
            qkv: self.qkv.narrow(0, 0, kept.len())?,
            attended: self.compute.first_rows(&self.attended, kept.len())?,
            gated: self.compute.first_rows(&self.gated, kept.len())?,
            ..self
        })
    }
}

/// The spans of the rows `rows` alone, ascending: one for each run of neighbours.
pub(crate) fn kept_spans(spans: &[Span], mut rows: &[u32]) -> Vec<Span> {
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
