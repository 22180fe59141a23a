//! Thousands of random requests of every kind at once, under plenty and under want, with answers that repeat themselves
//! and with answers that do not, on a device that waits for its host and on one that does not.

use std::time::Duration;

use super::simulation::{Client, End, Simulation, options, prompt, request};
use crate::engine::{
    CacheScope, EngineError, EngineOptions, EngineRequest, FinishReason, MockExecutor, MockOptions, Standing,
};

/// Random requests: shared beginnings, conversations that go on, bursts of equal prompts, deadlines, priorities, early
/// leavers, heirs.
struct Storm {
    random: fastrand::Rng,
    simulation: Simulation,
    longest: usize,
}

impl Storm {
    fn new(seed: u64, options: EngineOptions, mock: MockOptions) -> Self {
        let longest = options.max_sequence_tokens();
        Self { random: fastrand::Rng::with_seed(seed), simulation: Simulation::with_mock(options, mock), longest }
    }

    fn random_request(&mut self) -> EngineRequest {
        let random = &mut self.random;
        let mut below = |limits: [usize; 3]| {
            let limit = limits[random.usize(0..3)];
            random.usize(0..limit)
        };
        let max_tokens = 1 + below([3, 40, self.longest / 4]);
        let room = self.longest - max_tokens;
        let len = 1 + below([5.min(room), 100.min(room), room]);
        let shared = random.usize(0..=len);
        let mut tokens = prompt(random.u64(0..4), shared);
        tokens.extend(prompt(random.u64(..), len - shared));
        if let Some(client) = random.choice(&self.simulation.clients).filter(|_| random.u8(0..6) == 0) {
            let conversation = client.request.prompt.iter().chain(&client.tokens).chain(&tokens[..len / 4]);
            let conversation: Vec<u32> = conversation.copied().take(room).collect();
            tokens = conversation;
        }
        let deadline = (random.u8(0..10) == 0)
            .then(|| self.simulation.instant(self.simulation.time() + Duration::from_millis(random.u64(0..3000))));
        let stop_token_ids = match random.u8(0..4) {
            0 => {
                let answer = MockExecutor::answer(self.simulation.mock(), &tokens, max_tokens);
                vec![answer[random.usize(0..answer.len())]]
            }
            _ => Vec::new(),
        };
        EngineRequest {
            weight: random.u32(1..4),
            priority: random.i32(-1..2) * random.i32(0..2),
            scope: CacheScope { shared_tokens: random.usize(0..80), tenant: random.u64(0..3) },
            deadline,
            stop_token_ids,
            prompt_logprobs: (random.u8(0..12) == 0).then_some(1),
            ..request(random.u64(0..8), tokens, max_tokens)
        }
    }

    fn arrive(&mut self) {
        let request = self.random_request();
        let copies = if self.random.u8(0..8) == 0 { self.random.usize(2..6) } else { 1 };
        for _ in 0..copies {
            let client = self.simulation.submit(request.clone());
            if self.random.u8(0..6) == 0 {
                self.simulation.clients[client].leaves_after = Some(self.random.usize(0..20));
            }
        }
    }

    /// So many requests, one of them arriving every so many steps.
    fn run(mut self, num_requests: usize, interval: u32) -> Simulation {
        while self.simulation.clients.len() < num_requests {
            if self.random.u32(0..interval) == 0 {
                self.arrive();
            }
            if self.random.u8(0..30) == 0 {
                let client = self.random.usize(0..self.simulation.clients.len().max(1));
                if client < self.simulation.clients.len() {
                    self.simulation.leave(client);
                }
            }
            if self.random.u8(0..10) == 0 {
                // Of any client: waiting, running, at its end, or not there yet.
                let client = self.random.usize(0..self.simulation.clients.len() + 2);
                let (user, weight) = (self.random.u64(0..10), self.random.u32(1..4));
                self.simulation.take_over(client, Standing { user, weight, priority: self.random.i32(-2..3) });
            }
            self.simulation.step();
        }
        self.simulation.run();
        self.simulation.check_ends();
        self.simulation
    }
}

/// The same with steps one after the other and with steps that overlap.
fn in_turn_and_ahead(mock: &MockOptions) -> impl Iterator<Item = MockOptions> {
    [0, 1].into_iter().map(|steps_ahead| MockOptions { steps_ahead, ..mock.clone() })
}

/// Answers that repeat what stands so many tokens before, mostly.
fn quoting(distance: usize) -> MockOptions {
    MockOptions { quotes: Some(distance), ..MockOptions::default() }
}

fn finished(client: &Client) -> bool {
    matches!(client.end, Some(End::Finished(FinishReason::Length | FinishReason::Stop, _)))
}

#[test]
fn everyone_ends_exactly_once_with_room_for_all() {
    for mock in in_turn_and_ahead(&MockOptions::default()) {
        let options = EngineOptions { max_context: 1000, ..options() };
        let simulation = Storm::new(1, options, mock).run(3000, 2);
        let finished = simulation.clients.iter().filter(|client| finished(client)).count();
        assert!(finished > 1500, "only {finished} of 3000 finished");
        assert!(simulation.scheduler.stats().prefix_hits > 0);
    }
}

#[test]
fn everyone_ends_exactly_once_when_blocks_are_short() {
    for seed in 0..12 {
        let starved = EngineOptions {
            num_blocks: 24,
            max_sequences: 12,
            max_tokens_per_step: [13, 64, 300][seed as usize % 3],
            prefix_cache: seed != 5,
            ..options()
        };
        let mock = if seed < 6 { MockOptions::default() } else { quoting(seed as usize) };
        for mock in in_turn_and_ahead(&mock) {
            let simulation = Storm::new(100 + seed, starved.clone(), mock).run(1500, 2);
            let stats = simulation.scheduler.stats();
            assert!(stats.preemptions > 0, "nothing was short with seed {seed}");
            assert_eq!(stats.prefix_hits > 0, seed != 5);
            assert_eq!(stats.accepted_tokens > 0, seed >= 6, "{stats:?}");
        }
    }
}

#[test]
fn everyone_ends_exactly_once_with_a_single_slot() {
    let single = EngineOptions { num_blocks: 9, max_sequences: 1, max_tokens_per_step: 40, ..options() };
    let mocks = [MockOptions::default(), quoting(40)];
    for mock in mocks.iter().flat_map(in_turn_and_ahead) {
        let simulation = Storm::new(7, single.clone(), mock.clone()).run(800, 2);
        assert_eq!(simulation.scheduler.stats().accepted_tokens > 0, mock.quotes.is_some());
    }
}

#[test]
fn everyone_ends_exactly_once_with_many_drafts() {
    for (seed, max_sequences) in [(1, 2), (2, 5), (3, 32)] {
        let few = EngineOptions { max_sequences, num_blocks: 120, max_context: 700, ..options() };
        for mock in in_turn_and_ahead(&quoting(11)) {
            let stats = Storm::new(20 + seed, few.clone(), mock).run(1000, 40).scheduler.stats();
            let wrong = stats.drafted_tokens - stats.accepted_tokens;
            assert!(stats.accepted_tokens > 500 && wrong > 100, "{stats:?}");
        }
    }
}

#[test]
fn failures_take_their_own_batch_and_nothing_else() {
    let mock = MockOptions { failing_token: Some(7), not_finite_token: Some(11), ..quoting(20) };
    in_turn_and_ahead(&mock).for_each(fail_among_others);
}

fn fail_among_others(mock: MockOptions) {
    let options = EngineOptions { num_blocks: 64, max_sequences: 8, ..options() };
    let mut storm = Storm::new(9, options, mock);
    for _ in 0..600 {
        let mut request = storm.random_request();
        match storm.random.u8(0..20) {
            0 => request.prompt[0] = 7,
            1 => request.prompt[0] = 11,
            _ => {}
        }
        storm.simulation.submit(request);
        storm.simulation.step();
    }
    storm.simulation.run();
    storm.simulation.check_ends();
    let ends = |wanted: fn(&EngineError) -> bool| {
        let failed = |client: &&Client| matches!(&client.end, Some(End::Failed(error)) if wanted(error));
        storm.simulation.clients.iter().filter(failed).count()
    };
    assert!(ends(|error| matches!(error, EngineError::Step(_))) > 0);
    assert!(ends(|error| *error == EngineError::NotFinite) > 0);
    assert!(storm.simulation.clients.iter().filter(|client| finished(client)).count() > 300);
}

#[test]
fn stopping_tells_everybody() {
    for (mock, steps) in in_turn_and_ahead(&MockOptions::default()).zip([1, 5]) {
        let mut storm = Storm::new(3, EngineOptions { max_sequences: 4, ..options() }, mock);
        for _ in 0..50 {
            storm.arrive();
        }
        for _ in 0..steps {
            storm.simulation.step();
        }
        storm.simulation.scheduler.fail_all(&EngineError::Stopped);
        storm.simulation.run();
        storm.simulation.check_ends();
        assert!(storm.simulation.clients.iter().any(|client| client.end == Some(End::Failed(EngineError::Stopped))));
    }
}
