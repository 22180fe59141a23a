//! The whole engine on the demo model: the same tokens whatever runs beside a request, and what batching is worth.
#![expect(clippy::unwrap_used, reason = "tests")]
#![expect(clippy::print_stdout, reason = "figures for the reader")]
#![expect(clippy::await_holding_lock, reason = "a test holds the machine while it measures")]

use std::{
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

#[cfg(any(feature = "cuda", feature = "cuda-emulation"))]
mod card;
mod speculation;

use kernels::{Activations, Compute, ComputeOptions, KvCacheType};
use models::{KvCache, Model, ModelFile};
use steppe::engine::{
    CacheScope, Engine, EngineHandle, EngineOptions, EngineRequest, FinishReason, Generation, ModelRunner,
    SamplingParams, TokenEvent, TokenLogprob,
};

const THREADS: usize = 2;

/// One engine at a time: these tests measure, and share two cores.
static MACHINE: Mutex<()> = Mutex::new(());

fn options() -> EngineOptions {
    EngineOptions {
        max_tokens_per_step: 512,
        max_sequences: 16,
        num_blocks: 512,
        max_context: 4096,
        vocab_size: 49_152,
        queue_capacity: 64,
        max_stall: Duration::from_secs(1),
        prefix_cache: true,
        speculation: true,
        seed: 0,
    }
}

fn demo_model() -> PathBuf {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("weights/SmolLM2-135M-Instruct.Q4_1.gguf");
    assert!(path.exists(), "{} is missing: scripts/test brings it", path.display());
    path
}

fn start(options: EngineOptions) -> EngineHandle {
    start_with(options, KvCacheType::F16)
}

fn start_with(options: EngineOptions, cache_type: KvCacheType) -> EngineHandle {
    let path = demo_model();
    let (rows, logit_rows, blocks) = (options.max_tokens_per_step, options.max_logit_rows(), options.num_blocks);
    let make = move || {
        let file = ModelFile::open(&path)?;
        let compute = Compute::cpu(ComputeOptions { threads: THREADS, isa: None, activations: Activations::Int8 })?;
        let model = Model::load(&file, &compute, rows, logit_rows, &mut |_| {})?;
        let kv = KvCache::new(model.config(), cache_type, blocks, &compute)?;
        ModelRunner::new(model, kv, &compute)
    };
    Engine::start(options, make).unwrap()
}

/// Requests of many kinds and lengths; the first four share a beginning.
fn requests() -> Vec<EngineRequest> {
    let mut random = fastrand::Rng::with_seed(11);
    let shared: Vec<u32> = (0..100).map(|_| random.u32(100..40_000)).collect();
    let request = |index: usize| {
        let own = (0..[3, 40, 90, 200][index % 4]).map(|_| random.u32(100..40_000));
        let prompt = if index < 4 { shared.iter().copied().chain(own).collect() } else { own.collect() };
        let sampling = match index % 5 {
            0 => SamplingParams { temperature: 0.0, logprobs: Some(3), ..SamplingParams::default() },
            1 => SamplingParams { seed: Some(5), logprobs: Some(0), ..SamplingParams::default() },
            2 => SamplingParams { seed: Some(6), top_k: 30, top_p: 0.9, temperature: 0.6, ..SamplingParams::default() },
            3 => SamplingParams { seed: Some(7), repetition_penalty: 1.1, min_p: 0.05, ..SamplingParams::default() },
            _ => SamplingParams { seed: Some(8), typical_p: 0.9, frequency_penalty: 0.5, ..SamplingParams::default() },
        };
        EngineRequest { sampling, prompt_logprobs: (index % 7 == 6).then_some(1), ..request(prompt, 24) }
    };
    (0..16).map(request).collect()
}

fn request(prompt: Vec<u32>, max_tokens: usize) -> EngineRequest {
    EngineRequest {
        prompt,
        sampling: SamplingParams { temperature: 0.0, ..SamplingParams::default() },
        max_tokens,
        min_tokens: 0,
        stop_token_ids: Vec::new(),
        user: 0,
        weight: 1,
        priority: 0,
        scope: CacheScope::default(),
        deadline: None,
        prompt_logprobs: None,
    }
}

/// What an answer says, to the bit.
#[derive(Debug, PartialEq, Default)]
struct Answer {
    tokens: Vec<u32>,
    logprobs: Vec<TokenLogprob>,
    prompt: Vec<Option<TokenLogprob>>,
    /// Why it ended, and the tokens that it is charged for.
    end: Option<(FinishReason, usize)>,
}

async fn answer(mut generation: Generation) -> Answer {
    let mut answer = Answer::default();
    while let Some(event) = generation.next().await {
        match event {
            TokenEvent::Token { id, logprob } => {
                answer.tokens.push(id);
                answer.logprobs.extend(logprob);
            }
            TokenEvent::Prompt(logprobs) => answer.prompt = logprobs,
            TokenEvent::Failed(error) => panic!("{error}"),
            TokenEvent::Finished { reason, usage } => answer.end = Some((reason, usage.completion_tokens)),
            TokenEvent::Started { .. } => {}
        }
    }
    answer
}

async fn together(engine: &EngineHandle) -> Vec<Answer> {
    let generations: Vec<Generation> = requests().into_iter().map(|request| engine.submit(request).unwrap()).collect();
    let mut answers = Vec::new();
    for generation in generations {
        answers.push(answer(generation).await);
    }
    answers
}

#[tokio::test]
async fn an_answer_does_not_depend_on_what_runs_beside_it() {
    let _machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let engine = start(EngineOptions { prefix_cache: false, ..options() });
    let mut alone = Vec::new();
    for request in requests() {
        alone.push(answer(engine.submit(request).unwrap()).await);
    }
    assert!(alone.iter().all(|answer| answer.tokens.len() == 24));
    assert!(alone.iter().any(|answer| !answer.prompt.is_empty()) && alone[0].logprobs.len() == 24);

    assert_eq!(together(&engine).await, alone, "in a batch of 16");
    drop(engine);
    for chunk in [17, 45] {
        let engine = start(EngineOptions { max_tokens_per_step: chunk, ..options() });
        assert_eq!(together(&engine).await, alone, "in chunks of less than {chunk} tokens");
        assert_eq!(together(&engine).await, alone, "with prefixes from the cache");
        let stats = engine.stats();
        assert!(stats.prefix_hits > 500, "{stats:?}");
    }
    let engine = start(EngineOptions { num_blocks: 24, ..options() });
    assert_eq!(together(&engine).await, alone, "in a pool of a quarter of the blocks");
}

#[tokio::test]
async fn prefixes_of_bytes_come_back_from_the_cache() {
    let _machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let engine = start_with(options(), KvCacheType::Q8);
    let first = together(&engine).await;
    let hits = engine.stats().prefix_hits;
    assert_eq!(together(&engine).await, first);
    assert!(engine.stats().prefix_hits > hits + 500, "{:?}", engine.stats());
}

#[tokio::test]
async fn a_preempted_answer_is_the_same() {
    let _machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let prompts: Vec<Vec<u32>> = (0..6u32).map(|i| (0..30).map(|j| 1000 + i * 97 + j * 31).collect()).collect();
    let submit = |engine: &EngineHandle| -> Vec<Generation> {
        let sampling = SamplingParams { seed: Some(3), logprobs: Some(0), ..SamplingParams::default() };
        let request = |prompt: &Vec<u32>| EngineRequest { sampling: sampling.clone(), ..request(prompt.clone(), 150) };
        prompts.iter().map(|prompt| engine.submit(request(prompt)).unwrap()).collect()
    };
    for cache_type in [KvCacheType::F16, KvCacheType::Q8] {
        let mut answers = [Vec::new(), Vec::new()];
        for (answers, num_blocks) in answers.iter_mut().zip([512, 16]) {
            let engine = start_with(EngineOptions { num_blocks, ..options() }, cache_type);
            for generation in submit(&engine) {
                answers.push(answer(generation).await);
            }
            assert_eq!(engine.stats().preemptions > 0, num_blocks == 16, "{:?}", engine.stats());
        }
        assert_eq!(answers[0], answers[1], "over {cache_type}");
    }
}

/// Tokens per second of so many clients together.
async fn throughput(engine: &EngineHandle, clients: u32) -> f64 {
    let begin = Instant::now();
    let generations: Vec<Generation> = (0..clients)
        .map(|client| engine.submit(request((0..16).map(|i| 500 + client * 50 + i).collect(), 64)).unwrap())
        .collect();
    let mut tokens = 0;
    for generation in generations {
        tokens += answer(generation).await.tokens.len();
    }
    tokens as f64 / begin.elapsed().as_secs_f64()
}

#[tokio::test]
async fn eight_clients_together_are_faster_than_one() {
    let _machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let engine = start(options());
    throughput(&engine, 1).await;
    // The machine may be busy with something else for a while: the best of three attempts counts.
    let mut best = 0f64;
    for _ in 0..3 {
        let (one, eight) = (throughput(&engine, 1).await, throughput(&engine, 8).await);
        println!("{one:.0} tokens/s alone, {eight:.0} with 8 clients");
        best = best.max(eight / one);
    }
    assert!(best >= 1.5, "8 clients have {best:.2} times the tokens/s of one");
}

#[tokio::test]
#[ignore = "measures times of a machine that has nothing else to do; scripts/test --long"]
async fn a_long_prompt_does_not_stall_a_stream_beyond_the_limit() {
    let _machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let limit = Duration::from_millis(150);
    let engine = start(EngineOptions { max_stall: limit, ..options() });
    answer(engine.submit(request((0..600).map(|i| 300 + i).collect(), 32)).unwrap()).await;
    let mut best = Duration::MAX;
    for attempt in 0..3 {
        let mut stream = engine.submit(request((0..20).map(|i| 900 + i).collect(), 1000)).unwrap();
        let mut last = Instant::now();
        let (mut step, mut worst) = (Duration::ZERO, Duration::ZERO);
        let mut long = None;
        for token in 0.. {
            let Some(event) = stream.next().await else { break };
            let gap = last.elapsed();
            last = Instant::now();
            if token < 10 || !matches!(event, TokenEvent::Token { .. }) {
                continue;
            }
            match token {
                0..40 => step = step.max(gap),
                40 => {
                    let prompt = (0..2048).map(|i| 1000 + (i * 7 + attempt * 5000) % 30_000).collect();
                    long = Some(tokio::spawn(answer(engine.submit(request(prompt, 2)).unwrap())));
                }
                _ => {
                    worst = worst.max(gap);
                    if long.as_ref().is_none_or(tokio::task::JoinHandle::is_finished) {
                        break;
                    }
                }
            }
        }
        println!("worst gap {worst:?}, ordinary step {step:?}, limit {limit:?}");
        best = best.min(worst.saturating_sub(step));
    }
    assert!(best <= limit, "the stream stood still for {best:?} and a step");
}
