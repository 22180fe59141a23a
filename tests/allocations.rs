//! A decode step allocates nothing of size: no single allocation of any thread is above 4 KiB, and what all of them come to
//! does not grow with what has been generated. Looked at step by step in the model runner, and over the whole engine.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kernels::{Activations, BLOCK_SIZE, Compute, ComputeOptions, GgmlType, KvCacheType};
use models::random::RandomModel;
use models::{Architecture, KvCache, Model, ModelFile, Recipe};
use steppe::engine::{
    CacheScope, Engine, EngineOptions, EngineRequest, Executor as _, LogitRows, ModelRunner, SamplingParams,
    SamplingSpec, SequenceOutput, SequenceStart, SequenceStep, StepBatch, TokenEvent,
};

struct Counting;

/// Bytes of all allocations, and of the largest one; how many are above [`LARGE`].
static ALLOCATED: AtomicUsize = AtomicUsize::new(0);
static LARGEST: AtomicUsize = AtomicUsize::new(0);
static NUM_LARGE: AtomicUsize = AtomicUsize::new(0);

/// One test at a time: they share the counters.
static COUNTERS: Mutex<()> = Mutex::new(());

// SAFETY: everything is the system allocator's; only counters change.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed);
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        NUM_LARGE.fetch_add(usize::from(layout.size() > LARGE), Ordering::Relaxed);
        // SAFETY: the caller's promise is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const LARGE: usize = 4096;
const THREADS: usize = 3;
const SEQUENCES: usize = 8;
const PROMPT: usize = 5 * BLOCK_SIZE;
const STEPS: usize = 12 * BLOCK_SIZE;
const VOCABULARY: usize = 8192;

fn runner() -> ModelRunner {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let mut made = RandomModel::tiny(Architecture::Qwen3, Recipe::Uniform(GgmlType::Q8_0));
    made.config.vocab_size = VOCABULARY;
    made.write_gguf(&path, &mut |_| {}).unwrap();
    let compute = Compute::cpu(ComputeOptions { threads: THREADS, isa: None, activations: Activations::Int8 }).unwrap();
    let model = Model::load(&ModelFile::open(&path).unwrap(), &compute, 512, SEQUENCES, &mut |_| {}).unwrap();
    let blocks = SEQUENCES * (PROMPT + STEPS).div_ceil(BLOCK_SIZE);
    let kv = KvCache::new(model.config(), KvCacheType::F16, blocks, &compute).unwrap();
    ModelRunner::new(model, kv, &compute).unwrap()
}

/// Sequences that sample in every way that makes lists of its own.
fn sampling(sequence: usize) -> SamplingParams {
    let default = SamplingParams { seed: Some(sequence as u64), ..SamplingParams::default() };
    match sequence % 5 {
        0 => SamplingParams { temperature: 0.0, logprobs: Some(5), ..default },
        1 => default,
        2 => SamplingParams { top_k: 40, top_p: 0.9, ..default },
        3 => SamplingParams { repetition_penalty: 1.1, min_p: 0.05, ..default },
        _ => SamplingParams { typical_p: 0.9, frequency_penalty: 0.5, ..default },
    }
}

fn prompt() -> Vec<u32> {
    (0..PROMPT as u32).map(|i| i * 31 % VOCABULARY as u32).collect()
}

fn start(slot: usize) -> SequenceStart {
    let (params, stop_token_ids) = (sampling(slot), Vec::new());
    let spec = SamplingSpec { params, seed: slot as u64, min_tokens: 0, stop_token_ids, prompt_logprobs: None };
    SequenceStart { slot, spec: Arc::new(spec), tokens: prompt(), prompt_len: PROMPT }
}

#[test]
fn a_decode_step_allocates_nothing_of_size() {
    let _alone = COUNTERS.lock().unwrap_or_else(PoisonError::into_inner);
    let mut runner = runner();
    let mut free = 0..;
    let mut new_blocks = |batch: &mut StepBatch, count: usize| batch.new_blocks.extend(free.by_ref().take(count));
    let step = |slot, first_position, num_tokens, num_new_blocks| SequenceStep {
        slot,
        first_position,
        num_tokens,
        is_pending: false,
        num_new_blocks,
        logits: LogitRows::Last(1),
    };
    let mut last = Vec::new();
    for slot in 0..SEQUENCES {
        let mut batch = StepBatch { started: vec![start(slot)], ..StepBatch::default() };
        batch.token_ids.clone_from(&batch.started[0].tokens);
        batch.sequences.push(step(slot, 0, PROMPT, PROMPT / BLOCK_SIZE));
        new_blocks(&mut batch, PROMPT / BLOCK_SIZE);
        let ticket = runner.submit(&batch).unwrap();
        last.push(runner.collect(ticket).unwrap().tokens[0].id);
    }
    let mut batch = StepBatch::default();
    let mut bytes = Vec::new();
    for position in PROMPT..PROMPT + STEPS {
        batch.clear();
        batch.token_ids.extend_from_slice(&last);
        for slot in 0..SEQUENCES {
            let grows = usize::from(position.is_multiple_of(BLOCK_SIZE));
            batch.sequences.push(step(slot, position, 1, grows));
            new_blocks(&mut batch, grows);
        }
        let counts = position >= PROMPT + BLOCK_SIZE;
        LARGEST.store(0, Ordering::Relaxed);
        let before = ALLOCATED.load(Ordering::Relaxed);
        let ticket = runner.submit(&batch).unwrap();
        let output = runner.collect(ticket).unwrap();
        let allocated = ALLOCATED.load(Ordering::Relaxed) - before;
        assert_eq!(output.sequences, [SequenceOutput::Tokens(1); SEQUENCES]);
        if counts {
            bytes.push((allocated, LARGEST.load(Ordering::Relaxed)));
        }
        last.clear();
        last.extend(output.tokens.iter().map(|token| token.id));
    }
    let large: Vec<_> = bytes.iter().enumerate().filter(|(_, (_, largest))| *largest > LARGE).collect();
    // Which thread meets which row is chance, so that the memory of one may grow late.
    assert!(large.len() <= 2 * THREADS, "steps with allocations above {LARGE} bytes (in all, largest): {large:?}");
    let typical = |steps: &[(usize, usize)]| {
        let mut bytes: Vec<usize> = steps.iter().map(|(allocated, _)| *allocated).collect();
        *bytes.select_nth_unstable(steps.len() / 2).1
    };
    let (first, second) = bytes.split_at(bytes.len() / 2);
    assert_eq!(typical(first), typical(second), "bytes of a step, early and late");
}

/// Scheduler, drafts, prefix cache and channels included; what grows with an answer by doubling may be large now and then.
#[tokio::test]
#[expect(clippy::await_holding_lock, reason = "a test holds the counters while it counts")]
async fn an_engine_that_decodes_allocates_nothing_of_size() {
    let _alone = COUNTERS.lock().unwrap_or_else(PoisonError::into_inner);
    let options = EngineOptions {
        max_tokens_per_step: 512,
        max_sequences: SEQUENCES,
        num_blocks: SEQUENCES * (PROMPT + STEPS).div_ceil(BLOCK_SIZE),
        max_context: PROMPT + STEPS,
        vocab_size: VOCABULARY,
        queue_capacity: SEQUENCES,
        max_stall: Duration::from_secs(1),
        prefix_cache: true,
        speculation: true,
        seed: 0,
    };
    let engine = Engine::start(options, || Ok(runner())).unwrap();
    let request = |index| EngineRequest {
        prompt: prompt(),
        sampling: sampling(index),
        max_tokens: STEPS,
        min_tokens: 0,
        stop_token_ids: Vec::new(),
        user: index as u64,
        weight: 1,
        priority: 0,
        scope: CacheScope::default(),
        deadline: None,
        prompt_logprobs: None,
    };
    let mut answers: Vec<_> = (0..SEQUENCES).map(|index| engine.submit(request(index)).unwrap()).collect();
    let (mut counted_from, mut large) = (None, 0);
    for step in 0..STEPS - 1 {
        for answer in &mut answers {
            while !matches!(answer.next().await.unwrap(), TokenEvent::Token { .. }) {}
        }
        if step == 2 * BLOCK_SIZE {
            counted_from = Some(NUM_LARGE.load(Ordering::Relaxed));
        }
        large = NUM_LARGE.load(Ordering::Relaxed);
    }
    let large = large - counted_from.unwrap();
    assert!(large <= STEPS / 10, "{large} allocations above {LARGE} bytes in {STEPS} steps");
}
