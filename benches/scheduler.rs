//! What the engine itself costs: steps of many streams on an executor whose own work is next to nothing.
//! `cargo bench --bench scheduler`. The throughput printed is steps per second of schedule, mock execution, commit and
//! events together.
#![expect(clippy::unwrap_used, reason = "a bench")]

use std::time::Duration;

use divan::{Bencher, counter::ItemsCount};
use steppe::engine::{
    CacheScope, Engine, EngineHandle, EngineOptions, EngineRequest, Generation, MockExecutor, MockOptions,
    SamplingParams, TokenEvent,
};

const VOCAB: u32 = 100_000;
const STEPS: usize = 200;

fn main() {
    divan::main();
}

fn start(max_sequences: usize, num_blocks: usize) -> EngineHandle {
    let options = EngineOptions {
        max_tokens_per_step: 1 << 20,
        max_sequences,
        num_blocks,
        max_context: 1 << 17,
        vocab_size: VOCAB as usize,
        queue_capacity: 1 << 20,
        max_stall: Duration::from_secs(1000),
        prefix_cache: true,
        speculation: true,
        seed: 0,
    };
    let mock = MockOptions { num_blocks, vocab_size: VOCAB, ..MockOptions::default() };
    Engine::start(options, move || Ok(MockExecutor::new(mock))).unwrap()
}

fn request(user: u64, first: u32, len: u32, max_tokens: usize) -> EngineRequest {
    EngineRequest {
        prompt: (0..len).map(|i| (first + i * 17) % VOCAB).collect(),
        sampling: SamplingParams::default(),
        max_tokens,
        min_tokens: 0,
        stop_token_ids: Vec::new(),
        user,
        weight: 1,
        priority: 0,
        scope: CacheScope::default(),
        deadline: None,
        prompt_logprobs: None,
    }
}

fn finish(generations: Vec<Generation>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        for mut generation in generations {
            while let Some(event) = generation.next().await {
                assert!(!matches!(event, TokenEvent::Failed(_)));
            }
        }
    });
}

/// Streams that all run, with a context of so many tokens.
#[divan::bench(args = [(16, 64), (256, 64), (256, 4096)], sample_count = 10)]
fn running_streams(bencher: Bencher, (streams, context): (u32, u32)) {
    let engine = start(streams as usize, streams as usize * (context as usize + STEPS).div_ceil(32));
    bencher.counter(ItemsCount::new(STEPS)).bench_local(|| {
        let submit = |stream| engine.submit(request(u64::from(stream % 20), stream * 7919, context, STEPS)).unwrap();
        finish((0..streams).map(submit).collect());
    });
}

/// The same with a long queue of many users behind them.
#[divan::bench(args = [1000, 10_000], sample_count = 5)]
fn running_beside_a_queue(bencher: Bencher, waiting: u32) {
    let engine = start(64, 64 * 9);
    let long = |stream: u32| engine.submit(request(u64::from(stream), stream * 7919, 64, STEPS)).unwrap();
    bencher.counter(ItemsCount::new(STEPS)).bench_local(|| {
        let running: Vec<Generation> = (0..64).map(long).collect();
        let queue = (0..waiting).map(|i| engine.submit(request(u64::from(i % 500), i * 31, 40, STEPS)).unwrap());
        let queue: Vec<Generation> = queue.collect();
        finish(running);
        drop(queue);
    });
}
