//! The executor that runs a model: owns weights, KV cache and the sampling state of running sequences, turns a step into
//! the model's rows, and its logits into tokens. Owns the encoder, too. Must not know who waits or why a sequence runs.

use std::panic::{self, AssertUnwindSafe};

use anyhow::{Context, anyhow, bail, ensure};
use kernels::{
    Compute, Span,
    sampling::{SampleKind, SampleOutcome, SampleResults, SampleTask, pending},
};
use models::{Encoder, ForwardBatch, KvCache, Model};

use super::{
    EncoderShape, Executor,
    batch::{LogitRows, SequenceOutput, SequenceStart, SequenceStep, StepBatch, StepOutput},
    chooser::{Chooser, Choosing},
};

/// Runs steps on a model.
#[derive(Debug)]
pub struct ModelRunner {
    model: Model,
    encoder: Option<Encoder>,
    kv: KvCache,
    chooser: Chooser,
    /// Whether a step may take tokens from the chooser that the host has not seen.
    overlaps: bool,
    /// Running sequences by slot.
    sequences: Vec<Option<RunningSequence>>,
    forward: ForwardBatch,
}

#[derive(Debug)]
struct RunningSequence {
    block_table: Vec<u32>,
    /// Kept where log-probabilities of the prompt are asked for, with so many alternatives.
    prompt: Vec<u32>,
    prompt_alternatives: u8,
}

/// A step whose tokens are being chosen.
#[derive(Debug)]
pub struct RunningStep {
    choosing: Choosing,
    /// Slots of its tasks.
    tasks: Vec<usize>,
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
    PromptLogprob { token: u32, alternatives: u8 },
}

impl ModelRunner {
    /// A runner with an empty cache. The model's workspaces must hold
    /// [`EngineOptions::max_tokens_per_step`](super::EngineOptions) rows and
    /// [`EngineOptions::max_logit_rows`](super::EngineOptions::max_logit_rows) rows of logits.
    /// `compute`: the device of the model's logits.
    ///
    /// # Errors
    /// When there is no memory for sampling on it.
    pub fn new(mut model: Model, kv: KvCache, compute: &Compute) -> anyhow::Result<Self> {
        let chooser = Chooser::new(compute, model.config().vocab_size, model.max_logit_rows())?;
        let overlaps = chooser.last_tokens().is_some_and(|tokens| model.take_last_tokens(tokens));
        let (sequences, forward) = (Vec::new(), ForwardBatch::default());
        Ok(Self { model, encoder: None, kv, chooser, overlaps, sequences, forward })
    }

    /// The same with an encoder beside the model.
    #[must_use]
    pub fn with_encoder(self, encoder: Option<Encoder>) -> Self {
        Self { encoder, ..self }
    }

    fn end(&mut self, slot: usize) {
        self.chooser.end(slot);
        if let Some(sequence) = self.sequences.get_mut(slot) {
            *sequence = None;
        }
    }

    fn start(&mut self, start: &SequenceStart) -> anyhow::Result<()> {
        if self.sequences.len() <= start.slot {
            self.sequences.resize_with(start.slot + 1, || None);
        }
        let alternatives = start.spec.prompt_logprobs;
        let prompt = if alternatives.is_some() { start.tokens[..start.prompt_len].to_vec() } else { Vec::new() };
        let prompt_alternatives = alternatives.unwrap_or(0);
        self.sequences[start.slot] = Some(RunningSequence { block_table: Vec::new(), prompt, prompt_alternatives });
        self.chooser.start(start)
    }

    /// Lays the step out as rows; block tables move into the spans and are put back after the step.
    fn prepare(&mut self, batch: &StepBatch) -> anyhow::Result<Vec<Task>> {
        let Self { forward, sequences, overlaps, .. } = self;
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
            ensure!(!step.is_pending || *overlaps, "a token of slot {} is not known", step.slot);
            if step.is_pending {
                forward.token_ids[query_start] = pending(step.slot);
            }
            let blocks;
            (blocks, new_blocks) = new_blocks.split_at(step.num_new_blocks);
            sequence.block_table.extend_from_slice(blocks);
            let block_table = std::mem::take(&mut sequence.block_table);
            let context_len = step.first_position + step.num_tokens;
            forward.spans.push(Span { query_start, query_len: step.num_tokens, context_len, block_table });
            if let LogitRows::All { .. } = step.logits {
                let end = context_len.min(sequence.prompt.len() - 1);
                for position in step.first_position..end {
                    let (token, alternatives) = (sequence.prompt[position + 1], sequence.prompt_alternatives);
                    let kind = TaskKind::PromptLogprob { token, alternatives };
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

    fn choose(&mut self, tasks: &[Task]) -> anyhow::Result<Choosing> {
        let Self { model, kv, chooser, forward, .. } = self;
        let logits = model.forward(forward, kv)?;
        let on_rows = |task: &Task| {
            let kind = match task.kind {
                TaskKind::Sample { num_rows } => {
                    let row = forward.logit_rows[task.first_row] as usize;
                    SampleKind::Sample { drafts: &forward.token_ids[row + 1..row + num_rows], first_mask: None }
                }
                TaskKind::PromptLogprob { token, alternatives } => SampleKind::PromptLogprob { token, alternatives },
            };
            SampleTask { slot: task.slot, first_row: task.first_row, kind }
        };
        chooser.submit(&tasks.iter().map(on_rows).collect::<Vec<_>>(), &logits)
    }
}

impl Executor for ModelRunner {
    type Ticket = RunningStep;

    fn max_steps_in_flight(&self) -> usize {
        if self.overlaps { 2 } else { 1 }
    }

    fn is_fatal(&self, error: &anyhow::Error) -> bool {
        let of_kernels = error.downcast_ref().is_some_and(|error| matches!(error, kernels::Error::CardFailed(_)));
        of_kernels || error.downcast_ref().is_some_and(models::Error::is_card_failure)
    }

    fn submit(&mut self, batch: &StepBatch) -> anyhow::Result<RunningStep> {
        batch.ended.iter().for_each(|&slot| self.end(slot));
        batch.started.iter().try_for_each(|start| self.start(start))?;
        let chosen = self.prepare(batch).and_then(|tasks| Ok((self.choose(&tasks)?, tasks)));
        self.return_block_tables(batch);
        let (choosing, tasks) = chosen?;
        let tasks = tasks.iter().map(|task| task.slot).collect();
        Ok(RunningStep { choosing, tasks, sequences: batch.sequences.clone() })
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

    fn collect(&mut self, step: RunningStep) -> anyhow::Result<StepOutput> {
        let RunningStep { choosing, tasks, sequences } = step;
        let SampleResults { outcomes, tokens } = self.chooser.collect(choosing)?;
        ensure!(outcomes.len() == tasks.len(), "{} outcomes came for {} tasks", outcomes.len(), tasks.len());
        let mut outcomes = tasks.into_iter().zip(outcomes).peekable();
        let mut tokens = tokens.into_iter();
        let mut output = StepOutput::default();
        for step in sequences {
            let (first_token, first_logprob) = (output.tokens.len(), output.prompt_logprobs.len());
            let mut is_finite = true;
            while let Some((_, outcome)) = outcomes.next_if(|(slot, _)| *slot == step.slot) {
                match outcome {
                    SampleOutcome::Tokens(count) => output.tokens.extend(tokens.by_ref().take(count)),
                    SampleOutcome::Logprob(logprob) => output.prompt_logprobs.push(logprob),
                    SampleOutcome::NotFinite | SampleOutcome::NothingAllowed => is_finite = false,
                }
            }
            if !is_finite {
                output.tokens.truncate(first_token);
                output.prompt_logprobs.truncate(first_logprob);
            }
            let tokens = SequenceOutput::Tokens(output.tokens.len() - first_token);
            output.sequences.push(if is_finite { tokens } else { SequenceOutput::NotFinite });
        }
        Ok(output)
    }
}
