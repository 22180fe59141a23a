//! Our forward pass beside stock Candle's quantised Llama on the demo model, in turn within one run:
//! `RAYON_NUM_THREADS=2 cargo bench --bench stock_candle [-- model.gguf]`. Prints tokens/s of both and their ratio.
#![expect(clippy::print_stdout, reason = "a table for the reader")]

use std::{
    error::Error,
    fs::File,
    path::{Path, PathBuf},
    time::Instant,
};

use candle_core::{Device, Tensor, quantized::gguf_file};
use candle_transformers::models::quantized_llama::ModelWeights;
use kernels::{Activations, BLOCK_SIZE, Compute, ComputeOptions, KvCacheType, Span};
use models::{ForwardBatch, KvCache, Model, ModelFile};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const THREADS: usize = 2;
const ROUNDS: usize = 5;
const PROMPTS: [usize; 2] = [128, 512];
const DECODED: usize = 64;

fn main() -> Result<()> {
    let named = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let default = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("weights/SmolLM2-135M-Instruct.Q4_1.gguf");
    let path = named.map_or_else(default, PathBuf::from);
    let mut ours = Ours::load(&path)?;
    let mut stock = Stock::load(&path)?;
    println!("{:<18} {:>14} {:>14} {:>8}", "tokens/s, best", "stock Candle", "ours", "ratio");
    for prompt in PROMPTS {
        let pair = compare(|| stock.step(0, prompt), || ours.step(0, prompt), prompt)?;
        report(&format!("prefill {prompt}"), pair);
    }
    let context = PROMPTS[0];
    stock.step(0, context)?;
    ours.step(0, context)?;
    let decode = |step: &mut dyn FnMut(usize) -> Result<()>| (context..context + DECODED).try_for_each(step);
    let pair = compare(|| decode(&mut |at| stock.step(at, 1)), || decode(&mut |at| ours.step(at, 1)), DECODED)?;
    report(&format!("decode at {context}"), pair);
    Ok(())
}

/// Best tokens/s of each over the rounds, alternating.
fn compare(
    mut stock: impl FnMut() -> Result<()>,
    mut ours: impl FnMut() -> Result<()>,
    tokens: usize,
) -> Result<[f64; 2]> {
    let mut best = [0.0_f64; 2];
    for _ in 0..ROUNDS {
        best[0] = best[0].max(rate(&mut stock, tokens)?);
        best[1] = best[1].max(rate(&mut ours, tokens)?);
    }
    Ok(best)
}

fn rate(run: &mut impl FnMut() -> Result<()>, tokens: usize) -> Result<f64> {
    let begin = Instant::now();
    run()?;
    Ok(tokens as f64 / begin.elapsed().as_secs_f64())
}

fn report(name: &str, [stock, ours]: [f64; 2]) {
    println!("{name:<18} {stock:>14.1} {ours:>14.1} {:>8.2}", ours / stock);
}

/// Some ordinary tokens, the same for both.
fn token_ids(first: usize, count: usize) -> Vec<u32> {
    (first..first + count).map(|position| 300 + (position as u32 * 7919) % 40_000).collect()
}

struct Stock {
    model: ModelWeights,
}

impl Stock {
    fn load(path: &Path) -> Result<Self> {
        let mut file = File::open(path)?;
        let content = gguf_file::Content::read(&mut file)?;
        Ok(Self { model: ModelWeights::from_gguf(content, &mut file, &Device::Cpu)? })
    }

    /// Runs `count` tokens from position `first`; position 0 starts anew.
    fn step(&mut self, first: usize, count: usize) -> Result<()> {
        let input = Tensor::new(token_ids(first, count), &Device::Cpu)?.unsqueeze(0)?;
        self.model.forward(&input, first)?;
        Ok(())
    }
}

struct Ours {
    model: Model,
    kv: KvCache,
}

impl Ours {
    fn load(path: &Path) -> Result<Self> {
        let file = ModelFile::open(path)?;
        let compute = Compute::cpu(ComputeOptions { threads: THREADS, isa: None, activations: Activations::Int8 })?;
        let model = Model::load(&file, &compute, PROMPTS[1], 1, &mut |_| ())?;
        let kv = KvCache::new(model.config(), KvCacheType::F16, 32, &compute)?;
        Ok(Self { model, kv })
    }

    fn step(&mut self, first: usize, count: usize) -> Result<()> {
        let context_len = first + count;
        let block_table = (0..context_len.div_ceil(BLOCK_SIZE) as u32).collect();
        let batch = ForwardBatch {
            token_ids: token_ids(first, count),
            spans: vec![Span { query_start: 0, query_len: count, context_len, block_table }],
            logit_rows: vec![count as u32 - 1],
        };
        self.model.forward(&batch, &self.kv)?;
        Ok(())
    }
}
