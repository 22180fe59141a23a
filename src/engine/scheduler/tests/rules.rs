//! The rules of the schedule one by one: who goes first, what is charged, what is given up and for whom.

use std::time::Duration;

use super::simulation::{End, Simulation, options, prompt, request};
use crate::engine::{
    EngineError, EngineOptions, EngineRequest, FinishReason, MockExecutor, MockOptions,
    scheduler::{fair_queue, growth::Growth},
};

fn ended_by_deadline(simulation: &Simulation, client: usize) -> bool {
    matches!(simulation.clients[client].end, Some(End::Finished(FinishReason::Deadline, _)))
}

#[test]
fn what_is_computed_again_is_counted_and_not_charged() {
    let options = EngineOptions { num_blocks: 30, max_sequences: 10, prefix_cache: false, ..options() };
    let mut simulation = Simulation::new(options);
    simulation.scheduler.growth = Growth::optimistic();
    for seed in 0..10 {
        simulation.submit(request(1, prompt(seed, 84), 300));
    }
    simulation.run();
    simulation.check_ends();
    let stats = simulation.scheduler.stats();
    let once = 10 * (84 + 299);
    assert!(stats.preemptions > 0);
    assert_eq!(stats.computed_tokens - stats.recomputed_tokens, once as u64);
    assert_eq!(simulation.scheduler.queue.service(1), fair_queue::service(once, 1));
}

#[test]
fn the_schedule_learns_how_long_answers_are() {
    let mut simulation = Simulation::new(options());
    for seed in 0..150 {
        let prompt = prompt(seed, 20);
        let answer = MockExecutor::answer(simulation.mock(), &prompt, 10);
        let stop_token_ids = vec![answer[9]];
        simulation.submit(EngineRequest { stop_token_ids, ..request(1, prompt, 200) });
    }
    simulation.run();
    simulation.check_ends();
    let expected = simulation.scheduler.growth.expected(0, 1000);
    assert!(expected < 150, "answers of 5 % of what was asked for, {expected} of 1,000 are expected");
}

#[test]
fn a_prompt_of_higher_priority_is_finished_before_others_begin() {
    let mut simulation = Simulation::new(EngineOptions { max_tokens_per_step: 64, ..options() });
    let urgent = simulation.submit(EngineRequest { priority: 1, ..request(1, prompt(1, 1000), 5) });
    simulation.step();
    let ordinary = simulation.submit(request(2, prompt(2, 30), 5));
    simulation.run_until(|simulation| !simulation.clients[ordinary].tokens.is_empty());
    assert!(!simulation.clients[urgent].tokens.is_empty());
}

#[test]
fn a_newcomer_who_was_served_less_goes_before_a_long_prompt_under_way() {
    let mut simulation = Simulation::new(EngineOptions { max_tokens_per_step: 64, ..options() });
    let long = simulation.submit(request(1, prompt(1, 4000), 5));
    simulation.run_until(|simulation| simulation.served.get(&1).is_some_and(|&tokens| tokens > 1500));
    let short = simulation.submit(request(2, prompt(2, 200), 5));
    simulation.run_until(|simulation| !simulation.clients[short].tokens.is_empty());
    assert!(simulation.clients[long].tokens.is_empty());
    assert!(simulation.served[&1] < 2000, "{} tokens of the long prompt", simulation.served[&1]);
}

#[test]
fn who_was_away_has_earned_little() {
    let busy = |user| move |seed| request(user, prompt(seed, 40), 30);
    let mut simulation = Simulation::new(EngineOptions { max_sequences: 8, ..options() });
    let mut seed = 0;
    let mut keep_busy = |simulation: &mut Simulation, user: u64| {
        let inside = |client: &&super::simulation::Client| client.request.user == user && client.end.is_none();
        for _ in simulation.clients.iter().filter(inside).count()..20 {
            seed += 1;
            simulation.submit(busy(user)(seed));
        }
    };
    while simulation.num_steps < 1000 {
        keep_busy(&mut simulation, 1);
        simulation.step();
    }
    let before = simulation.served[&1];
    while simulation.num_steps < 1400 {
        keep_busy(&mut simulation, 1);
        keep_busy(&mut simulation, 2);
        simulation.step();
    }
    let (first, second) = (simulation.served[&1] - before, simulation.served[&2]);
    assert!(first * 2 > second, "{first} tokens for who was here, {second} for who came");
}

#[test]
fn a_shared_beginning_needs_no_room_of_its_own() {
    let mut simulation = Simulation::new(EngineOptions { num_blocks: 40, ..options() });
    let text = prompt(1, 960);
    let first = simulation.submit(request(1, text.clone(), 60));
    simulation.run_until(|simulation| !simulation.clients[first].tokens.is_empty());
    let second = simulation.submit(request(2, [text, prompt(2, 10)].concat(), 5));
    simulation.run_until(|simulation| simulation.clients[second].end.is_some());
    assert!(simulation.clients[first].end.is_none(), "it had to wait for the blocks of the first");
    assert_eq!(simulation.clients[second].cached_tokens, 960);
}

#[test]
fn newcomers_of_one_step_leave_room_for_each_other() {
    // Each takes one block at once and is expected to grow by ten.
    let mut simulation = Simulation::new(EngineOptions { num_blocks: 55, ..options() });
    for seed in 0..20 {
        simulation.submit(request(1, prompt(seed, 4), 640));
    }
    simulation.step();
    assert_eq!(simulation.scheduler.num_running(), 5);
}

#[test]
fn nobody_is_replaced_in_vain() {
    let mut simulation = Simulation::new(EngineOptions { num_blocks: 24, ..options() });
    let large = simulation.submit(EngineRequest { priority: 1, ..request(1, prompt(1, 440), 60) });
    let small = simulation.submit(request(2, prompt(2, 60), 60));
    simulation.run_until(|simulation| !simulation.clients[small].tokens.is_empty());
    // What the small one holds is not enough, and the large one is not to be replaced.
    let waits = simulation.submit(EngineRequest { priority: 1, ..request(1, prompt(3, 400), 20) });
    simulation.run_until(|simulation| simulation.clients[large].end.is_some());
    assert_eq!(simulation.scheduler.stats().preemptions, 0);
    simulation.run();
    simulation.check_ends();
    assert_eq!(simulation.clients[waits].tokens.len(), 20);
}

#[test]
fn an_exchange_must_be_worth_what_it_throws_away() {
    let mut simulation =
        Simulation::new(EngineOptions { max_sequences: 4, max_stall: Duration::from_secs(9), ..options() });
    // User 1 has three slots and 100 tokens more than user 2: less than any of its sequences has computed.
    for seed in 0..3 {
        simulation.submit(request(1, prompt(seed, 500), 400));
    }
    simulation.submit(request(2, prompt(10, 1400), 400));
    simulation.run_until(|simulation| simulation.clients.iter().all(|client| !client.tokens.is_empty()));
    simulation.submit(request(2, prompt(11, 100), 5));
    for _ in 0..20 {
        simulation.step();
    }
    let service = |user| simulation.scheduler.queue.service(user);
    assert!(service(1) > service(2), "user 1 is ahead");
    assert_eq!(simulation.scheduler.stats().preemptions, 0);
}

#[test]
fn a_prompt_broken_off_tells_its_logprobs_once() {
    let mut simulation = Simulation::new(EngineOptions { num_blocks: 20, max_tokens_per_step: 64, ..options() });
    let first = simulation.submit(EngineRequest { prompt_logprobs: Some(1), ..request(1, prompt(1, 500), 5) });
    for _ in 0..3 {
        simulation.step();
    }
    assert!(simulation.clients[first].started.is_some() && simulation.clients[first].tokens.is_empty());
    simulation.submit(EngineRequest { priority: 1, ..request(2, prompt(2, 300), 5) });
    simulation.run();
    assert_eq!(simulation.scheduler.stats().preemptions, 1);
    simulation.check_ends();
}

#[test]
fn a_prompt_broken_off_before_its_last_token_tells_its_logprobs_once() {
    let mut simulation = Simulation::new(EngineOptions { max_sequences: 1, max_tokens_per_step: 64, ..options() });
    simulation.submit(EngineRequest { prompt_logprobs: Some(1), ..request(1, prompt(1, 33), 5) });
    simulation.step();
    simulation.submit(EngineRequest { priority: 1, ..request(2, prompt(2, 30), 5) });
    simulation.run();
    assert_eq!(simulation.scheduler.stats().preemptions, 1);
    simulation.check_ends();
}

#[test]
fn what_is_not_finite_leaves_nothing_in_the_cache() {
    let mock = MockOptions { not_finite_token: Some(7), ..MockOptions::default() };
    let mut simulation = Simulation::with_mock(EngineOptions { max_tokens_per_step: 64, ..options() }, mock);
    let sound: Vec<u32> = prompt(1, 200).into_iter().map(|token| token.max(8)).collect();
    let poisoned = simulation.submit(request(1, [&sound[..], &[7]].concat(), 5));
    simulation.run();
    assert_eq!(simulation.clients[poisoned].end, Some(End::Failed(EngineError::NotFinite)));
    assert!(simulation.scheduler.stats().computed_tokens > 100, "it failed in a late step");
    let again = simulation.submit(request(1, sound, 5));
    simulation.run();
    assert_eq!(simulation.clients[again].cached_tokens, 0);
}

#[test]
fn a_deadline_passes_behind_others_of_the_same_user() {
    let mut simulation = Simulation::new(EngineOptions { max_sequences: 1, ..options() });
    for seed in 0..2 {
        simulation.submit(request(1, prompt(seed, 50), 1000));
    }
    let deadline = Some(simulation.instant(Duration::from_millis(200)));
    let late = simulation.submit(EngineRequest { deadline, ..request(1, prompt(2, 50), 10) });
    simulation.run_until(|simulation| simulation.time() > Duration::from_millis(400));
    assert!(ended_by_deadline(&simulation, late));
}
