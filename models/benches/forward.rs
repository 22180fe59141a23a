//! One model's forward pass alone, without engine or sampler: steps of a prompt and of sequences that decode together.
//!
//!     cargo bench --workspace --bench forward [-- model.gguf [case…]]
//!
//! Prints milliseconds of a step (median and best), tokens/s, and bytes of weights read per second of the best step.
#![expect(clippy::print_stdout, reason = "a table for the reader")]

use std::error::Error;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use kernels::{Activations, BLOCK_SIZE, Compute, ComputeOptions, KvCacheType, Span};
use models::{ForwardBatch, KvCache, Model, ModelFile};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// How long a case is repeated, at least three times.
const CASE: Duration = Duration::from_secs(2);

/// `sequences` spans of `tokens` rows that end at `context`.
struct Case {
    name: &'static str,
    sequences: usize,
    tokens: usize,
    context: usize,
}

const CASES: [Case; 11] = [
    Case { name: "prefill-128", sequences: 1, tokens: 128, context: 128 },
    Case { name: "prefill-512", sequences: 1, tokens: 512, context: 512 },
    Case { name: "prefill-2048", sequences: 1, tokens: 512, context: 2048 },
    Case { name: "decode-1", sequences: 1, tokens: 1, context: 160 },
    Case { name: "decode-2", sequences: 2, tokens: 1, context: 160 },
    Case { name: "decode-4", sequences: 4, tokens: 1, context: 160 },
    Case { name: "decode-8", sequences: 8, tokens: 1, context: 160 },
    Case { name: "decode-16", sequences: 16, tokens: 1, context: 160 },
    Case { name: "decode-32", sequences: 32, tokens: 1, context: 160 },
    Case { name: "decode-1-2048", sequences: 1, tokens: 1, context: 2048 },
    Case { name: "decode-32-1024", sequences: 32, tokens: 1, context: 1024 },
];

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with('-'));
    let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/../weights/SmolLM2-135M-Instruct.Q4_1.gguf");
    let path = PathBuf::from(arguments.next().unwrap_or_else(|| demo.to_owned()));
    let chosen: Vec<String> = arguments.collect();
    let threads = std::env::var("THREADS").ok().and_then(|threads| threads.parse().ok());
    let threads = threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));

    let file = ModelFile::open(&path)?;
    let compute = Compute::cpu(ComputeOptions { threads, isa: None, activations: Activations::Int8 })?;
    let mut model = Model::load(&file, &compute, 512, 32, &mut |_| ())?;
    let (isa, gib) = (compute.isa(), model.weight_bytes() as f64 / f64::from(1 << 30));
    println!("{}: {gib:.2} GiB of packed weights, {isa}, {threads} threads\n", path.display());
    println!("| step | median ms | best ms | tokens/s | weights GB/s |\n|---|---:|---:|---:|---:|");
    for case in CASES.iter().filter(|case| chosen.is_empty() || chosen.iter().any(|name| name == case.name)) {
        let blocks = case.context.div_ceil(BLOCK_SIZE) * case.sequences;
        let kv = KvCache::new(model.config(), KvCacheType::F16, blocks, &compute)?;
        let batch = case.batch();
        let mut times = Vec::new();
        let begin = Instant::now();
        while times.len() < 3 || begin.elapsed() < CASE {
            let step = Instant::now();
            model.forward(&batch, &kv)?;
            times.push(step.elapsed().as_secs_f64());
        }
        times.sort_by(f64::total_cmp);
        let (best, median) = (times[0], times[times.len() / 2]);
        let rows = (case.sequences * case.tokens) as f64;
        let bandwidth = model.weight_bytes() as f64 / best / 1e9;
        println!("| {} | {:.2} | {:.2} | {:.0} | {bandwidth:.1} |", case.name, median * 1e3, best * 1e3, rows / median);
    }
    Ok(())
}

impl Case {
    fn batch(&self) -> ForwardBatch {
        let blocks = self.context.div_ceil(BLOCK_SIZE);
        let span = |i: usize| Span {
            query_start: i * self.tokens,
            query_len: self.tokens,
            context_len: self.context,
            block_table: (0..blocks).map(|block| (block * self.sequences + i) as u32).collect(),
        };
        let rows = self.sequences * self.tokens;
        ForwardBatch {
            token_ids: (0..rows as u32).map(|row| 300 + row * 7919 % 20_000).collect(),
            spans: (0..self.sequences).map(span).collect(),
            logit_rows: (0..self.sequences as u32).map(|i| (i + 1) * self.tokens as u32 - 1).collect(),
        }
    }
}
