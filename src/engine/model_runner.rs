//! The executor that runs a model: owns weights, KV cache and the sampling state of running sequences, turns a step into
//! the model's rows, and its logits into tokens. Owns the encoder, too. Must not know who waits or why a sequence runs.

use std::{
    panic::{self, AssertUnwindSafe},
    sync::{Mutex, OnceLock, PoisonError},
};

use anyhow::{Context, anyhow, bail};
use candle_core::{CpuStorage, Device, Storage, Tensor};
use kernels::{Compute, Span};
use models::{Encoder, ForwardBatch, KvCache, Model};

use super::{
    EncoderShape, Executor, TokenLogprob,
    batch::{LogitRows, SampledToken, SequenceOutput, SequenceStart, SequenceStep, StepBatch, StepOutput},
    sampler::{NotFinite, SamplerState, Scratch},
};

/// Runs steps on a model.
#[derive(Debug)]
pub struct ModelRunner {
    model: Model,
    encoder: Option<Encoder>,
    kv: KvCache,
    compute: Compute,
    /// Running sequences by slot.
    sequences: Vec<Option<RunningSequence>>,
    forward: ForwardBatch,
    scratch: Mutex<Vec<Scratch>>,
}

#[derive(Debug)]
struct RunningSequence {
    block_table: Vec<u32>,
    sampler: SamplerState,
    /// Kept while log-probabilities of the prompt are to be told.
    prompt: Vec<u32>,
}

/// Logits of a step, to be sampled before the next one starts.
#[derive(Debug)]
pub struct Logits {
    /// f32 `(rows.len(), vocab_size)`.
    values: Tensor,
    rows: Vec<Row>,
    sequences: Vec<SequenceStep>,
}

/// What a row of logits is for.
#[derive(Debug, Clone, Copy)]
enum Row {
    Sample { slot: usize },
    PromptLogprob { slot: usize, token: u32 },
}

enum Outcome {
    Token(SampledToken),
    Logprob(TokenLogprob),
}

impl ModelRunner {
    /// A runner with an empty cache. The model's workspaces must hold
    /// [`EngineOptions::max_tokens_per_step`](super::EngineOptions) rows and
    /// [`EngineOptions::max_logit_rows`](super::EngineOptions::max_logit_rows) rows of logits.
    pub fn new(model: Model, kv: KvCache, compute: Compute) -> Self {
        let (sequences, forward) = (Vec::new(), ForwardBatch::default());
        Self { model, encoder: None, kv, compute, sequences, forward, scratch: Mutex::default() }
    }

    /// The same with an encoder beside the model.
    #[must_use]
    pub fn with_encoder(self, encoder: Option<Encoder>) -> Self {
        Self { encoder, ..self }
    }

    fn end(&mut self, slot: usize) {
        if let Some(sequence) = self.sequences.get_mut(slot) {
            *sequence = None;
        }
    }

    fn start(&mut self, start: &SequenceStart) {
        if self.sequences.len() <= start.slot {
            self.sequences.resize_with(start.slot + 1, || None);
        }
        let wants_prompt = start.spec.prompt_logprobs.is_some();
        let prompt = if wants_prompt { start.tokens[..start.prompt_len].to_vec() } else { Vec::new() };
        let sequence = RunningSequence { block_table: Vec::new(), sampler: SamplerState::new(start), prompt };
        self.sequences[start.slot] = Some(sequence);
    }

    /// Lays the step out as rows; block tables move into the spans and are put back after the step.
    fn prepare(&mut self, batch: &StepBatch) -> anyhow::Result<Vec<Row>> {
        let Self { forward, sequences, .. } = self;
        forward.token_ids.clear();
        forward.token_ids.extend_from_slice(&batch.token_ids);
        forward.spans.clear();
        forward.logit_rows.clear();
        let mut rows = Vec::with_capacity(batch.sequences.len());
        let (mut query_start, mut new_blocks) = (0, &batch.new_blocks[..]);
        for step in &batch.sequences {
            let Some(sequence) = sequences.get_mut(step.slot).and_then(Option::as_mut) else {
                bail!("slot {} is not in use", step.slot);
            };
            let blocks;
            (blocks, new_blocks) = new_blocks.split_at(step.num_new_blocks);
            sequence.block_table.extend_from_slice(blocks);
            let block_table = std::mem::take(&mut sequence.block_table);
            let context_len = step.first_position + step.num_tokens;
            forward.spans.push(Span { query_start, query_len: step.num_tokens, context_len, block_table });
            if let LogitRows::All { .. } = step.logits {
                let end = context_len.min(sequence.prompt.len() - 1);
                for position in step.first_position..end {
                    forward.logit_rows.push((query_start + position - step.first_position) as u32);
                    rows.push(Row::PromptLogprob { slot: step.slot, token: sequence.prompt[position + 1] });
                }
            }
            if step.logits.samples() {
                forward.logit_rows.push((query_start + step.num_tokens - 1) as u32);
                rows.push(Row::Sample { slot: step.slot });
            }
            query_start += step.num_tokens;
        }
        Ok(rows)
    }

    fn return_block_tables(&mut self, batch: &StepBatch) {
        for (step, span) in batch.sequences.iter().zip(&mut self.forward.spans) {
            if let Some(sequence) = self.sequences.get_mut(step.slot).and_then(Option::as_mut) {
                sequence.block_table = std::mem::take(&mut span.block_table);
            }
        }
    }

    fn evaluate(&self, row: Row, logits: &[f32]) -> Result<Outcome, NotFinite> {
        let lock = || self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        let mut scratch = lock().pop().unwrap_or_default();
        let (Row::Sample { slot } | Row::PromptLogprob { slot, .. }) = row;
        let Some(Some(sequence)) = self.sequences.get(slot) else { return Err(NotFinite) };
        let outcome = match row {
            Row::Sample { .. } => sequence.sampler.sample(logits, &mut scratch).map(Outcome::Token),
            Row::PromptLogprob { token, .. } => {
                sequence.sampler.prompt_logprob(logits, token, &mut scratch).map(Outcome::Logprob)
            }
        };
        lock().push(scratch);
        outcome
    }
}

impl Executor for ModelRunner {
    type Ticket = Logits;

    fn submit(&mut self, batch: &StepBatch) -> anyhow::Result<Logits> {
        batch.ended.iter().for_each(|&slot| self.end(slot));
        batch.started.iter().for_each(|start| self.start(start));
        let logits = match self.prepare(batch) {
            Ok(rows) => self.model.forward(&self.forward, &self.kv).map(|logits| (logits, rows)).map_err(Into::into),
            Err(error) => Err(error),
        };
        self.return_block_tables(batch);
        let (logits, rows) = logits?;
        Ok(Logits { values: logits, rows, sequences: batch.sequences.clone() })
    }

    fn encoder(&self) -> Option<EncoderShape> {
        let shape = |encoder: &Encoder| EncoderShape {
            dimensions: encoder.dimensions(),
            max_tokens: encoder.max_tokens(),
            vocab_size: encoder.vocab_size(),
        };
        self.encoder.as_ref().map(shape)
    }

    fn encode(&mut self, texts: &[&[u32]]) -> anyhow::Result<Vec<Vec<f32>>> {
        let encoder = self.encoder.as_ref().context("there is no embedding model")?;
        // An encoder keeps nothing between two calls: what goes wrong in it must not end the model beside it.
        let vectors = panic::catch_unwind(AssertUnwindSafe(|| encoder.encode(texts)));
        Ok(vectors.map_err(|_| anyhow!("it has panicked"))??)
    }

    fn collect(&mut self, ticket: Logits) -> anyhow::Result<StepOutput> {
        let Logits { values: logits, rows, sequences } = ticket;
        let outcomes: Vec<OnceLock<Result<Outcome, NotFinite>>> = rows.iter().map(|_| OnceLock::new()).collect();
        if !rows.is_empty() {
            let (num_rows, vocab_size) = logits.dims2()?;
            let logits = logits.to_device(&Device::Cpu)?;
            let (storage, layout) = logits.storage_and_layout();
            let (first, last) = layout.contiguous_offsets().context("logits are not contiguous")?;
            let Storage::Cpu(CpuStorage::F32(values)) = &*storage else { bail!("logits are not f32") };
            let values = &values[first..last];
            if num_rows != rows.len() {
                bail!("{num_rows} rows of logits came for {}", rows.len());
            }
            self.compute.parallel_for(rows.len(), |row| {
                let logits = &values[row * vocab_size..][..vocab_size];
                let _ = outcomes[row].set(self.evaluate(rows[row], logits));
            });
        }
        let mut outcomes = rows.iter().zip(outcomes.into_iter().map(OnceLock::into_inner)).peekable();
        let mut output = StepOutput::default();
        for step in sequences {
            let mut outcome = SequenceOutput::Tokens(0);
            let (tokens, logprobs) = (output.tokens.len(), output.prompt_logprobs.len());
            while let Some((_, result)) = outcomes.next_if(|(row, _)| row.slot() == step.slot) {
                match result {
                    Some(Ok(Outcome::Token(token))) => output.tokens.push(token),
                    Some(Ok(Outcome::Logprob(logprob))) => output.prompt_logprobs.push(logprob),
                    Some(Err(NotFinite)) | None => outcome = SequenceOutput::NotFinite,
                }
            }
            if outcome == SequenceOutput::NotFinite {
                output.tokens.truncate(tokens);
                output.prompt_logprobs.truncate(logprobs);
            } else {
                self.push_tokens(step.slot, &output.tokens[tokens..]);
                outcome = SequenceOutput::Tokens(output.tokens.len() - tokens);
            }
            output.sequences.push(outcome);
        }
        Ok(output)
    }
}

impl ModelRunner {
    fn push_tokens(&mut self, slot: usize, tokens: &[SampledToken]) {
        if let Some(Some(sequence)) = self.sequences.get_mut(slot) {
            for token in tokens {
                sequence.sampler.push(token.id);
            }
        }
    }
}

impl Row {
    fn slot(self) -> usize {
        let (Self::Sample { slot } | Self::PromptLogprob { slot, .. }) = self;
        slot
    }
}
