//! The kernels through the emulation, against a plain sampler that sorts everything.
#![expect(clippy::unwrap_used, reason = "tests")]

mod choices;
mod reference;
mod reports;
mod runs;
mod states;
mod truncations;

use std::sync::Arc;

use candle_core::Tensor;

use super::{DeviceSampler, SamplerSizes};
use crate::gpu::Gpu;
use crate::sampling::{SampleKind, SampleOutcome, SampleResults, SampleTask, SampledToken, SamplerParams};

/// A sampler and the card that it is on.
struct Card {
    gpu: Arc<Gpu>,
    sampler: DeviceSampler,
}

impl Card {
    fn new(vocab: usize, max_rows: usize) -> Self {
        let gpu = Arc::new(Gpu::open(0).unwrap());
        let sizes = SamplerSizes { vocab, max_slots: max_rows, max_rows };
        let sampler = DeviceSampler::new(Arc::clone(&gpu), sizes).unwrap();
        Self { gpu, sampler }
    }

    /// Starts a sequence with an empty answer in each slot.
    fn start_all(&mut self, all: &[SamplerParams<'_>]) {
        for (slot, params) in all.iter().enumerate() {
            self.sampler.end(slot);
            self.sampler.start(slot, params, &[0], &[]).unwrap();
        }
    }

    fn tensor(&self, rows: &[&[f32]]) -> Tensor {
        Tensor::from_vec(rows.concat(), (rows.len(), rows[0].len()), self.gpu.device()).unwrap()
    }

    fn run(&mut self, tasks: &[SampleTask<'_>], rows: &[&[f32]]) -> SampleResults {
        let logits = self.tensor(rows);
        let ticket = self.sampler.run(tasks.iter().copied(), &logits).unwrap();
        let mut results = SampleResults::default();
        self.sampler.collect(ticket, &mut results).unwrap();
        assert_eq!(results.outcomes.len(), tasks.len());
        results
    }

    /// One token for each slot from its row.
    fn step(&mut self, rows: &[&[f32]]) -> Vec<u32> {
        let tasks: Vec<_> = (0..rows.len()).map(|row| sample(row, row, &[])).collect();
        let results = self.run(&tasks, rows);
        assert!(results.outcomes.iter().all(|outcome| *outcome == SampleOutcome::Tokens(1)), "{:?}", results.outcomes);
        ids(&results.tokens)
    }

    /// One token for a sequence without a context.
    fn sample_one(&mut self, params: &SamplerParams<'_>, row: &[f32]) -> SampleResults {
        self.start_all(&[*params]);
        self.run(&[sample(0, 0, &[])], &[row])
    }
}

/// Samples from the row and, while they are right, from those of the drafts.
fn sample(slot: usize, first_row: usize, drafts: &[u32]) -> SampleTask<'_> {
    SampleTask { slot, first_row, kind: SampleKind::Sample { drafts, first_mask: None } }
}

fn ids(tokens: &[SampledToken]) -> Vec<u32> {
    tokens.iter().map(|token| token.id).collect()
}

/// Logits of so many levels: with few, many are equal.
fn random_row(random: &mut fastrand::Rng, len: usize, spread: f32, levels: u32) -> Vec<f32> {
    (0..len).map(|_| spread * random.u32(..levels) as f32 / levels as f32 - spread / 3.0).collect()
}
