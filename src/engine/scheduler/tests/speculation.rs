//! Drafts: what they save, what they may not disturb, and when there are none.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::time::{Duration, Instant};

use super::simulation::{End, Simulation, VOCAB, options, prompt, request};
use crate::engine::{
    EngineError, EngineOptions, EngineRequest, EngineStats, FinishReason, MockExecutor, MockOptions, StepCost,
    batch::{SampledToken, SequenceOutput, StepBatch, StepOutput},
    scheduler::fair_queue,
};

fn quoting() -> MockOptions {
    MockOptions { quotes: Some(50), vocab_size: VOCAB, ..MockOptions::default() }
}

/// A recorded answer to a recorded prompt.
fn recorded(prompt: &[u32], answer: Vec<u32>) -> MockOptions {
    MockOptions { replay: [(prompt.to_vec(), answer)].into(), ..MockOptions::default() }
}

/// The figures of these requests, all inside from the beginning.
fn run(options: EngineOptions, mock: MockOptions, requests: Vec<EngineRequest>) -> (Simulation, EngineStats) {
    let mut simulation = Simulation::with_mock(options, mock);
    for request in requests {
        simulation.submit(request);
    }
    simulation.run();
    simulation.check_ends();
    let stats = simulation.scheduler.stats();
    (simulation, stats)
}

#[test]
fn an_answer_that_quotes_takes_fewer_steps_and_less_time() {
    let text = prompt(1, 300);
    let copy = || vec![request(1, text.clone(), 300)];
    let quote = |speculation| run(EngineOptions { speculation, ..options() }, recorded(&text, text.clone()), copy());
    let ((slow, without), (fast, with)) = (quote(false), quote(true));
    assert_eq!(without.drafted_tokens, 0);
    assert_eq!(with.generation_tokens, 300);
    assert!(with.steps + 240 < without.steps, "{with:?}");
    assert!(with.accepted_tokens > 240 && with.drafted_tokens - with.accepted_tokens < 20, "{with:?}");
    assert!(fast.time() * 2 < slow.time(), "{:?} with, {:?} without", fast.time(), slow.time());
    assert_eq!(with.computed_tokens, without.computed_tokens, "wrong drafts do not count");
}

#[test]
fn an_answer_that_does_not_repeat_drafts_nothing() {
    let (_, stats) = run(options(), MockOptions::default(), vec![request(1, prompt(1, 500), 500)]);
    assert_eq!(stats.drafted_tokens, 0);
    // Of fifty different tokens every pair has stood before, and says nothing about what follows.
    let mut random = fastrand::Rng::with_seed(5);
    let noise: Vec<u32> = (0..4000).map(|_| random.u32(0..50)).collect();
    let text = noise[..2000].to_vec();
    let (_, stats) = run(options(), recorded(&text, noise[2000..].to_vec()), vec![request(1, text.clone(), 2000)]);
    assert!(stats.drafted_tokens < 60, "{stats:?}");
}

#[test]
fn answers_that_begin_to_quote_late_are_noticed() {
    let mut random = fastrand::Rng::with_seed(6);
    let text = prompt(1, 400);
    let mut answer: Vec<u32> = (0..1000).map(|_| random.u32(0..50)).collect();
    answer.extend(&text);
    let (_, stats) = run(options(), recorded(&text, answer), vec![request(1, text.clone(), 1400)]);
    assert!(stats.accepted_tokens > 300, "{stats:?}");
}

#[test]
fn what_a_draft_must_be_worth_depends_on_who_runs_beside_it() {
    let drafts = |streams: u64, cost: StepCost| {
        let mut simulation = Simulation::with_mock(options(), quoting());
        simulation.cost = cost;
        for user in 0..streams {
            simulation.submit(request(user, prompt(user, 100), 400));
        }
        simulation.run();
        simulation.check_ends();
        let stats = simulation.scheduler.stats();
        stats.drafted_tokens as f64 / stats.generation_tokens as f64
    };
    let reads_weights =
        StepCost { step: Duration::from_millis(40), token: Duration::from_millis(1), ..StepCost::default() };
    let computes =
        StepCost { step: Duration::from_micros(100), token: Duration::from_millis(10), ..StepCost::default() };
    assert!(drafts(1, reads_weights) > 0.7);
    assert!(drafts(4, reads_weights) > 0.3);
    assert!(drafts(1, computes) < 0.1, "a row costs as much as a step");
    assert!(drafts(4, computes) < 0.05);
    let mut many = Simulation::with_mock(options(), quoting());
    for user in 0..9 {
        many.submit(request(user, prompt(user, 10), 300));
    }
    many.run_until(|simulation| simulation.scheduler.num_running() == 9);
    many.run_until(|simulation| simulation.scheduler.num_running() < 9);
    assert_eq!(many.scheduler.stats().drafted_tokens, 0, "further rows are not cheap");
}

#[test]
fn while_prompts_are_read_nothing_is_drafted() {
    let mut simulation =
        Simulation::with_mock(EngineOptions { max_sequences: 2, max_tokens_per_step: 64, ..options() }, quoting());
    let stream = simulation.submit(request(1, prompt(1, 100), 1500));
    simulation.run_until(|simulation| simulation.scheduler.stats().drafted_tokens > 100);
    let before = simulation.scheduler.stats();
    let long = simulation.submit(request(2, prompt(2, 2000), 1));
    simulation.run_until(|simulation| simulation.clients[long].end.is_some());
    assert_eq!(simulation.scheduler.stats().drafted_tokens, before.drafted_tokens);
    assert!(simulation.scheduler.stats().steps > before.steps + 20);
    // Two run; a third waits for a slot, and sooner has it.
    let second = simulation.submit(request(3, prompt(3, 100), 200));
    simulation.step();
    let third = simulation.submit(request(4, prompt(4, 10), 40));
    simulation.run_until(|simulation| simulation.clients[second].end.is_some());
    assert!(simulation.clients[third].tokens.is_empty() && simulation.clients[stream].end.is_none());
    assert!(simulation.scheduler.stats().drafted_tokens > before.drafted_tokens + 50);
    simulation.run();
    simulation.check_ends();
}

#[test]
fn answers_end_where_they_should() {
    let text = prompt(1, 100);
    let copy = |answer: &[u32], max_tokens: usize, stop: Vec<u32>| {
        let request = EngineRequest { stop_token_ids: stop, ..request(1, text.clone(), max_tokens) };
        let (simulation, stats) = run(options(), recorded(&text, answer.to_vec()), vec![request]);
        (simulation.clients[0].tokens.clone(), simulation.clients[0].end.clone().unwrap(), stats)
    };
    for max_tokens in 1..60 {
        let (tokens, end, stats) = copy(&text, max_tokens, Vec::new());
        assert_eq!((&tokens[..], tokens.len()), (&text[..max_tokens], max_tokens));
        assert!(matches!(end, End::Finished(FinishReason::Length, usage) if usage.completion_tokens == max_tokens));
        assert_eq!(stats.generation_tokens as usize, max_tokens);
    }
    for stop in 0..60 {
        let (tokens, end, stats) = copy(&text, 100, vec![text[stop]]);
        assert_eq!(tokens, text[..stop]);
        assert!(matches!(end, End::Finished(FinishReason::Stop, usage) if usage.completion_tokens == stop + 1));
        assert_eq!(stats.generation_tokens as usize, stop + 1);
    }
}

#[test]
fn what_an_executor_samples_behind_the_end_is_not_told() {
    for (max_tokens, stop, told, reason) in [(5, vec![7], 0, FinishReason::Stop), (1, vec![], 1, FinishReason::Length)]
    {
        let mut simulation = Simulation::new(options());
        simulation.submit(EngineRequest { stop_token_ids: stop, ..request(1, prompt(1, 10), max_tokens) });
        let mut batch = StepBatch::default();
        simulation.scheduler.schedule(Instant::now(), &mut batch);
        let output = StepOutput {
            sequences: vec![SequenceOutput::Tokens(2)],
            tokens: [7, 8].map(|id| SampledToken { id, logprob: None }).to_vec(),
            prompt_logprobs: Vec::new(),
        };
        simulation.scheduler.commit(&batch, output, Duration::from_millis(1), Instant::now());
        simulation.run();
        let client = &simulation.clients[0];
        assert_eq!(client.tokens, [7][..told]);
        assert!(matches!(client.end, Some(End::Finished(end, usage)) if (end, usage.completion_tokens) == (reason, 1)));
    }
}

#[test]
fn an_answer_fills_its_context_and_the_pool_to_the_last_token() {
    for (num_blocks, len) in [(8, 100), (8, 97), (9, 255), (5, 64)] {
        let text = prompt(1, len);
        let max_tokens = num_blocks * 32 - len;
        let whole = EngineOptions { num_blocks, max_context: num_blocks * 32, ..options() };
        let (simulation, stats) = run(whole, quoting(), vec![request(1, text, max_tokens)]);
        assert_eq!(simulation.clients[0].tokens.len(), max_tokens);
        assert!(max_tokens < 60 || stats.accepted_tokens > 20, "{stats:?}");
    }
}

#[test]
fn tokens_are_charged_once_however_they_come() {
    let ask = || vec![request(1, prompt(1, 100), 400)];
    let (simulation, stats) = run(options(), quoting(), ask());
    assert!(stats.accepted_tokens > 200 && stats.drafted_tokens > stats.accepted_tokens);
    assert_eq!(simulation.scheduler.queue.service(1), fair_queue::service(100 + 399, 1));
    assert_eq!((stats.computed_tokens, stats.recomputed_tokens), (499, 0));
}

#[test]
fn wrong_drafts_leave_nothing_in_the_cache() {
    let mut simulation = Simulation::with_mock(options(), quoting());
    let first = simulation.submit(request(1, prompt(1, 100), 500));
    simulation.run();
    let stats = simulation.scheduler.stats();
    assert!(stats.drafted_tokens > stats.accepted_tokens + 20, "{stats:?}");
    // Every block of the conversation is found again and goes on as if it had been computed in one piece.
    let conversation = [prompt(1, 100), simulation.clients[first].tokens.clone()].concat();
    for len in [130, 400, 599] {
        let client = simulation.submit(request(1, [&conversation[..len], &[7]].concat(), 50));
        simulation.run();
        assert_eq!(simulation.clients[client].cached_tokens, len / 32 * 32);
    }
    simulation.check_ends();
}

#[test]
fn what_is_not_finite_among_drafts_fails_at_its_own_token() {
    let text: Vec<u32> = prompt(1, 200).into_iter().map(|token| token.max(8)).collect();
    let mut answer = text.clone();
    answer[100] = 7;
    let mock = MockOptions { not_finite_token: Some(7), ..recorded(&text, [&answer[..], &answer].concat()) };
    let (simulation, stats) = run(options(), mock, vec![request(1, text, 400)]);
    assert_eq!(simulation.clients[0].end, Some(End::Failed(EngineError::NotFinite)));
    assert_eq!(simulation.clients[0].tokens, answer[..=100]);
    assert!(stats.accepted_tokens > 50);
}

#[test]
fn an_answer_is_the_mock_s_whoever_runs_beside_it() {
    let requests = |count: u64| (0..count).map(|user| request(user, prompt(user, 60), 200)).collect::<Vec<_>>();
    for count in [1, 2, 4] {
        let (simulation, stats) = run(options(), quoting(), requests(count));
        assert!(stats.accepted_tokens > 0, "{stats:?}");
        for client in &simulation.clients {
            assert_eq!(client.tokens, MockExecutor::answer(simulation.mock(), &client.request.prompt, 200));
        }
    }
}
