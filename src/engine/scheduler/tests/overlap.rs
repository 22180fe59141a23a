//! Steps that overlap: what the device gains by them, what a row costs that nobody wants, and that nothing else differs
//! from steps one after the other.

use std::time::Duration;

use super::simulation::{End, HostCost, Simulation, options, prompt, request};
use crate::engine::{
    EngineError, EngineOptions, EngineRequest, FinishReason, MockExecutor, MockOptions,
    scheduler::{fair_queue::Service, growth::Growth},
};

const USERS: u64 = 5;

fn ms(time: u64) -> Duration {
    Duration::from_millis(time)
}

fn ahead(steps_ahead: usize) -> MockOptions {
    MockOptions { steps_ahead, ..MockOptions::default() }
}

/// A host that needs 3 ms for a step, of which the device's take 5 ms and more.
fn with_host(options: EngineOptions, mock: MockOptions) -> Simulation {
    let mut simulation = Simulation::with_mock(options, mock);
    simulation.host = HostCost { schedule: ms(1), commit: ms(2) };
    simulation
}

fn turns(simulation: &mut Simulation, count: usize) {
    for _ in 0..count {
        assert!(simulation.step());
    }
}

#[test]
fn the_device_never_waits_for_its_host() {
    let run = |steps_ahead| {
        let mut simulation = with_host(options(), ahead(steps_ahead));
        for user in 0..3 {
            simulation.submit(request(user, prompt(user, 40), 200));
        }
        turns(&mut simulation, 50);
        // Prompts on the way do not make it wait either.
        simulation.submit(request(9, prompt(9, 1500), 100));
        simulation.run_until(|simulation| simulation.clients.iter().all(|client| client.tokens.len() > 80));
        simulation
    };
    let (in_turn, overlapping) = (run(0), run(1));
    assert_eq!(in_turn.idle, ms(3) * (in_turn.num_steps as u32 - 1));
    assert_eq!(overlapping.idle, Duration::ZERO);
    let (saved, most) = (in_turn.time().saturating_sub(overlapping.time()), in_turn.idle);
    assert!(saved > most.mul_f64(0.9), "{saved:?} saved of {most:?}");
}

#[test]
fn a_host_slower_than_its_device_is_what_a_step_costs() {
    let mut simulation = with_host(options(), ahead(1));
    simulation.host.commit = ms(20);
    let client = simulation.submit(request(1, prompt(1, 40), 100));
    simulation.run_until(|simulation| simulation.clients[client].tokens.len() == 90);
    let times = &simulation.clients[client].token_times;
    assert!(times[10..].windows(2).all(|pair| pair[1].saturating_sub(pair[0]) == ms(21)), "{times:?}");
}

#[test]
fn only_an_end_that_nobody_could_foresee_wastes_a_row() {
    let text = prompt(1, 50);
    let answer = MockExecutor::answer(Simulation::new(options()).mock(), &text, 20);
    for (stop_token_ids, num_tokens, wasted) in [(vec![answer[9]], 10, 1), (Vec::new(), 20, 0)] {
        for steps_ahead in [0, 1] {
            let mut simulation = Simulation::with_mock(options(), ahead(steps_ahead));
            let stop_token_ids = stop_token_ids.clone();
            simulation.submit(EngineRequest { stop_token_ids, ..request(1, text.clone(), 20) });
            simulation.run();
            simulation.check_ends();
            let computed = 50 + num_tokens - 1;
            let stats = simulation.scheduler.stats();
            assert_eq!((stats.generation_tokens, stats.computed_tokens), (num_tokens, computed));
            assert_eq!(simulation.num_rows as u64, computed + steps_ahead as u64 * wasted);
        }
    }
}

/// What must not depend on whether steps overlap.
#[derive(Debug, PartialEq)]
struct Books {
    answers: Vec<(Vec<u32>, Option<End>)>,
    /// By user.
    charges: Vec<Service>,
    /// Tokens of prompts, generated, and computed for the first time.
    counts: [u64; 3],
}

/// The books of these requests, and how often one was preempted.
fn keep_books(requests: &[EngineRequest], options: EngineOptions, mock: MockOptions) -> (Books, u64) {
    let mut simulation = with_host(options, mock);
    simulation.scheduler.growth = Growth::optimistic();
    for request in requests {
        simulation.submit(request.clone());
    }
    simulation.run();
    simulation.check_ends();
    let stats = simulation.scheduler.stats();
    let books = Books {
        answers: simulation.clients.iter().map(|client| (client.tokens.clone(), client.end.clone())).collect(),
        charges: (0..USERS).map(|user| simulation.scheduler.queue.service(user)).collect(),
        counts: [stats.prompt_tokens, stats.generation_tokens, stats.computed_tokens - stats.recomputed_tokens],
    };
    (books, stats.preemptions)
}

#[test]
fn answers_usage_and_charges_are_those_of_steps_in_turn() {
    let mut random = fastrand::Rng::with_seed(8);
    for round in 0..20 {
        let mut random_request = |seed: u64| {
            let (tokens, max_tokens) = (prompt(seed, random.usize(1..200)), random.usize(1..150));
            let answer = MockExecutor::answer(Simulation::new(options()).mock(), &tokens, max_tokens);
            let stop_token_ids = random.choice(answer).filter(|_| seed.is_multiple_of(2)).into_iter().collect();
            let prompt_logprobs = (seed.is_multiple_of(7)).then_some(1);
            let (priority, weight) = (random.i32(-1..2), random.u32(1..3));
            let request = request(random.u64(0..USERS), tokens, max_tokens);
            EngineRequest { stop_token_ids, weight, priority, prompt_logprobs, ..request }
        };
        let requests: Vec<EngineRequest> = (0..60).map(|seed| random_request(100 * round + seed)).collect();
        let scarce = EngineOptions {
            num_blocks: 30,
            max_sequences: [1, 6, 32][round as usize % 3],
            max_tokens_per_step: [40, 300][round as usize % 2],
            prefix_cache: round % 4 == 0,
            ..options()
        };
        let quotes = (round % 5 == 0).then_some(7);
        let mocks = [0, 1, 2].map(|steps_ahead| MockOptions { quotes, ..ahead(steps_ahead) });
        let [in_turn, overlapping, deeper] = mocks.map(|mock| keep_books(&requests, scarce.clone(), mock));
        assert_eq!((&in_turn.0, &in_turn.0), (&overlapping.0, &deeper.0), "round {round}");
        assert!(scarce.max_sequences == 1 || overlapping.1 > 0, "nothing was short in round {round}");
    }
}

#[test]
fn what_is_in_flight_of_one_who_leaves_is_nobody_s() {
    let mut simulation = Simulation::with_mock(EngineOptions { max_sequences: 2, ..options() }, ahead(1));
    let (stays, leaves) = (request(1, prompt(1, 40), 50), request(2, prompt(2, 40), 50));
    let (stays, leaves) = (simulation.submit(stays), simulation.submit(leaves));
    turns(&mut simulation, 10);
    let next = simulation.submit(request(3, prompt(3, 40), 5));
    let (told, charged) = (simulation.clients[leaves].tokens.len(), simulation.scheduler.queue.service(2));
    simulation.leave(leaves);
    assert!(simulation.submit_step());
    let stats = simulation.scheduler.stats();
    assert_eq!((stats.running, stats.kv_blocks_used), (1, 4), "its blocks are its own, with a row in flight");
    assert!(simulation.collect_step());
    assert_eq!(simulation.scheduler.stats().kv_blocks_used, 2);
    assert!(simulation.clients[next].started.is_none(), "its slot was not free");
    turns(&mut simulation, 1);
    assert!(simulation.clients[next].started.is_some());
    assert_eq!((simulation.clients[leaves].tokens.len(), simulation.scheduler.queue.service(2)), (told, charged));
    simulation.run();
    simulation.check_ends();
    assert_eq!([stays, next].map(|client| simulation.clients[client].tokens.len()), [50, 5]);
}

#[test]
fn a_failed_step_leaves_those_who_came_in_the_step_behind() {
    let mock = MockOptions { failing_token: Some(7), ..ahead(1) };
    let mut simulation = Simulation::with_mock(options(), mock);
    let beside = simulation.submit(request(1, prompt(1, 20), 50));
    let doomed = simulation.submit(request(1, [&prompt(2, 20)[..], &[7]].concat(), 50));
    turns(&mut simulation, 1);
    let behind = simulation.submit(request(2, prompt(3, 40), 50));
    turns(&mut simulation, 1);
    for client in [beside, doomed] {
        let end = simulation.clients[client].end.as_ref();
        assert!(matches!(end, Some(End::Failed(EngineError::Step(_)))), "{end:?}");
    }
    assert_eq!(simulation.scheduler.num_running(), 1);
    simulation.run();
    simulation.check_ends();
    assert_eq!((simulation.clients[behind].tokens.len(), simulation.scheduler.stats().failed_steps), (50, 1));
}

#[test]
fn a_deadline_with_two_steps_in_flight_ends_with_what_was_told() {
    let mut simulation = Simulation::with_mock(options(), ahead(1));
    let deadline = Some(simulation.instant(ms(200)));
    let late = simulation.submit(EngineRequest { deadline, ..request(1, prompt(1, 40), 500) });
    simulation.run();
    simulation.check_ends();
    let Some(End::Finished(FinishReason::Deadline, usage)) = simulation.clients[late].end else { panic!() };
    assert_eq!(simulation.scheduler.stats().generation_tokens, usage.completion_tokens as u64);
    assert!(simulation.time() < ms(220), "{:?}", simulation.time());
}

#[test]
fn where_drafts_are_good_tokens_are_waited_for_and_else_not() {
    let text = prompt(1, 300);
    let run = |answer: Vec<u32>, steps_ahead| {
        let replay = [(text.clone(), answer)].into();
        let mut simulation = with_host(options(), MockOptions { replay, ..ahead(steps_ahead) });
        simulation.submit(request(1, text.clone(), 300));
        simulation.run();
        simulation.check_ends();
        simulation
    };
    let [in_turn, overlapping] = [0, 1].map(|steps_ahead| run(text.clone(), steps_ahead));
    let stats = overlapping.scheduler.stats();
    assert!(stats.accepted_tokens > 230, "{stats:?}");
    assert!(overlapping.time() < in_turn.time() + ms(30), "{:?}, {:?}", overlapping.time(), in_turn.time());
    // Of fifty different tokens every pair has stood before, and says nothing about what follows.
    let mut random = fastrand::Rng::with_seed(5);
    let noise = run((0..300).map(|_| random.u32(0..50)).collect(), 1);
    assert_eq!((noise.idle, noise.scheduler.stats().drafted_tokens), (Duration::ZERO, 0));
}
