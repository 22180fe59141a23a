//! One model's forward pass alone, without engine or sampler: steps of a prompt and of sequences that decode together.
//!
//!     cargo bench --workspace --bench forward [-- model.gguf [case…]]
//!
//! Prints milliseconds of a step (median and best), tokens/s, and bytes of weights read per second of the best step. With
//! `DEVICE=cuda` the steps run on the first card, and its kernels' launches and times are told for each case.
#![expect(clippy::print_stdout, reason = "a table for the reader")]

use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use kernels::{Activations, BLOCK_SIZE, Compute, ComputeOptions, KernelTime, KvCacheType, Span};
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

const CASES: [Case; 14] = [
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
    Case { name: "decode-64", sequences: 64, tokens: 1, context: 160 },
    Case { name: "decode-64-1536", sequences: 64, tokens: 1, context: 1536 },
    Case { name: "prefill-1000", sequences: 1, tokens: 1000, context: 1000 },
];

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with('-'));
    let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/../weights/SmolLM2-135M-Instruct.Q4_1.gguf");
    let path = PathBuf::from(arguments.next().unwrap_or_else(|| demo.to_owned()));
    let chosen: Vec<String> = arguments.collect();
    let threads = std::env::var("THREADS").ok().and_then(|threads| threads.parse().ok());
    let threads = threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));

    let file = ModelFile::open(&path)?;
    let options = ComputeOptions { threads, isa: None, activations: Activations::Int8 };
    let on_card = std::env::var("DEVICE").is_ok_and(|device| device == "cuda");
    let compute = if on_card { Compute::cuda(0, options)? } else { Compute::cpu(options)? };
    let (max_tokens, max_logit_rows) = CASES
        .iter()
        .fold((0, 0), |(tokens, rows), case| (tokens.max(case.sequences * case.tokens), rows.max(case.sequences)));
    let mut model = Model::load(&file, &compute, max_tokens, max_logit_rows, &mut |_| ())?;
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
            finish(&model.forward(&batch, &kv)?)?;
            times.push(step.elapsed().as_secs_f64());
        }
        times.sort_by(f64::total_cmp);
        let (best, median) = (times[0], times[times.len() / 2]);
        let rows = (case.sequences * case.tokens) as f64;
        let bandwidth = model.weight_bytes() as f64 / best / 1e9;
        println!("| {} | {:.2} | {:.2} | {:.0} | {bandwidth:.1} |", case.name, median * 1e3, best * 1e3, rows / median);
        if on_card {
            let kernels = compute.profile(|| model.forward(&batch, &kv).map(drop))?;
            print_kernels(&kernels, model.config().num_layers, median);
        }
    }
    Ok(())
}

/// Waits for a step: its logits are brought to the CPU, of a wide step one row.
fn finish(logits: &Tensor) -> Result<()> {
    logits.narrow(0, 0, 1)?.to_device(&Device::Cpu)?;
    Ok(())
}

/// Launches of a layer, what each kernel takes of a step, and what a step takes besides.
fn print_kernels(times: &[KernelTime], num_layers: usize, step: f64) {
    let mut by_kernel: BTreeMap<&str, (usize, f64)> = BTreeMap::new();
    for KernelTime { kernel, time } in times {
        let (count, total) = by_kernel.entry(kernel).or_default();
        *count += 1;
        *total += time.as_secs_f64();
    }
    let kernels: f64 = by_kernel.values().map(|(_, total)| total).sum();
    let launches = times.len() as f64 / num_layers as f64;
    println!(
        "  {launches:.1} launches a layer; kernels one by one {:.3} ms, the step {:.3} ms",
        kernels * 1e3,
        step * 1e3
    );
    for (kernel, (count, total)) in by_kernel {
        println!("  {kernel:<36} {count:>4} x {:>9.2} us", 1e6 * total / count as f64);
    }
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
