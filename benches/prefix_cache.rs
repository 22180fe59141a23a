//! What a prompt costs the prefix cache: found, missed, and pushed out by others. `cargo bench --bench prefix_cache`.
//! The executor's work on a token is a few nanoseconds; the throughput printed is prompt tokens per second.
#![expect(clippy::unwrap_used, reason = "a bench")]

use std::time::Duration;

use divan::{Bencher, counter::ItemsCount};
use steppe::engine::{
    CacheScope, Engine, EngineHandle, EngineOptions, EngineRequest, MockExecutor, MockOptions, SamplingParams,
};

const VOCAB: u32 = 100_000;
const PROMPT: u32 = 4096;

fn main() {
    divan::main();
}

fn start(num_blocks: usize, prefix_cache: bool) -> EngineHandle {
    let options = EngineOptions {
        max_tokens_per_step: 8192,
        max_sequences: 8,
        num_blocks,
        max_context: 8192,
        vocab_size: VOCAB as usize,
        queue_capacity: 8,
        max_stall: Duration::from_secs(1000),
        prefix_cache,
        speculation: true,
        seed: 0,
    };
    let mock = MockOptions { num_blocks, vocab_size: VOCAB, ..MockOptions::default() };
    Engine::start(options, move || Ok(MockExecutor::new(mock))).unwrap()
}

fn run(engine: &EngineHandle, runtime: &tokio::runtime::Runtime, first: u32) {
    let request = EngineRequest {
        prompt: (0..PROMPT).map(|i| (first + i * 17) % VOCAB).collect(),
        sampling: SamplingParams::default(),
        max_tokens: 1,
        min_tokens: 0,
        stop_token_ids: Vec::new(),
        user: 0,
        weight: 1,
        priority: 0,
        scope: CacheScope::default(),
        deadline: None,
        prompt_logprobs: None,
    };
    let mut generation = engine.submit(request).unwrap();
    runtime.block_on(async { while generation.next().await.is_some() {} });
}

/// `same`: the prompt is in the cache; otherwise it is new and the oldest blocks make room for it.
#[divan::bench(args = [(true, true), (false, true), (false, false)])]
fn prompt(bencher: Bencher, (same, prefix_cache): (bool, bool)) {
    let engine = start(1024, prefix_cache);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut first = 0;
    for warm_up in 0..10 {
        run(&engine, &runtime, warm_up);
    }
    bencher.counter(ItemsCount::new(PROMPT)).bench_local(|| {
        first = if same { 0 } else { (first + 101) % VOCAB };
        run(&engine, &runtime, first);
    });
}
