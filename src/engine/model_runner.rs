//! The executor that runs a model: owns weights, KV cache and the sampling state of running sequences, turns a step into
//! the model's rows, and its logits into tokens. Owns the encoder, too. Must not know who waits or why a sequence runs.

use std::{
    panic::{self, AssertUnwindSafe},
    sync::{Mutex, OnceLock, PoisonError},
};

use anyhow::{Context, anyhow, bail, ensure};
use candle_core::{CpuStorage, Device, Storage, Tensor};
use kernels::{Compute, Span};
use models::{Encoder, ForwardBatch, KvCache, Model};

use super::{
    EncoderShape, Executor, TokenLogprob,
    batch::{LogitRows, SampledToken, SequenceOutput, SequenceStart, SequenceStep, StepBatch, StepOutput},
    sampler::{NotFinite, SamplerState, Scratch, prompt_logprob},
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
    /// Used by one task of a step.
    sampler: Mutex<SamplerState>,
    /// Kept where log-probabilities of the prompt are asked for, with so many alternatives.
    prompt: Vec<u32>,
    prompt_alternatives: u8,
}

/// Logits of a step, to be sampled before the next one starts.
#[derive(Debug)]
pub struct Logits {
    /// f32 `(logit rows of the step, vocab_size)`.
    values: Tensor,
    tasks: Vec<Task>,
    sequences: Vec<SequenceStep>,
}

/// What rows of logits are for.
#[derive(Debug, Clone, Copy)]
struct Task {
    slot: usize,
    /// Of the step's rows of logits.
    first_row: usize,
    kind: TaskKind,
}

#[derive(Debug, Clone, Copy)]
enum TaskKind {
    /// Sample from the first of so many rows, and from the next one while the token is the one drafted there.
    Sample { num_rows: usize },
    /// Tell how likely this prompt token was.
    PromptLogprob { token: u32 },
}

enum Outcome {
    Tokens(Vec<SampledToken>),
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
        let alternatives = start.spec.prompt_logprobs;
        let prompt = if alternatives.is_some() { start.tokens[..start.prompt_len].to_vec() } else { Vec::new() };
        self.sequences[start.slot] = Some(RunningSequence {
            block_table: Vec::new(),
            sampler: Mutex::new(SamplerState::new(start)),
            prompt,
            prompt_alternatives: alternatives.unwrap_or(0),
        });
    }

    /// Lays the step out as rows; block tables move into the spans and are put back after the step.
    fn prepare(&mut self, batch: &StepBatch) -> anyhow::Result<Vec<Task>> {
        let Self { forward, sequences, .. } = self;
        forward.token_ids.clear();
        forward.token_ids.extend_from_slice(&batch.token_ids);
        forward.spans.clear();
        forward.logit_rows.clear();
        let mut tasks = Vec::with_capacity(batch.sequences.len());
        let (mut query_start, mut new_blocks) = (0, &batch.new_blocks[..]);
        for step in &batch.sequences {
            let Some(sequence) = sequences.get_mut(step.slot).and_then(Option::as_mut) else {
                bail!("slot {} is not in use", step.slot);
            };
            // Steps do not overlap here: the host has every token before the next step.
            ensure!(!step.is_pending, "a token of slot {} is not known", step.slot);
            let blocks;
            (blocks, new_blocks) = new_blocks.split_at(step.num_new_blocks);
            sequence.block_table.extend_from_slice(blocks);
            let block_table = std::mem::take(&mut sequence.block_table);
            let context_len = step.first_position + step.num_tokens;
            forward.spans.push(Span { query_start, query_len: step.num_tokens, context_len, block_table });
            if let LogitRows::All { .. } = step.logits {
                let end = context_len.min(sequence.prompt.len() - 1);
                for position in step.first_position..end {
                    let kind = TaskKind::PromptLogprob { token: sequence.prompt[position + 1] };
                    tasks.push(Task { slot: step.slot, first_row: forward.logit_rows.len(), kind });
                    forward.logit_rows.push((query_start + position - step.first_position) as u32);
                }
            }
            let query_end = query_start + step.num_tokens;
            if step.logits.samples() {
                let num_rows = 1 + step.logits.num_drafts();
                let kind = TaskKind::Sample { num_rows };
                tasks.push(Task { slot: step.slot, first_row: forward.logit_rows.len(), kind });
                forward.logit_rows.extend((query_end - num_rows..query_end).map(|row| row as u32));
            }
            query_start = query_end;
        }
        Ok(tasks)
    }

    fn return_block_tables(&mut self, batch: &StepBatch) {
        for (step, span) in batch.sequences.iter().zip(&mut self.forward.spans) {
            if let Some(sequence) = self.sequences.get_mut(step.slot).and_then(Option::as_mut) {
                sequence.block_table = std::mem::take(&mut span.block_table);
            }
        }
    }

    /// Does a task on `logits`, `(rows, vocab_size)`.
    fn evaluate(&self, task: Task, logits: &[f32], vocab_size: usize) -> Result<Outcome, NotFinite> {
        let lock = || self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        let mut scratch = lock().pop().unwrap_or_default();
        let Some(Some(sequence)) = self.sequences.get(task.slot) else { return Err(NotFinite) };
        let row = |row: usize| &logits[row * vocab_size..][..vocab_size];
        let outcome = match task.kind {
            TaskKind::Sample { num_rows } => {
                let rows = task.first_row..task.first_row + num_rows;
                let drafts = self.forward.logit_rows[rows.clone()].iter().skip(1);
                let drafts = drafts.map(|&row| self.forward.token_ids[row as usize]);
                let mut sampler = sequence.sampler.lock().unwrap_or_else(PoisonError::into_inner);
                sampler.sample_run(rows.map(row), drafts, &mut scratch).map(Outcome::Tokens)
            }
            TaskKind::PromptLogprob { token } => {
                prompt_logprob(row(task.first_row), token, sequence.prompt_alternatives, &mut scratch)
                    .map(Outcome::Logprob)
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
            Ok(tasks) => self.model.forward(&self.forward, &self.kv).map(|logits| (logits, tasks)).map_err(Into::into),
            Err(error) => Err(error),
        };
        self.return_block_tables(batch);
        let (values, tasks) = logits?;
        Ok(Logits { values, tasks, sequences: batch.sequences.clone() })
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
        let Logits { values: logits, tasks, sequences } = ticket;
        let outcomes: Vec<OnceLock<Result<Outcome, NotFinite>>> = tasks.iter().map(|_| OnceLock::new()).collect();
        if !tasks.is_empty() {
            let (num_rows, vocab_size) = logits.dims2()?;
            let logits = logits.to_device(&Device::Cpu)?;
            let (storage, layout) = logits.storage_and_layout();
            let (first, last) = layout.contiguous_offsets().context("logits are not contiguous")?;
            let Storage::Cpu(CpuStorage::F32(values)) = &*storage else { bail!("logits are not f32") };
            let values = &values[first..last];
            let wanted = self.forward.logit_rows.len();
            if num_rows != wanted {
                bail!("{num_rows} rows of logits came for {wanted}");
            }
            self.compute.parallel_for(tasks.len(), |task| {
                let _ = outcomes[task].set(self.evaluate(tasks[task], values, vocab_size));
            });
        }
        let mut outcomes = tasks.iter().zip(outcomes.into_iter().map(OnceLock::into_inner)).peekable();
        let mut output = StepOutput::default();
        for step in sequences {
            let mut outcome = SequenceOutput::Tokens(0);
            let (tokens, logprobs) = (output.tokens.len(), output.prompt_logprobs.len());
            while let Some((_, result)) = outcomes.next_if(|(task, _)| task.slot == step.slot) {
                match result {
                    Some(Ok(Outcome::Tokens(tokens))) => output.tokens.extend(tokens),
                    Some(Ok(Outcome::Logprob(logprob))) => output.prompt_logprobs.push(logprob),
                    Some(Err(NotFinite)) | None => outcome = SequenceOutput::NotFinite,
                }
            }
            if outcome == SequenceOutput::NotFinite {
                output.tokens.truncate(tokens);
                output.prompt_logprobs.truncate(logprobs);
            } else {
                outcome = SequenceOutput::Tokens(output.tokens.len() - tokens);
            }
            output.sequences.push(outcome);
        }
        Ok(output)
    }
}
