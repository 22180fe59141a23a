//! Runs of drafts, and what must not matter: neighbours, places in the batch, the order of threads and blocks.

use super::{Card, ids, random_row, reference, sample};
use crate::gpu::backend;
use crate::sampling::{SampleKind, SampleOutcome, SampleTask, SamplerParams};

const VOCAB: usize = 4200;

fn params() -> [SamplerParams<'static>; 4] {
    let base = SamplerParams { seed: 31, top_k: 5, ..SamplerParams::default() };
    [
        SamplerParams { temperature: 0.0, ..base },
        SamplerParams { frequency_penalty: 1.3, presence_penalty: 0.2, repetition_penalty: 1.1, ..base },
        SamplerParams { min_tokens: 4, stop_token_ids: &[1, 4100], logprobs: Some(2), ..base },
        base,
    ]
}

fn rows(random: &mut fastrand::Rng, count: usize) -> Vec<Vec<f32>> {
    let mut row = || {
        let mut row = random_row(random, VOCAB, 3.0, 1 << 16);
        for id in [1, 4100, 7, 4099] {
            row[id] = 4.0 + random.f32();
        }
        row
    };
    (0..count).map(|_| row()).collect()
}

fn slices(rows: &[Vec<f32>]) -> Vec<&[f32]> {
    rows.iter().map(|row| &row[..]).collect()
}

#[test]
fn a_run_is_what_single_steps_would_be() {
    const LENGTH: usize = 5;
    let mut random = fastrand::Rng::with_seed(17);
    let all = params();
    for wrong in 0..=LENGTH {
        let mut card = Card::new(VOCAB, all.len() * LENGTH);
        card.start_all(&all);
        let mut plain = all.map(|params| reference::Sequence::new(params, &[0], &[]));
        // The second run finds what the first has left.
        for round in 0..2 {
            backend::set_thread_order(wrong as u32 + round);
            let rows = rows(&mut random, all.len() * LENGTH);
            let (mut drafts, mut expected) = (Vec::new(), Vec::new());
            for (plain, rows) in plain.iter_mut().zip(rows.chunks(LENGTH)) {
                let mut ahead = plain.clone();
                let mut run: Vec<u32> = rows.iter().map(|row| ahead.sample(row)).collect();
                let accepted = (wrong + 1).min(LENGTH);
                run[..accepted].iter().for_each(|&id| plain.push(id));
                expected.push(run[..accepted].to_vec());
                if wrong < LENGTH {
                    run[wrong] = (run[wrong] + 1) % VOCAB as u32;
                }
                drafts.push(run[..LENGTH - 1].to_vec());
            }
            let tasks: Vec<_> =
                drafts.iter().enumerate().map(|(slot, drafts)| sample(slot, slot * LENGTH, drafts)).collect();
            let results = card.run(&tasks, &slices(&rows));
            assert_eq!(ids(&results.tokens), expected.concat(), "draft {wrong} is wrong, round {round}");
            assert!(results.tokens.iter().filter(|token| token.logprob.is_some()).count() == expected[2].len());
            for (outcome, expected) in results.outcomes.iter().zip(&expected) {
                assert_eq!(*outcome, SampleOutcome::Tokens(expected.len()));
            }
        }
    }
    backend::set_thread_order(0);
}

#[test]
fn a_run_ends_before_a_row_that_is_not_finite() {
    let greedy = SamplerParams { temperature: 0.0, frequency_penalty: 0.1, ..SamplerParams::default() };
    let good = [[0.0, 1.0, 0.5], [0.0, 0.5, 1.0], [1.0, 0.0, 0.5]];
    for (bad, drafts, expected) in [(3, [1, 2], 3), (2, [1, 2], 2), (1, [1, 2], 1), (1, [2, 2], 1), (0, [1, 2], 0)] {
        let mut card = Card::new(3, 3);
        card.start_all(&[greedy]);
        let mut rows = good;
        if let Some(row) = rows.get_mut(bad) {
            row[0] = f32::NAN;
        }
        let results = card.run(&[sample(0, 0, &drafts)], &rows.each_ref().map(|row| &row[..]));
        let outcome = if expected == 0 { SampleOutcome::NotFinite } else { SampleOutcome::Tokens(expected) };
        assert_eq!(results.outcomes, [outcome], "row {bad} is bad");
        assert_eq!(ids(&results.tokens), [1, 2, 0][..expected]);
        // Tokens that were not accepted are not counted, nor a second time what was.
        let tokens: Vec<u32> = (0..3).map(|_| card.step(&[&[0.95, 1.0, 0.9]])[0]).collect();
        let mut plain = reference::Sequence::new(greedy, &[0], &ids(&results.tokens));
        assert_eq!(tokens, [0; 3].map(|_| plain.sample(&[0.95, 1.0, 0.9])), "row {bad} is bad");
    }
}

#[test]
fn every_row_of_a_run_has_its_mask() {
    let greedy = SamplerParams { temperature: 0.0, ..SamplerParams::default() };
    let mut card = Card::new(3, 3);
    card.start_all(&[greedy]);
    card.sampler.set_masks(0, &[0b001, 0b010, 0b100]).unwrap();
    let kind = SampleKind::Sample { drafts: &[0, 1], first_mask: Some(0) };
    let results = card.run(&[SampleTask { slot: 0, first_row: 0, kind }], &[&[1.0; 3][..]; 3]);
    assert_eq!(ids(&results.tokens), [0, 1, 2]);
}

#[test]
fn neighbours_and_the_order_of_threads_change_nothing() {
    let mut random = fastrand::Rng::with_seed(41);
    let base = SamplerParams { seed: 1, logprobs: Some(20), ..SamplerParams::default() };
    let all = [
        base,
        SamplerParams { top_p: 0.9, typical_p: 0.8, ..base },
        SamplerParams { top_k: 50, min_p: 0.01, repetition_penalty: 1.2, ..base },
        SamplerParams { temperature: 0.0, ..base },
    ];
    let rows: Vec<_> = (0..8).map(|i| random_row(&mut random, VOCAB, 5.0, [6, 1 << 20][i % 2])).collect();
    let run = |order: u32, places: [usize; 4], neighbours: usize| {
        backend::set_thread_order(order);
        let mut card = Card::new(VOCAB, 8);
        let mut started = vec![base; 8];
        (0..4).for_each(|i| started[places[i]] = all[i]);
        card.start_all(&started);
        let mut tasks: Vec<_> = (0..4).map(|i| sample(places[i], i, &[])).collect();
        let others: Vec<usize> = (0..8).filter(|slot| !places.contains(slot)).take(neighbours).collect();
        others.iter().enumerate().for_each(|(i, &slot)| tasks.insert(i, sample(slot, 4 + i, &[])));
        let tokens = card.run(&tasks, &slices(&rows)).tokens[neighbours..].to_vec();
        backend::set_thread_order(0);
        tokens
    };
    let expected = run(0, [0, 1, 2, 3], 0);
    for (order, places, neighbours) in
        [(1, [0, 1, 2, 3], 0), (2, [7, 2, 5, 4], 4), (3, [3, 2, 1, 0], 2), (9, [1, 3, 5, 7], 3)]
    {
        assert_eq!(run(order, places, neighbours), expected, "order {order}");
    }
}
