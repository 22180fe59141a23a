//! Tokens are those of the plain sampler, for rows and parameters of every kind.

use super::{Card, random_row, reference, sample};
use crate::gpu::backend;
use crate::sampling::{SampleOutcome, SamplerParams};

/// Each truncation is on about every other time.
fn random_params(random: &mut fastrand::Rng) -> SamplerParams<'static> {
    let mut sometimes = |off: f32, values: [f32; 3]| if random.bool() { off } else { values[random.usize(..3)] };
    SamplerParams {
        temperature: sometimes(1.0, [0.3, 2.0, 0.02]),
        top_p: sometimes(1.0, [0.9, 0.5, 0.999]),
        min_p: sometimes(0.0, [0.05, 0.5, 1e-6]),
        typical_p: sometimes(1.0, [0.7, 0.2, 0.99]),
        top_k: sometimes(0.0, [30.0, 3.0, 700.0]) as u32,
        seed: random.u64(..),
        ..SamplerParams::default()
    }
}

#[test]
fn choices_are_those_of_a_plain_sampler() {
    const ROWS: usize = 25;
    let mut random = fastrand::Rng::with_seed(7);
    let (mut different, mut all) = (0, 0);
    for round in 0..120 {
        let vocab = [random.usize(1..40), random.usize(1..1500), random.usize(4000..9500)][round % 3];
        let mut card = Card::new(vocab, ROWS);
        let spread = |i: usize| [0.5, 6.0, 40.0, 1e-30, 0.0][(round / 2 + i) % 5];
        let levels = |i: usize| [8, 1 << 20][(round + i) % 2];
        let rows: Vec<_> = (0..ROWS).map(|i| random_row(&mut random, vocab, spread(i), levels(i))).collect();
        let params: Vec<_> = rows.iter().map(|_| random_params(&mut random)).collect();
        card.start_all(&params);
        backend::set_thread_order(round as u32 % 4);
        let found = card.step(&rows.iter().map(|row| &row[..]).collect::<Vec<_>>());
        for (i, ((row, params), found)) in rows.iter().zip(&params).zip(found).enumerate() {
            assert_eq!(found, reference::choice(row, params, 0), "round {round}, {vocab} tokens: {params:?}");
            // Surprises that differ by less than 2^-45 are equal in fixed point, and f64 knows better.
            if spread(i) > 1e-20 || params.typical_p >= 1.0 {
                different += usize::from(found != reference::choice_in_f64(row, params, 0));
                all += 1;
            }
        }
    }
    backend::set_thread_order(0);
    assert!(different * 1000 <= all, "{different} of {all} choices differ from those with sums in f64");
}

#[test]
fn rows_of_a_real_vocabulary_are_like_small_ones() {
    const VOCAB: usize = 128_256;
    let mut random = fastrand::Rng::with_seed(11);
    // Mostly unlikely tokens with a few likely ones, as a model has them, and a flat row, of which no list is made.
    let mut model_like = || {
        let mut row: Vec<f32> = (0..VOCAB).map(|_| (0..6).map(|_| random.f32()).sum::<f32>() * 4.0 - 12.0).collect();
        (0..60).for_each(|_| row[random.usize(..VOCAB)] = random.f32() * 9.0 + 2.0);
        row
    };
    let rows = [model_like(), model_like(), (0..VOCAB).map(|i| (i * 37 % 1009) as f32 / 2000.0).collect()];
    let base = SamplerParams { temperature: 0.8, seed: 3, ..SamplerParams::default() };
    let all = [
        SamplerParams { temperature: 0.0, ..base },
        base,
        SamplerParams { top_p: 0.95, ..base },
        SamplerParams { top_k: 40, top_p: 0.9, min_p: 0.02, ..base },
        SamplerParams { top_k: 1000, top_p: 0.99, ..base },
        SamplerParams { typical_p: 0.9, ..base },
    ];
    for params in all {
        let mut card = Card::new(VOCAB, rows.len());
        card.start_all(&[params; 3]);
        let found = card.step(&rows.each_ref().map(|row| &row[..]));
        let expected: Vec<_> = rows.iter().map(|row| reference::choice(row, &params, 0)).collect();
        assert_eq!(found, expected, "{params:?}");
    }
}

#[test]
fn greedy_takes_the_first_of_the_largest() {
    let mut random = fastrand::Rng::with_seed(3);
    let greedy = SamplerParams { temperature: 0.0, ..SamplerParams::default() };
    for vocab in [1, 2, 31, 512, 4095, 4096, 4097, 9000] {
        let mut card = Card::new(vocab, 4);
        card.start_all(&[greedy, SamplerParams { top_k: 1, ..SamplerParams::default() }, greedy, greedy]);
        let mut rows = [1, 3, 40, 1 << 24].map(|levels| random_row(&mut random, vocab, 9.0, levels));
        // Zeros of both signs are equal.
        rows[0].iter_mut().for_each(|logit| *logit = if random.bool() { 0.0 } else { -0.0 });
        let expected = rows.each_ref().map(|row| reference::first_of_the_largest(row));
        assert_eq!(card.step(&rows.each_ref().map(|row| &row[..])), expected, "{vocab} tokens");
    }
}

#[test]
fn what_is_not_finite_is_an_error_wherever_it_is() {
    const VOCAB: usize = 4100;
    let base = SamplerParams::default();
    let all = [
        base,
        SamplerParams { temperature: 0.0, ..base },
        SamplerParams { top_k: 2, top_p: 0.5, ..base },
        SamplerParams { repetition_penalty: 1.5, logprobs: Some(2), ..base },
        // The logits are finite, and what the bias makes of one too; it is the model's that counts.
        SamplerParams { logit_bias: &[(3, f32::MAX)], stop_token_ids: &[0, 4099], min_tokens: 1, ..base },
    ];
    let row: Vec<f32> = (0..VOCAB).map(|i| (i % 50) as f32).collect();
    let mut card = Card::new(VOCAB, all.len());
    let tasks: Vec<_> = (0..all.len()).map(|slot| sample(slot, 0, &[])).collect();
    for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for at in [0, 1, 31, 511, 512, 2000, 4095, 4096, 4099] {
            card.start_all(&all);
            let mut spoilt = row.clone();
            spoilt[at] = bad;
            let results = card.run(&tasks, &[&spoilt]);
            assert_eq!(results.outcomes, vec![SampleOutcome::NotFinite; all.len()], "{bad} at {at}");
            assert_eq!(results.tokens, []);
        }
    }
    card.start_all(&all);
    let results = card.run(&tasks, &[&row]);
    assert_eq!(results.outcomes, vec![SampleOutcome::Tokens(1); all.len()]);
    // A penalty may overflow.
    let params = SamplerParams { frequency_penalty: f32::MAX, ..base };
    card.sampler.end(0);
    card.sampler.start(0, &params, &[], &[7, 7]).unwrap();
    assert_eq!(card.run(&tasks[..1], &[&row]).outcomes, [SampleOutcome::NotFinite]);
}

#[test]
fn extreme_parameters_choose_what_is_legal() {
    let base = SamplerParams { seed: 9, ..SamplerParams::default() };
    let extremes = [
        SamplerParams { temperature: 1.1e-5, ..base },
        SamplerParams { temperature: 1e30, top_p: 1e-9, ..base },
        SamplerParams { top_k: u32::MAX, min_p: 2.0, ..base },
        SamplerParams { typical_p: 0.0, top_p: -1.0, ..base },
        SamplerParams { typical_p: 1e-30, ..base },
        SamplerParams { top_p: 1.0 - f32::EPSILON / 2.0, ..base },
        SamplerParams { typical_p: 1.0 - f32::EPSILON / 2.0, min_p: 1e-30, ..base },
        SamplerParams { top_k: 299, ..base },
        SamplerParams { seed: u64::MAX, top_k: 300, typical_p: 0.5, ..base },
    ];
    let row: Vec<f32> = (0..300).map(|i| (i % 17) as f32 * 7.0).collect();
    let mut huge = row.clone();
    (huge[3], huge[4], huge[5]) = (f32::MAX, f32::MIN, f32::MIN_POSITIVE / 8.0);
    for row in [row, huge] {
        let mut card = Card::new(300, extremes.len());
        card.start_all(&extremes);
        let found = card.step(&vec![&row[..]; extremes.len()]);
        for (params, found) in extremes.iter().zip(found) {
            assert_eq!(found, reference::choice(&row, params, 0), "{params:?}");
        }
    }
    // Parameters that are not numbers choose something.
    let nan = f32::NAN;
    let none = SamplerParams { temperature: nan, top_p: nan, min_p: nan, typical_p: nan, ..base };
    let mut card = Card::new(3, 1);
    assert!(card.sample_one(&none, &[1.0, 2.0, 3.0]).tokens[0].id < 3);
    let half = SamplerParams { temperature: nan, top_p: 0.5, min_p: 0.1, typical_p: 0.5, top_k: 2, ..base };
    assert!(card.sample_one(&half, &[1.0, 2.0, 3.0]).tokens[0].id < 3);
}
