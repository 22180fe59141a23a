//! What a step looks like to a model: rows of tokens, the spans they belong to, and the paged cache.

use kernels::{BLOCK_SIZE, KvCacheType, KvLayer, Span, sampling::pending_slot};

use crate::{Error, ModelConfig, Placement, Result};

/// The rows of one step, of all its sequences.
#[derive(Debug, Clone, Default)]
pub struct ForwardBatch {
    /// Token ids, `(num_tokens)`; of tokens that only the device knows, [pending](kernels::sampling::pending) ones.
    pub token_ids: Vec<u32>,
    /// The sequences' parts; together they cover all rows, in order.
    pub spans: Vec<Span>,
    /// Rows whose logits are wanted, ascending.
    pub logit_rows: Vec<u32>,
}

impl ForwardBatch {
    /// Proves the step sound, so that no kernel can reach outside embedding, workspace or cache: spans cover the rows
    /// in order, tables cover their contexts, ids are in range, pending ones in that of `num_slots`.
    pub(crate) fn check(&self, vocab_size: usize, num_blocks: usize, num_slots: usize) -> Result<()> {
        let num_tokens = self.token_ids.len();
        for &id in &self.token_ids {
            match pending_slot(id) {
                None if id as usize >= vocab_size => {
                    return Err(Error::Batch(format!("token {id} is outside the vocabulary of {vocab_size}")));
                }
                Some(slot) if slot >= num_slots => {
                    return Err(Error::Batch(format!("slot {slot} is outside the sampler's {num_slots}")));
                }
                _ => {}
            }
        }
        let mut next_row = 0;
        for span in &self.spans {
            check_span(span, next_row, num_blocks)?;
            next_row += span.query_len;
        }
        if next_row != num_tokens {
            return Err(Error::Batch(format!("spans cover {next_row} of {num_tokens} rows")));
        }
        let ascending = self.logit_rows.is_sorted_by(|a, b| a < b);
        if !ascending || self.logit_rows.last().is_some_and(|&row| row as usize >= num_tokens) {
            return Err(Error::Batch(format!("logit rows are not ascending or not below {num_tokens}")));
        }
        Ok(())
    }
}

fn check_span(span: &Span, next_row: usize, num_blocks: usize) -> Result<()> {
    if span.query_start != next_row || span.query_len == 0 || span.query_len > span.context_len {
        let Span { query_start, query_len, context_len, .. } = span;
        let problem = format!("a span of {query_len} rows at row {query_start} with context {context_len}");
        return Err(Error::Batch(format!("{problem} does not follow row {next_row}")));
    }
    if span.block_table.len() * BLOCK_SIZE < span.context_len {
        let (blocks, context_len) = (span.block_table.len(), span.context_len);
        return Err(Error::Batch(format!("{blocks} blocks do not hold a context of {context_len} tokens")));
    }
    match span.block_table.iter().find(|&&block| block as usize >= num_blocks) {
        Some(block) => Err(Error::Batch(format!("block {block} is outside the cache of {num_blocks}"))),
        None => Ok(()),
    }
}

/// Keys and values of every layer.
#[derive(Debug, Clone)]
pub struct KvCache {
    /// One entry per transformer block.
    pub layers: Vec<KvLayer>,
    /// Blocks in every layer.
    pub num_blocks: usize,
    /// How keys and values are kept.
    pub cache_type: KvCacheType,
}

impl KvCache {
    /// A zeroed cache of `num_blocks` blocks per layer.
    pub fn new(
        config: &ModelConfig,
        cache_type: KvCacheType,
        num_blocks: usize,
        placement: impl Into<Placement>,
    ) -> Result<Self> {
        let (heads, head_dim) = (config.num_kv_heads, config.head_dim);
        let placement = placement.into();
        let stages = placement.stages(config.num_layers).into_iter();
        let devices = stages.flat_map(|(compute, layers)| layers.map(|_| compute.device()));
        let layer = |device| KvLayer::new(num_blocks, heads, head_dim, cache_type, device);
        let layers = devices.map(layer).collect::<kernels::Result<_>>()?;
        Ok(Self { layers, num_blocks, cache_type })
    }

    /// Bytes that one block takes over all layers, keys and values.
    pub fn block_bytes(config: &ModelConfig, cache_type: KvCacheType) -> usize {
        config.num_layers * config.num_kv_heads * 2 * cache_type.half_page_bytes(config.head_dim)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Spoil = fn(&mut ForwardBatch);

    fn sound() -> ForwardBatch {
        let span = |query_start, query_len, context_len, block_table: &[u32]| Span {
            query_start,
            query_len,
            context_len,
            block_table: block_table.to_vec(),
        };
        ForwardBatch {
            token_ids: vec![1, 2, 3, 4],
            spans: vec![span(0, 3, 33, &[0, 1]), span(3, 1, 32, &[2])],
            logit_rows: vec![2, 3],
        }
    }

    #[test]
    fn an_unsound_step_is_refused() {
        assert!(sound().check(5, 3, 0).is_ok());
        let pending = ForwardBatch { token_ids: vec![1, 2, 3, kernels::sampling::pending(1)], ..sound() };
        assert!(pending.check(5, 3, 2).is_ok() && pending.check(5, 3, 1).is_err());
        let broken: [(&str, Spoil); 9] = [
            ("token outside the vocabulary", |b| b.token_ids[1] = 5),
            ("rows of no span", |b| b.token_ids.push(0)),
            ("gap between spans", |b| b.spans[1].query_start = 4),
            ("empty span", |b| b.spans[0].query_len = 0),
            ("context shorter than the query", |b| b.spans[0].context_len = 2),
            ("table shorter than the context", |b| b.spans[1].context_len = 33),
            ("block outside the cache", |b| b.spans[1].block_table[0] = 3),
            ("logits of no row", |b| b.logit_rows[1] = 4),
            ("logits of a row twice", |b| b.logit_rows[0] = 3),
        ];
        for (what, spoil) in broken {
            let mut batch = sound();
            spoil(&mut batch);
            assert!(matches!(batch.check(5, 3, 0), Err(Error::Batch(_))), "{what} was let through");
        }
    }
}
