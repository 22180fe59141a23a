//! The promises of the schedule in numbers: fairness, stalls, preemption, sharing.

use std::time::Duration;

use super::simulation::{self, End, Simulation, cost, options, prompt, request};
use crate::engine::{
    CacheScope, EngineOptions, EngineRequest, FinishReason, MockExecutor, MockOptions, scheduler::growth::Growth,
};

fn ms(time: u64) -> Duration {
    Duration::from_millis(time)
}

/// Keeps `depth` requests of a user inside.
fn keep_busy(simulation: &mut Simulation, user: u64, depth: usize, make: impl Fn(u64) -> EngineRequest) {
    let inside = simulation.clients.iter().filter(|client| client.request.user == user && client.end.is_none()).count();
    for _ in inside..depth {
        let seed = simulation.clients.len() as u64 + 1000;
        simulation.submit(make(seed));
    }
}

/// Makes a request from a seed.
type Make<'a> = &'a dyn Fn(u64) -> EngineRequest;

/// Tokens that users 1 and 2 are served over 1,000 steps, when both always have requests inside.
fn served_together(options: EngineOptions, depths: [usize; 2], make: [Make<'_>; 2]) -> [f64; 2] {
    let mut simulation = Simulation::new(options);
    while simulation.num_steps < 1000 {
        for user in 0..2 {
            keep_busy(&mut simulation, user as u64 + 1, depths[user], make[user]);
        }
        simulation.step();
    }
    [1, 2].map(|user| simulation.served[&user] as f64)
}

#[test]
fn equal_users_are_served_within_a_tenth_of_each_other() {
    let few_slots = || EngineOptions { max_sequences: 8, ..options() };
    let few_blocks = || EngineOptions { num_blocks: 60, ..options() };
    let small_steps = || EngineOptions { max_tokens_per_step: 33, ..options() };
    let short = |user| move |seed| request(user, prompt(seed, 40), 30);
    let long = |user| move |seed| request(user, prompt(seed, 300), 100);
    for options in [few_slots(), few_blocks(), small_steps()] {
        let scenes: [([usize; 2], [Make<'_>; 2]); 3] =
            [([30, 30], [&short(1), &short(2)]), ([60, 20], [&short(1), &short(2)]), ([40, 40], [&short(1), &long(2)])];
        for (depths, make) in scenes {
            let [first, second] = served_together(options.clone(), depths, make);
            let ratio = first / second;
            assert!((0.9..=1.1).contains(&ratio), "{first} to {second} tokens, {depths:?} inside, {options:?}");
        }
    }
}

#[test]
fn who_comes_and_goes_is_served_no_more_than_who_stays() {
    let of_one = |seed| request(1, prompt(seed, 40), 30);
    let prompts_only = |seed| request(2, prompt(seed, 500), 1);
    let [stays, comes] =
        served_together(EngineOptions { max_sequences: 8, ..options() }, [30, 1], [&of_one, &prompts_only]);
    assert!(comes / stays <= 1.1, "{comes} tokens to {stays}");
    assert!(comes / stays >= 0.5, "the test is worth something only where both want all: {comes} to {stays}");
}

#[test]
fn weights_share_the_service_out() {
    let of = |user, weight| move |seed| EngineRequest { weight, ..request(user, prompt(seed, 40), 30) };
    let options = EngineOptions { max_sequences: 8, ..options() };
    let [first, second] = served_together(options, [30, 30], [&of(1, 3), &of(2, 1)]);
    assert!((2.6..3.4).contains(&(first / second)), "{first} to {second} tokens at weights 3 to 1");
}

/// How long a request of user 2 waits for its first token, arriving at `time` beside `others` requests of user 1.
fn first_token_beside(options: EngineOptions, others: usize, time: Duration) -> Duration {
    let mut simulation = Simulation::new(options);
    // The machine is known before the measurement.
    simulation.submit(request(9, prompt(1, 2000), 30));
    simulation.run();
    let begin = simulation.time();
    for other in 0..others {
        simulation.submit(request(1, prompt(10 + other as u64, 200), 800));
    }
    simulation.run_until(|simulation| simulation.time() >= begin + time);
    let client = simulation.submit(request(2, prompt(5, 300), 10));
    simulation.run_until(|simulation| !simulation.clients[client].tokens.is_empty());
    simulation.clients[client].time_to_first_token()
}

#[test]
fn one_beside_thirty_waits_at_most_twice_as_long_as_beside_one() {
    let plenty = || EngineOptions { num_blocks: 2048, ..options() };
    let few_slots = || EngineOptions { max_sequences: 8, ..options() };
    let few_blocks = || EngineOptions { num_blocks: 100, ..options() };
    for options in [plenty(), few_slots(), few_blocks()] {
        for time in [0, 50, 500, 2000, 4000] {
            let beside_one = first_token_beside(options.clone(), 1, ms(time));
            let beside_thirty = first_token_beside(options.clone(), 30, ms(time));
            assert!(
                beside_thirty <= beside_one * 2,
                "{beside_thirty:?} beside 30, {beside_one:?} beside one, after {time} ms, {options:?}"
            );
        }
    }
}

#[test]
fn a_long_prompt_stalls_streams_no_longer_than_the_limit_and_a_step() {
    for (streams, limit, warm) in [(1, 100, true), (16, 100, true), (4, 60, true), (4, 100, false)] {
        let mut simulation =
            Simulation::new(EngineOptions { max_stall: ms(limit), max_tokens_per_step: 4096, ..options() });
        if warm {
            simulation.submit(request(9, prompt(1, 3000), 20));
            simulation.run();
        }
        let clients: Vec<usize> =
            (0..streams).map(|i| simulation.submit(request(i, prompt(10 + i, 30), 1000))).collect();
        simulation.run_until(|simulation| clients.iter().all(|&client| simulation.clients[client].tokens.len() > 20));
        let arrival = simulation.time();
        let long = simulation.submit(request(99, prompt(2, 2048), 5));
        simulation.run_until(|simulation| simulation.clients[long].end.is_some());
        let step = cost().step + cost().token * streams as u32 + cost().attention * 3;
        for client in clients {
            let gap = simulation.clients[client].worst_gap(arrival, simulation.time());
            assert!(gap <= ms(limit) + step, "{gap:?} with {streams} streams and a limit of {limit} ms");
            assert!(gap > ms(limit) / 2, "the limit is made use of: {gap:?} of {limit} ms");
        }
        // 2,048 tokens at 2,000 a second, in steps that leave the streams their share.
        let wait = simulation.clients[long].time_to_first_token();
        assert!(wait < ms(2500), "the prompt took {wait:?}");
    }
}

#[test]
fn four_times_too_many_for_the_blocks_compute_little_twice() {
    for (seed, stop_early) in [(1, false), (2, true), (3, false)] {
        let mut random = fastrand::Rng::with_seed(seed);
        // 32 sequences of about 320 tokens want 320 blocks.
        let mut simulation = Simulation::new(EngineOptions { num_blocks: 80, ..options() });
        for index in 0..400 {
            let len = random.usize(20..300);
            let max_tokens = random.usize(100..=250);
            let mut request = request(index % 5, prompt(seed * 10_000 + index, len), max_tokens);
            if stop_early {
                let answer = MockExecutor::answer(
                    &MockOptions { vocab_size: simulation::VOCAB, ..Default::default() },
                    &request.prompt,
                    max_tokens,
                );
                request.stop_token_ids = vec![answer[random.usize(0..max_tokens)]];
            }
            simulation.submit(request);
        }
        simulation.run();
        simulation.check_ends();
        let stats = simulation.scheduler.stats();
        let share = stats.recomputed_tokens as f64 / stats.computed_tokens as f64;
        assert!(share <= 0.3, "{share} of the tokens computed again, {} preemptions", stats.preemptions);
        let running = stats.computed_tokens as f64 / stats.steps as f64;
        assert!(running >= 10.0, "{running} tokens a step: the blocks are not made use of");
    }
}

#[test]
fn a_pool_smaller_than_all_contexts_serves_them() {
    // Ten contexts of 12 blocks in a pool of 30.
    let mut simulation = Simulation::new(EngineOptions { num_blocks: 30, max_sequences: 10, ..options() });
    for index in 0..10 {
        simulation.submit(request(index, prompt(index, 84), 300));
    }
    simulation.run();
    simulation.check_ends();
    assert!(simulation.clients.iter().all(|client| client.tokens.len() == 300));
}

#[test]
fn the_longest_request_that_fits_runs_among_others() {
    let mut simulation = Simulation::new(EngineOptions { num_blocks: 20, max_sequences: 8, ..options() });
    for index in 0..20 {
        simulation.submit(request(1, prompt(index, 30), 50));
    }
    let whole_pool = simulation.submit(request(2, prompt(99, 20 * 32 - 100), 100));
    simulation.run();
    simulation.check_ends();
    assert_eq!(simulation.clients[whole_pool].tokens.len(), 100);
}

#[test]
fn equal_prompts_in_flight_are_computed_once() {
    let mut simulation = Simulation::new(options());
    let text = prompt(1, 1000);
    for _ in 0..8 {
        simulation.submit(request(1, text.clone(), 20));
    }
    simulation.run();
    simulation.check_ends();
    // 31 full blocks are shared; the rest of the prompt and the answers are everyone's own.
    let own = 1000 - 31 * 32 + 19;
    assert_eq!(simulation.scheduler.stats().computed_tokens as usize, 31 * 32 + 8 * own);
    assert!(simulation.clients[1..].iter().all(|client| client.cached_tokens == 31 * 32));
}

#[test]
fn other_tenants_do_not_share_what_is_in_flight() {
    let mut simulation = Simulation::new(options());
    let text = prompt(1, 1000);
    for tenant in 0..3 {
        let scope = CacheScope { shared_tokens: 320, tenant };
        simulation.submit(EngineRequest { scope, ..request(tenant, text.clone(), 1) });
    }
    simulation.run();
    let stats = simulation.scheduler.stats();
    assert_eq!((stats.computed_tokens, stats.prefix_hits), (3 * 1000 - 2 * 320, 2 * 320));
}

#[test]
fn when_the_one_who_computes_leaves_another_takes_over() {
    let mut simulation = Simulation::new(EngineOptions { max_tokens_per_step: 128, ..options() });
    let text = prompt(1, 1000);
    let clients: Vec<usize> = (0..4).map(|_| simulation.submit(request(1, text.clone(), 5))).collect();
    simulation.step();
    simulation.step();
    simulation.leave(clients[0]);
    simulation.run_until(|simulation| simulation.clients[clients[1]].started.is_some());
    simulation.step();
    simulation.leave(clients[1]);
    simulation.run();
    simulation.check_ends();
    assert!(clients[2..].iter().all(|&client| simulation.clients[client].tokens.len() == 5));
    assert!(simulation.scheduler.stats().computed_tokens < 1300, "what was computed is not lost");
}

#[test]
fn who_awaits_a_block_does_not_hold_up_others() {
    let mut simulation = Simulation::new(EngineOptions { max_tokens_per_step: 64, max_sequences: 4, ..options() });
    let text = prompt(1, 2000);
    for _ in 0..3 {
        simulation.submit(request(1, text.clone(), 5));
    }
    let other = simulation.submit(request(2, prompt(2, 20), 5));
    simulation.run_until(|simulation| simulation.clients[other].end.is_some());
    assert!(simulation.clients[0].tokens.is_empty(), "the long prompt takes longer");
    simulation.run();
    simulation.check_ends();
}

#[test]
fn want_preempts_the_newest_of_the_lowest_priority() {
    let runs = |simulation: &Simulation, client: usize| {
        let id = client as u64 + 1;
        simulation.scheduler.slots.iter().flatten().any(|sequence| sequence.id == id)
    };
    let mut simulation = Simulation::new(EngineOptions { num_blocks: 20, max_sequences: 4, ..options() });
    let mut submit = |priority, seed| {
        simulation.scheduler.growth = Growth::optimistic();
        let client = simulation.submit(EngineRequest { priority, ..request(seed, prompt(seed, 130), 200) });
        simulation.run_until(|simulation| runs(simulation, client));
        client
    };
    let [first, low, newest, high] = [submit(0, 1), submit(-1, 2), submit(0, 3), submit(1, 4)];
    simulation.run_until(|simulation| simulation.scheduler.stats.preemptions > 0);
    assert!(!runs(&simulation, low) && [first, newest, high].iter().all(|&client| runs(&simulation, client)));
    simulation.run_until(|simulation| simulation.scheduler.stats.preemptions > 1);
    assert!(!runs(&simulation, newest) && runs(&simulation, first) && runs(&simulation, high));
    simulation.run();
    simulation.check_ends();
}

#[test]
fn a_higher_priority_goes_first_and_takes_a_slot() {
    let mut simulation = Simulation::new(EngineOptions { max_sequences: 2, ..options() });
    for index in 0..4 {
        simulation.submit(request(1, prompt(index, 50), 500));
    }
    simulation.step();
    let urgent = simulation.submit(EngineRequest { priority: 1, ..request(1, prompt(9, 50), 5) });
    simulation.run_until(|simulation| simulation.clients[urgent].end.is_some());
    assert!(simulation.clients[..4].iter().all(|client| client.end.is_none()));
    simulation.run();
    simulation.check_ends();
}

#[test]
fn the_wait_foretold_is_about_the_wait() {
    let mut simulation = Simulation::new(EngineOptions { max_sequences: 4, ..options() });
    let mut random = fastrand::Rng::with_seed(4);
    for index in 0..300 {
        simulation.submit(request(1, prompt(index, random.usize(20..200)), random.usize(20..100)));
        simulation.run_until(|simulation| simulation.scheduler.stats().waiting < 20);
    }
    simulation.run();
    let waits = simulation.clients[50..].iter().map(|client| {
        let waited = client.started.unwrap_or_default().saturating_sub(client.submitted);
        (waited.as_secs_f64(), client.expected_wait.as_secs_f64())
    });
    let (waited, foretold) = waits.fold((0.0, 0.0), |sum, wait| (sum.0 + wait.0, sum.1 + wait.1));
    assert!((0.6..1.6).contains(&(foretold / waited)), "{foretold} s were foretold and {waited} s waited");
}

#[test]
fn a_deadline_passes_in_the_queue_too() {
    let mut simulation = Simulation::new(EngineOptions { max_sequences: 1, ..options() });
    simulation.submit(request(1, prompt(1, 50), 1000));
    simulation.step();
    let deadline = Some(simulation.instant(simulation.time() + ms(200)));
    let late = simulation.submit(EngineRequest { deadline, ..request(1, prompt(2, 50), 10) });
    simulation.run_until(|simulation| simulation.clients[late].end.is_some());
    assert!(
        matches!(simulation.clients[late].end, Some(End::Finished(FinishReason::Deadline, usage)) if usage.completion_tokens == 0)
    );
    assert!(simulation.time() < ms(400));
}

#[test]
fn blocks_of_one_who_left_are_free_at_the_next_step() {
    let mut simulation = Simulation::new(options());
    let client = simulation.submit(request(1, prompt(1, 2000), 100));
    simulation.step();
    assert!(simulation.scheduler.stats().kv_blocks_used > 0);
    simulation.leave(client);
    assert!(!simulation.step());
    assert_eq!(simulation.scheduler.stats().kv_blocks_used, 0);
    let next = simulation.submit(request(1, prompt(2, 100), 5));
    simulation.run();
    assert_eq!(simulation.clients[next].tokens.len(), 5, "the slot is usable again");
}

#[test]
fn a_prompt_that_fills_a_step_begins_its_answer_before_the_next() {
    let mut simulation = Simulation::new(EngineOptions { max_sequences: 4, ..options() });
    simulation.submit(request(1, prompt(1, 500), 5));
    simulation.run();
    // Two are through in one step where neither fills it, and in two where the first one does.
    for (len, together) in [(40, true), (100, false)] {
        let clients = [2, 3].map(|seed| simulation.submit(request(1, prompt(seed, len), 5)));
        let first = |simulation: &Simulation| !simulation.clients[clients[0]].tokens.is_empty();
        simulation.run_until(first);
        assert_eq!(!simulation.clients[clients[1]].tokens.is_empty(), together, "{len}");
        simulation.run();
    }
    simulation.check_ends();
}
