//! Thousands of random requests of every kind at once, under plenty and under want.

use std::time::Duration;

use super::simulation::{Client, End, Simulation, VOCAB, options, prompt, request};
use crate::engine::{
    CacheScope, EngineError, EngineOptions, EngineRequest, FinishReason, MockExecutor, MockOptions, Standing,
};

/// Random requests: shared beginnings, bursts of equal prompts, deadlines, priorities, early leavers, heirs.
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
        let deadline = (random.u8(0..10) == 0)
            .then(|| self.simulation.instant(self.simulation.time() + Duration::from_millis(random.u64(0..3000))));
        let stop_token_ids = match random.u8(0..4) {
            0 => {
                let answer = MockExecutor::answer(
                    &MockOptions { vocab_size: VOCAB, ..MockOptions::default() },
                    &tokens,
                    max_tokens,
                );
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

    fn run(mut self, num_requests: usize, load: u32) -> Simulation {
        while self.simulation.clients.len() < num_requests {
            for _ in 0..self.random.u32(0..=load) {
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

fn finished(client: &Client) -> bool {
    matches!(client.end, Some(End::Finished(FinishReason::Length | FinishReason::Stop, _)))
}

#[test]
fn everyone_ends_exactly_once_with_room_for_all() {
    let options = EngineOptions { max_context: 1000, ..options() };
    let simulation = Storm::new(1, options, MockOptions::default()).run(3000, 1);
    let finished = simulation.clients.iter().filter(|client| finished(client)).count();
    assert!(finished > 1500, "only {finished} of 3000 finished");
    assert!(simulation.scheduler.stats().prefix_hits > 0);
}

#[test]
fn everyone_ends_exactly_once_when_blocks_are_short() {
    for seed in 0..6 {
        let starved = EngineOptions {
            num_blocks: 24,
            max_sequences: 12,
            max_tokens_per_step: [13, 64, 300][seed as usize % 3],
            prefix_cache: seed != 5,
            ..options()
        };
        let simulation = Storm::new(100 + seed, starved, MockOptions::default()).run(1500, 1);
        let stats = simulation.scheduler.stats();
        assert!(stats.preemptions > 0, "nothing was short with seed {seed}");
        assert_eq!(stats.prefix_hits > 0, seed != 5);
    }
}

#[test]
fn everyone_ends_exactly_once_with_a_single_slot() {
    let single = EngineOptions { num_blocks: 9, max_sequences: 1, max_tokens_per_step: 40, ..options() };
    Storm::new(7, single, MockOptions::default()).run(800, 1);
}

#[test]
fn failures_take_their_own_batch_and_nothing_else() {
    let options = EngineOptions { num_blocks: 64, max_sequences: 8, ..options() };
    let mock = MockOptions { failing_token: Some(7), not_finite_token: Some(11), ..MockOptions::default() };
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
    let mut storm = Storm::new(3, EngineOptions { max_sequences: 4, ..options() }, MockOptions::default());
    for _ in 0..50 {
        storm.arrive();
    }
    storm.simulation.step();
    storm.simulation.scheduler.fail_all(&EngineError::Stopped);
    storm.simulation.run();
    storm.simulation.check_ends();
    assert!(storm.simulation.clients.iter().any(|client| client.end == Some(End::Failed(EngineError::Stopped))));
}
