//! Chooses on the processor: a task for each thread at a time.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use anyhow::{Context, bail};
use candle_core::{CpuStorage, Storage, Tensor};
use kernels::{
    Compute,
    sampling::{SampleKind, SampleOutcome, SampleResults, SampleTask, SampledToken},
};

use crate::engine::{
    NotFinite, SamplerScratch, SamplerState, TokenLogprob, batch::SequenceStart, sampler::prompt_logprob,
};

/// States by slot, and the threads' memory.
#[derive(Debug)]
pub(crate) struct HostChooser {
    compute: Compute,
    /// Each is used by one task of a step.
    states: Vec<Option<Mutex<SamplerState>>>,
    scratch: Mutex<Vec<SamplerScratch>>,
}

enum Outcome {
    Tokens(Vec<SampledToken>),
    Logprob(TokenLogprob),
}

impl HostChooser {
    pub fn new(compute: Compute) -> Self {
        Self { compute, states: Vec::new(), scratch: Mutex::default() }
    }

    pub fn start(&mut self, start: &SequenceStart) {
        if self.states.len() <= start.slot {
            self.states.resize_with(start.slot + 1, || None);
        }
        self.states[start.slot] = Some(Mutex::new(SamplerState::new(start)));
    }

    pub fn end(&mut self, slot: usize) {
        if let Some(state) = self.states.get_mut(slot) {
            *state = None;
        }
    }

    pub fn choose(&self, tasks: &[SampleTask<'_>], logits: &Tensor) -> anyhow::Result<SampleResults> {
        let mut results = SampleResults::default();
        if tasks.is_empty() {
            return Ok(results);
        }
        let (_, vocab_size) = logits.dims2()?;
        let (storage, layout) = logits.storage_and_layout();
        let (first, last) = layout.contiguous_offsets().context("logits are not contiguous")?;
        let Storage::Cpu(CpuStorage::F32(values)) = &*storage else { bail!("logits are not f32 of the processor") };
        let rows: Vec<&[f32]> = values[first..last].chunks_exact(vocab_size).collect();
        let outcomes: Vec<OnceLock<Result<Outcome, NotFinite>>> = tasks.iter().map(|_| OnceLock::new()).collect();
        self.compute.parallel_for(tasks.len(), |task| {
            let _ = outcomes[task].set(self.evaluate(&tasks[task], &rows));
        });
        for outcome in outcomes {
            results.outcomes.push(match outcome.into_inner() {
                Some(Ok(Outcome::Tokens(tokens))) => {
                    let count = tokens.len();
                    results.tokens.extend(tokens);
                    SampleOutcome::Tokens(count)
                }
                Some(Ok(Outcome::Logprob(logprob))) => SampleOutcome::Logprob(logprob),
                Some(Err(NotFinite)) | None => SampleOutcome::NotFinite,
            });
        }
        Ok(results)
    }

    fn evaluate(&self, task: &SampleTask<'_>, rows: &[&[f32]]) -> Result<Outcome, NotFinite> {
        let mut scratch = lock(&self.scratch).pop().unwrap_or_default();
        let rows = rows.get(task.first_row..).unwrap_or_default();
        let outcome = match (task.kind, self.states.get(task.slot)) {
            (SampleKind::Sample { drafts, .. }, Some(Some(state))) => {
                let rows = rows.iter().take(1 + drafts.len()).copied();
                lock(state).sample_run(rows, drafts.iter().copied(), &mut scratch).map(Outcome::Tokens)
            }
            (SampleKind::PromptLogprob { token, alternatives }, _) if !rows.is_empty() => {
                prompt_logprob(rows[0], token, alternatives, &mut scratch).map(Outcome::Logprob)
            }
            _ => Err(NotFinite),
        };
        lock(&self.scratch).push(scratch);
        outcome
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
