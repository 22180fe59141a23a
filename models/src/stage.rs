//! Consecutive layers on one device, and the ends of the model that belong to them, with the tensors that their steps
//! work in: made once, viewed by each step at its number of rows.

use std::ops::Range;

use candle_core::{DType, Tensor};
use kernels::{
    AttentionShape, BLOCK_SIZE, CardInfo, Compute, Recordings, Residual, RopeTable, StepCapacity, StepMemory, StepRows,
};

use crate::{
    KvCache, ModelConfig, Result,
    arch::Blocks,
    layers::{Embedding, Head, Step},
    weights::Weights,
};

/// Layers of a model on one device.
#[derive(Debug)]
pub(crate) struct Stage {
    compute: Compute,
    layers: Range<usize>,
    /// Of the first stage.
    embedding: Option<Embedding>,
    blocks: Blocks,
    /// Of the last one.
    head: Option<Head>,
    shape: AttentionShape,
    hidden: Residual,
    qkv: Tensor,
    attended: Tensor,
    gated: Tensor,
    /// For the cache that the last step had.
    steps: Option<Steps>,
}

/// What goes with one cache.
#[derive(Debug)]
struct Steps {
    shape: AttentionShape,
    capacity: StepCapacity,
    memory: StepMemory,
    recordings: Recordings,
}

/// Rows of a step at most, and rows of its logits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MaxRows {
    pub(crate) tokens: usize,
    pub(crate) logits: usize,
}

impl Stage {
    /// Reads and packs the weights of `layers`, with the embedding before the first and the head behind the last.
    pub(crate) fn load(weights: &mut Weights, compute: &Compute, layers: Range<usize>, max: MaxRows) -> Result<Self> {
        let config = weights.config();
        weights.pack_for(compute);
        let embedding = if layers.start == 0 { Some(Embedding::load(weights)?) } else { None };
        let is_last = layers.end == config.num_layers;
        let head = if is_last { Some(Head::load(weights, embedding.as_ref(), max.logits)?) } else { None };
        let blocks = Blocks::load(weights, layers.clone())?;
        let [hidden, qkv, attended, gated] = widths(config);
        let rows = |columns: usize| Tensor::zeros((max.tokens, columns), DType::F32, compute.device());
        compute.reserve(gated)?;
        Ok(Self {
            compute: compute.clone(),
            layers,
            embedding,
            blocks,
            head,
            shape: AttentionShape {
                num_heads: config.num_heads,
                num_kv_heads: config.num_kv_heads,
                head_dim: config.head_dim,
                cache_type: kernels::KvCacheType::default(),
                window: config.sliding_window,
            },
            hidden: compute.residual(rows(hidden)?)?,
            qkv: rows(qkv)?,
            attended: compute.attended_rows(max.tokens, attended)?,
            gated: compute.gated_rows(max.tokens, gated)?,
            steps: None,
        })
    }

    /// Bytes of the tensors of steps on the CPU, without those of the head.
    pub(crate) fn bytes(config: &ModelConfig, max_tokens: usize) -> usize {
        let [hidden, qkv, attended, gated] = widths(config);
        max_tokens * (hidden + qkv + attended + 2 * gated) * size_of::<f32>()
    }

    /// The same on a card.
    pub(crate) fn card_bytes(config: &ModelConfig, max_tokens: usize) -> usize {
        let [hidden, qkv, attended, gated] = widths(config);
        let operand = |columns| CardInfo::operand_bytes(max_tokens, columns);
        let residual = CardInfo::residual_bytes(max_tokens, hidden);
        max_tokens * (hidden + qkv) * size_of::<f32>() + residual + operand(attended) + operand(gated)
    }

    /// Runs a step of these rows, of which only those of `kept` are wanted in the end, if it is there. `before`: what
    /// the stage before has left in `hidden`.
    pub(crate) fn forward(
        &mut self,
        rope: &RopeTable,
        (rows, kept): (StepRows<'_>, Option<StepRows<'_>>),
        kv: &KvCache,
        before: Option<&Tensor>,
    ) -> Result<()> {
        let padded_rows = if kept.is_none() { self.padded_rows(rows.len()) } else { rows.len() };
        let Self { compute, layers, embedding, blocks, head, shape, hidden, qkv, attended, gated, steps } = self;
        let (compute, shape) = (&*compute, AttentionShape { cache_type: kv.cache_type, ..*shape });
        let max_rows = qkv.dims()[0];
        let (hidden, qkv) = (hidden.first_rows(padded_rows)?, qkv.narrow(0, 0, padded_rows)?);
        let attended = compute.first_rows(attended, padded_rows)?;
        let gated = compute.first_rows(gated, padded_rows)?;
        let steps = Steps::reach(steps, compute, rope, shape, (max_rows, &rows, kv.num_blocks))?;
        let (rows, kept) = steps.memory.fill(compute, rows, kept, padded_rows)?;
        if let Some(before) = before {
            compute.receive(before, hidden.rows())?;
        }
        let recording = rows.recording_key().filter(|_| kept.is_none());
        let step = Step { compute, rope, rows, kept, hidden, qkv, attended, gated };
        let work = || {
            if let Some(embedding) = embedding {
                embedding.embed(&step)?;
            }
            let step = blocks.forward(step, &kv.layers[layers.clone()], head.as_ref().map(Head::norm))?;
            head.as_ref().map_or(Ok(()), |head| head.project(&step))
        };
        match recording {
            Some(key) => compute.run_recorded(&mut steps.recordings, key, work),
            None => work(),
        }
    }

    /// Lets the embedding find pending tokens, if it is on a card.
    pub(crate) fn take_last_tokens(&mut self, last_tokens: &Tensor) -> bool {
        match &mut self.embedding {
            Some(embedding) if self.compute.card().is_some() => {
                embedding.set_last_tokens(last_tokens.clone());
                true
            }
            _ => false,
        }
    }

    /// Slots that may have pending tokens.
    pub(crate) fn num_slots(&self) -> usize {
        self.embedding.as_ref().map_or(0, Embedding::num_slots)
    }

    /// What the stage has left of so many rows, for the next one.
    pub(crate) fn hidden(&self, num_rows: usize) -> Result<Tensor> {
        Ok(self.hidden.rows().narrow(0, 0, num_rows)?)
    }

    /// Logits of so many rows, f32 `(num_rows, vocab_size)`; `None` unless this is the last stage.
    pub(crate) fn logits(&self, num_rows: usize) -> Option<Result<Tensor>> {
        self.head.as_ref().map(|head| head.logits(num_rows))
    }

    /// Rows that a step of so many is worked on as, all of them with logits: on a card the next of few numbers, for each
    /// of which a step is recorded.
    fn padded_rows(&self, num_rows: usize) -> usize {
        if self.compute.card().is_none() {
            return num_rows;
        }
        let padded = match num_rows {
            0..=8 => num_rows.next_power_of_two(),
            9..=64 => num_rows.next_multiple_of(8),
            _ => num_rows.next_multiple_of(32),
        };
        let room = self.head.as_ref().map_or(usize::MAX, Head::max_rows).min(self.qkv.dims()[0]);
        padded.min(room).max(num_rows)
    }
}

impl Steps {
    /// Makes room for a step over a cache of `cache_blocks`, unless there is.
    fn reach<'a>(
        steps: &'a mut Option<Self>,
        compute: &Compute,
        rope: &RopeTable,
        shape: AttentionShape,
        (max_rows, rows, cache_blocks): (usize, &StepRows<'_>, usize),
    ) -> Result<&'a mut Self> {
        let span_blocks: usize = rows.spans().iter().map(|span| span.context_len.div_ceil(BLOCK_SIZE)).sum();
        let fits = |steps: &Self| {
            let StepCapacity { span_blocks: room, cache_blocks: known, .. } = steps.capacity;
            steps.shape == shape && known == cache_blocks && span_blocks <= room
        };
        if !steps.as_ref().is_some_and(fits) {
            // Sequences that share a prefix name its blocks each, so that there can be more than the cache has.
            let span_blocks = span_blocks.next_power_of_two().max(cache_blocks);
            let capacity = StepCapacity { rows: max_rows, spans: max_rows, span_blocks, cache_blocks };
            let memory = StepMemory::new(compute, rope, shape, capacity)?;
            *steps = Some(Self { shape, capacity, memory, recordings: Recordings::default() });
        }
        Ok(steps.as_mut().unwrap_or_else(|| unreachable!("it was just made")))
    }
}

/// Columns of hidden, qkv, attended and gated rows.
pub(crate) fn widths(config: &ModelConfig) -> [usize; 4] {
    let q_size = config.num_heads * config.head_dim;
    let kv_size = config.num_kv_heads * config.head_dim;
    [config.hidden_size, q_size + 2 * kv_size, q_size, config.intermediate_size]
}
