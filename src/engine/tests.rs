//! The engine from outside, on the mock executor: threads, channels, endings.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use super::*;

mod encode;
mod overlap;
mod replicas;

const VOCAB: u32 = 1000;

fn options() -> EngineOptions {
    EngineOptions {
        max_tokens_per_step: 128,
        max_sequences: 8,
        num_blocks: 64,
        max_context: 1024,
        vocab_size: VOCAB as usize,
        queue_capacity: 8,
        max_stall: Duration::from_millis(100),
        prefix_cache: true,
        speculation: true,
        seed: 1,
    }
}

fn mock() -> MockOptions {
    MockOptions { num_blocks: 64, vocab_size: VOCAB, ..MockOptions::default() }
}

fn slow(step: Duration) -> MockOptions {
    MockOptions { cost: StepCost { step, ..StepCost::default() }, ..mock() }
}

fn start(mock: MockOptions) -> EngineHandle {
    Engine::start(options(), move || Ok(MockExecutor::new(mock))).unwrap()
}

fn request(prompt: Vec<u32>, max_tokens: usize) -> EngineRequest {
    EngineRequest {
        prompt,
        sampling: SamplingParams::default(),
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

async fn collect(mut generation: Generation) -> Vec<TokenEvent> {
    let mut events = Vec::new();
    while let Some(event) = generation.next().await {
        events.push(event);
    }
    events
}

fn tokens(events: &[TokenEvent]) -> Vec<u32> {
    let id = |event: &TokenEvent| if let TokenEvent::Token { id, .. } = event { Some(*id) } else { None };
    events.iter().filter_map(id).collect()
}

/// Waits for what another thread is about to do.
async fn until(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn an_answer_comes_in_order_and_ends_once() {
    let engine = start(mock());
    let prompt: Vec<u32> = (0..100).collect();
    let events = collect(engine.submit(request(prompt.clone(), 40)).unwrap()).await;
    assert!(matches!(events[0], TokenEvent::Started { cached_tokens: 0, .. }));
    assert_eq!(tokens(&events), MockExecutor::answer(&mock(), &prompt, 40));
    let usage = TokenUsage { prompt_tokens: 100, cached_tokens: 0, completion_tokens: 40 };
    assert_eq!(events[41..], [TokenEvent::Finished { reason: FinishReason::Length, usage }]);
    let again = collect(engine.submit(request(prompt.clone(), 1)).unwrap()).await;
    assert!(matches!(again[0], TokenEvent::Started { cached_tokens: 96, .. }));
    until(|| engine.stats().generation_tokens == 41 && engine.stats().running == 0).await;
    let stats = engine.stats();
    assert_eq!((stats.waiting, stats.kv_blocks_used), (0, 0));
    assert_eq!((stats.prefix_queries, stats.prefix_hits, stats.generation_tokens), (200, 96, 41));
}

#[tokio::test]
async fn a_stop_token_ends_and_is_counted_but_not_told() {
    let prompt = vec![5, 6, 7];
    let answer = MockExecutor::answer(&mock(), &prompt, 5);
    let request = EngineRequest { stop_token_ids: vec![answer[4]], ..request(prompt, 100) };
    let events = collect(start(mock()).submit(request).unwrap()).await;
    assert_eq!(tokens(&events), answer[..4]);
    let usage = TokenUsage { prompt_tokens: 3, cached_tokens: 0, completion_tokens: 5 };
    assert_eq!(events.last(), Some(&TokenEvent::Finished { reason: FinishReason::Stop, usage }));
}

#[tokio::test]
async fn recorded_answers_are_replayed() {
    let mock = MockOptions { replay: [(vec![1, 2], vec![9, 8, 7])].into(), ..mock() };
    let events = collect(start(mock).submit(request(vec![1, 2], 3)).unwrap()).await;
    assert_eq!(tokens(&events), [9, 8, 7]);
}

#[tokio::test]
async fn prompt_logprobs_come_before_the_first_token_and_skip_hits() {
    let engine = start(mock());
    let prompt: Vec<u32> = (0..200).collect();
    let ask = || EngineRequest { prompt_logprobs: Some(2), ..request(prompt.clone(), 2) };
    let first = collect(engine.submit(ask()).unwrap()).await;
    let second = collect(engine.submit(ask()).unwrap()).await;
    let TokenEvent::Prompt(logprobs) = &first[1] else { panic!("{first:?}") };
    assert_eq!((logprobs.len(), logprobs.iter().filter(|entry| entry.is_none()).count()), (200, 1));
    assert!(logprobs[0].is_none() && logprobs[1].as_ref().unwrap().top.len() == 2);
    assert_eq!(first[1..], second[1..]);
    assert!(matches!(second[0], TokenEvent::Started { cached_tokens: 0, .. }));
}

#[tokio::test]
async fn what_can_never_run_is_refused_with_counts() {
    let engine = start(mock());
    let refusal = engine.submit(request(vec![1; 1000], 25)).unwrap_err();
    assert_eq!(refusal, SubmitError::TooLong { needed: 1025, limit: 1024 });
    assert!(matches!(engine.submit(request(vec![], 1)), Err(SubmitError::Invalid(_))));
    assert!(matches!(engine.submit(request(vec![1], 0)), Err(SubmitError::Invalid(_))));
    assert!(matches!(engine.submit(request(vec![VOCAB], 1)), Err(SubmitError::Invalid(_))));
    assert!(matches!(engine.submit(request(vec![1], usize::MAX)), Err(SubmitError::TooLong { .. })));
    let small = Engine::start(EngineOptions { num_blocks: 2, ..options() }, || Ok(MockExecutor::new(mock()))).unwrap();
    let refusal = small.submit(request(vec![1; 60], 5)).unwrap_err();
    assert_eq!(refusal, SubmitError::TooLong { needed: 65, limit: 64 });
}

#[tokio::test]
async fn the_queue_is_bounded_and_says_how_long_it_is() {
    let engine = start(slow(Duration::from_millis(2)));
    let warm_up = collect(engine.submit(request(vec![1], 4)).unwrap()).await;
    assert_eq!(tokens(&warm_up).len(), 4);
    until(|| engine.stats().running == 0).await;
    let mut inside: Vec<Generation> = (0..16).map(|i| engine.submit(request(vec![i], 200)).unwrap()).collect();
    let SubmitError::QueueFull { retry_after } = engine.submit(request(vec![1], 1)).unwrap_err() else { panic!() };
    assert!(retry_after > Duration::ZERO);
    until(|| engine.stats().running == 8).await;
    assert_eq!(engine.stats().waiting, 8);
    inside.truncate(8);
    until(|| engine.stats().waiting == 0).await;
    assert!(engine.submit(request(vec![1], 1)).unwrap().queue_position == 0);
}

#[tokio::test]
async fn dropping_cancels_and_frees() {
    let engine = start(slow(Duration::from_millis(1)));
    let generation = engine.submit(request(vec![1; 64], 900)).unwrap();
    until(|| engine.stats().kv_blocks_used > 0).await;
    drop(generation);
    until(|| engine.stats().running == 0 && engine.stats().kv_blocks_used == 0).await;
    assert!(engine.stats().generation_tokens < 900);
}

#[tokio::test]
async fn a_deadline_ends_the_answer() {
    let engine = start(slow(Duration::from_millis(1)));
    let deadline = Some(Instant::now() + Duration::from_millis(50));
    let events = collect(engine.submit(EngineRequest { deadline, ..request(vec![1], 1000) }).unwrap()).await;
    assert!(matches!(events.last(), Some(TokenEvent::Finished { reason: FinishReason::Deadline, .. })));
    assert!(!tokens(&events).is_empty());
}

#[tokio::test]
async fn a_failing_step_fails_its_batch_only() {
    let engine = start(MockOptions { failing_token: Some(13), ..mock() });
    let events = collect(engine.submit(request(vec![12, 13], 5)).unwrap()).await;
    assert!(
        matches!(&events[1..], [TokenEvent::Failed(EngineError::Step(message))] if message.contains("asked to fail"))
    );
    assert_eq!(tokens(&collect(engine.submit(request(vec![12], 5)).unwrap()).await).len(), 5);
    until(|| engine.stats().generation_tokens == 5 && engine.stats().running == 0).await;
    assert_eq!((engine.stats().failed_steps, engine.stats().kv_blocks_used), (1, 0));
}

#[tokio::test]
async fn not_finite_logits_end_one_request() {
    let engine = start(MockOptions { not_finite_token: Some(13), ..slow(Duration::from_millis(1)) });
    let beside = engine.submit(request(vec![1, 2, 3], 20)).unwrap();
    let events = collect(engine.submit(request(vec![13; 40], 5)).unwrap()).await;
    assert_eq!(events.last(), Some(&TokenEvent::Failed(EngineError::NotFinite)));
    assert_eq!(tokens(&collect(beside).await), MockExecutor::answer(&mock(), &[1, 2, 3], 20));
    until(|| engine.stats().kv_blocks_used == 0).await;
}

#[tokio::test]
async fn a_panic_is_reported_and_nobody_hangs() {
    let engine = start(MockOptions { panicking_token: Some(13), ..slow(Duration::from_millis(1)) });
    let beside = engine.submit(request(vec![1], 900)).unwrap();
    let doomed = engine.submit(request(vec![13], 5)).unwrap();
    for generation in [beside, doomed] {
        assert_eq!(collect(generation).await.last(), Some(&TokenEvent::Failed(EngineError::Stopped)));
    }
    let message = engine.failed().await;
    assert!(message.contains("asked to panic"), "{message}");
    assert_eq!(engine.submit(request(vec![1], 1)).unwrap_err(), SubmitError::Closed);
}

#[tokio::test]
async fn draining_lets_those_inside_finish() {
    let engine = start(slow(Duration::from_millis(1)));
    let generation = engine.submit(request(vec![1], 50)).unwrap();
    engine.drain();
    assert_eq!(engine.submit(request(vec![1], 1)).unwrap_err(), SubmitError::Closed);
    assert_eq!(engine.shutdown(Duration::from_secs(10)).await, EngineState::Stopped);
    assert_eq!(tokens(&collect(generation).await).len(), 50);
}

#[tokio::test]
async fn after_the_grace_the_rest_is_stopped() {
    let engine = start(slow(Duration::from_millis(5)));
    let inside: Vec<Generation> = (0..12).map(|i| engine.submit(request(vec![i], 900)).unwrap()).collect();
    assert_eq!(engine.shutdown(Duration::from_millis(50)).await, EngineState::Stopped);
    for generation in inside {
        assert_eq!(collect(generation).await.last(), Some(&TokenEvent::Failed(EngineError::Stopped)));
    }
}

#[test]
fn an_executor_that_cannot_be_made_is_an_error() {
    let fails = Engine::start(options(), || anyhow::Result::<MockExecutor>::Err(anyhow::anyhow!("no such file")));
    assert!(fails.unwrap_err().to_string().contains("no such file"));
    let panics = Engine::start(options(), || -> anyhow::Result<MockExecutor> { panic!("out of luck") });
    assert!(panics.unwrap_err().to_string().contains("out of luck"));
    let narrow = EngineOptions { max_tokens_per_step: 8, ..options() };
    assert!(Engine::start(narrow, || Ok(MockExecutor::new(mock()))).is_err());
}

/// Counts steps; an idle engine makes none.
struct Counting<'a>(MockExecutor, &'a AtomicUsize);

impl Executor for Counting<'_> {
    type Ticket = <MockExecutor as Executor>::Ticket;

    fn submit(&mut self, batch: &StepBatch) -> anyhow::Result<Self::Ticket> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.submit(batch)
    }

    fn collect(&mut self, ticket: Self::Ticket) -> anyhow::Result<StepOutput> {
        self.0.collect(ticket)
    }
}

#[tokio::test]
async fn an_idle_engine_makes_no_steps() {
    static STEPS: AtomicUsize = AtomicUsize::new(0);
    let engine = Engine::start(options(), || Ok(Counting(MockExecutor::new(mock()), &STEPS))).unwrap();
    collect(engine.submit(request(vec![1], 10)).unwrap()).await;
    let before = STEPS.load(Ordering::Relaxed);
    let cpu = thread_cpu_ticks("engine");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(STEPS.load(Ordering::Relaxed), before);
    assert_eq!(before, 10);
    assert!(thread_cpu_ticks("engine") <= cpu + 40, "engine threads of all tests together");
}

/// CPU time of this process's threads of a name, in ticks of 10 ms.
fn thread_cpu_ticks(name: &str) -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let stat = |task: std::io::Result<std::fs::DirEntry>| std::fs::read_to_string(task.ok()?.path().join("stat")).ok();
    let of_name = tasks.filter_map(stat).filter(|stat| stat.contains(&format!("({name})")));
    let ticks = |stat: String| -> Option<u64> {
        let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
        Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
    };
    of_name.filter_map(ticks).sum()
}
