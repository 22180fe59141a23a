//! From logits to a token, by parameters, vocabulary and rows of a step: `cargo bench --bench sampler`. Items are rows.
#![expect(clippy::unwrap_used, reason = "a bench")]

use std::fmt::{self, Display};
use std::sync::{Arc, Mutex};

use divan::{Bencher, black_box, counter::ItemsCount};
use kernels::{Activations, Compute, ComputeOptions};
use steppe::engine::{SamplerScratch, SamplerState, SamplingParams, SamplingSpec, SequenceStart};

/// SmolLM2's and Llama 3's.
const VOCABULARIES: [usize; 2] = [49_152, 128_256];
const ROWS: [usize; 2] = [1, 32];
/// Tokens of the context, most of them different ones.
const CONTEXT: usize = 2000;

fn main() {
    divan::main();
}

#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    vocabulary: usize,
    rows: usize,
}

impl Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}, {} rows", self.name, self.vocabulary, self.rows)
    }
}

impl Case {
    fn all() -> impl Iterator<Item = Self> {
        let names = ["greedy", "plain", "saiga", "top_p", "min_p", "typical_p", "logprobs"];
        let sizes = VOCABULARIES.into_iter().flat_map(|vocabulary| ROWS.map(|rows| (vocabulary, rows)));
        sizes.flat_map(move |(vocabulary, rows)| names.map(|name| Self { name, vocabulary, rows }))
    }

    fn params(self) -> SamplingParams {
        let base = SamplingParams { temperature: 0.6, ..SamplingParams::default() };
        match self.name {
            "greedy" => SamplingParams { temperature: 0.0, ..base },
            "saiga" => SamplingParams { top_k: 30, top_p: 0.9, repetition_penalty: 1.1, ..base },
            "top_p" => SamplingParams { top_p: 0.9, ..base },
            "min_p" => SamplingParams { min_p: 0.05, ..base },
            "typical_p" => SamplingParams { typical_p: 0.9, ..base },
            "logprobs" => SamplingParams { logprobs: Some(5), ..base },
            _ => base,
        }
    }

    /// A sequence in the middle of its answer.
    fn state(self) -> SamplerState {
        let spec = SamplingSpec {
            params: self.params(),
            seed: 1,
            min_tokens: 0,
            stop_token_ids: vec![2],
            prompt_logprobs: None,
        };
        let mut random = fastrand::Rng::with_seed(3);
        let tokens = (0..CONTEXT).map(|_| random.u32(..self.vocabulary as u32)).collect();
        SamplerState::new(&SequenceStart { slot: 0, spec: Arc::new(spec), tokens, prompt_len: CONTEXT / 2 })
    }

    /// A bell of logits as language models give, a few of them far out.
    fn logits(self) -> Vec<f32> {
        let mut random = fastrand::Rng::with_seed(4);
        let mut bell = || (0..12).map(|_| random.f32()).sum::<f32>() - 6.0;
        let mut logits: Vec<f32> = (0..self.vocabulary * self.rows).map(|_| 2.5 * bell()).collect();
        for row in logits.chunks_exact_mut(self.vocabulary) {
            (0..40).for_each(|_| row[random.usize(..self.vocabulary)] += 6.0 + 6.0 * random.f32());
        }
        logits
    }
}

#[divan::bench(args = Case::all())]
fn sample(bencher: Bencher, case: Case) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let compute = Compute::cpu(ComputeOptions { threads, isa: None, activations: Activations::Int8 }).unwrap();
    let (state, logits) = (case.state(), case.logits());
    let scratch: Mutex<Vec<SamplerScratch>> = Mutex::default();
    bencher.counter(ItemsCount::new(case.rows)).bench_local(|| {
        compute.parallel_for(case.rows, |row| {
            let logits = &logits[row * case.vocabulary..][..case.vocabulary];
            let mut memory = scratch.lock().unwrap().pop().unwrap_or_default();
            black_box(state.sample(logits, &mut memory).unwrap());
            scratch.lock().unwrap().push(memory);
        });
    });
}
