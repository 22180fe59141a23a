//! Requests that become somebody else's: in whose turn they wait, are served and are charged.

use super::simulation::{Simulation, options, prompt, request};
use crate::engine::{EngineOptions, EngineRequest, Standing, scheduler::fair_queue};

fn standing(user: u64, priority: i32) -> Standing {
    Standing { user, weight: 1, priority }
}

/// One slot: user 1 has it for a while, users 2 and 3 wait, and so does a request of low priority of user 4.
fn crowd() -> (Simulation, [usize; 3], usize) {
    let mut simulation = Simulation::new(EngineOptions { max_sequences: 1, ..options() });
    let running = simulation.submit(request(1, prompt(1, 50), 100));
    simulation.step();
    let second = simulation.submit(request(2, prompt(2, 50), 20));
    let third = simulation.submit(request(3, prompt(3, 50), 20));
    let low = simulation.submit(EngineRequest { priority: -1, ..request(4, prompt(4, 50), 20) });
    (simulation, [running, second, third], low)
}

#[test]
fn a_waiting_request_is_served_in_the_turn_of_whoever_takes_it_over() {
    let (mut simulation, others, low) = crowd();
    simulation.run();
    let ended = |simulation: &Simulation, client: usize| simulation.clients[client].token_times.last().copied();
    assert!(others.iter().all(|&other| ended(&simulation, other) < ended(&simulation, low)), "low waits for all");

    let (mut simulation, others, low) = crowd();
    simulation.step();
    simulation.take_over(low, standing(5, 1));
    simulation.run();
    simulation.check_ends();
    assert!(others.iter().all(|&other| ended(&simulation, low) < ended(&simulation, other)), "high waits for none");
    let service = |user| simulation.scheduler.queue.service(user);
    assert!(service(5) >= fair_queue::service(50 + 19, 1), "the heir is charged");
    assert_eq!(service(4), 0, "and the first one is not");
}

#[test]
fn a_running_request_gives_way_as_its_heir_would() {
    let (mut simulation, [running, second, third], _) = crowd();
    for _ in 0..10 {
        simulation.step();
    }
    let before = simulation.scheduler.queue.service(1);
    simulation.take_over(running, standing(5, -1));
    simulation
        .run_until(|simulation| simulation.clients[second].end.is_some() && simulation.clients[third].end.is_some());
    assert!(simulation.clients[running].end.is_none(), "of lower priority now, it was put back");
    simulation.run();
    simulation.check_ends();
    assert_eq!(simulation.clients[running].tokens.len(), 100);
    assert_eq!(simulation.scheduler.queue.service(1), before, "what comes after is not the first one's");
}

#[test]
fn one_that_waits_for_anothers_block_need_not_any_more() {
    let mut simulation = Simulation::new(EngineOptions { max_tokens_per_step: 64, ..options() });
    let leader = simulation.submit(request(1, prompt(1, 500), 5));
    simulation.step();
    let same = simulation.submit(request(2, prompt(1, 500), 5));
    simulation.step();
    assert_eq!(simulation.scheduler.awaiting.len(), 1);
    simulation.take_over(same, standing(3, 1));
    simulation.run_until(|simulation| !simulation.clients[same].tokens.is_empty());
    assert!(simulation.clients[leader].tokens.is_empty(), "a higher priority does not wait for a lower one");
    simulation.run();
    simulation.check_ends();
}

#[test]
fn nothing_becomes_of_what_is_unknown_or_has_ended() {
    let mut simulation = Simulation::new(options());
    let client = simulation.submit(request(1, prompt(1, 20), 3));
    simulation.take_over(client + 1, standing(2, 1));
    simulation.run();
    simulation.take_over(client, standing(2, 1));
    simulation.run();
    simulation.check_ends();
    assert_eq!(simulation.scheduler.queue.service(2), 0);
}
