//! What the card keeps of a sequence from step to step: counts, places in the answer, masks of a step, the last token.

use super::{Card, random_row, reference, sample};
use crate::gpu::backend;
use crate::sampling::{SampleKind, SampleOutcome, SampleResults, SampleTask, SamplerParams};

const VOCAB: usize = 4500;
const BIASES: [(u32, f32); 9] =
    [(4499, 2.0), (7, -1e7), (3, 0.3), (3, 1e6), (3, -1e6), (4097, 1.5), (99_999, 5.0), (0, f32::MIN), (7, 9.0)];

fn penalised() -> [SamplerParams<'static>; 8] {
    let base = SamplerParams { seed: 4, top_k: 12, ..SamplerParams::default() };
    [
        SamplerParams { repetition_penalty: 1.7, ..base },
        SamplerParams { frequency_penalty: 0.9, temperature: 0.0, ..base },
        SamplerParams { presence_penalty: 1.1, ..base },
        SamplerParams { repetition_penalty: 0.8, frequency_penalty: 1.5, presence_penalty: -0.7, ..base },
        SamplerParams { logit_bias: &BIASES, ..base },
        SamplerParams { min_tokens: 3, stop_token_ids: &[5, 4100, 8, 100_000], temperature: 0.0, ..base },
        SamplerParams {
            logit_bias: &BIASES,
            frequency_penalty: 2.0,
            min_tokens: 9,
            stop_token_ids: &[2, 4499],
            ..base
        },
        base,
    ]
}

/// Few tokens stand out, so that they come again.
fn steep_rows(random: &mut fastrand::Rng, count: usize) -> Vec<Vec<f32>> {
    let likely = [5usize, 4100, 8, 2, 4499, 4096, 0, 3];
    let mut row = || {
        let mut row = random_row(random, VOCAB, 4.0, 1 << 16);
        for id in likely {
            row[id] = random.f32() * 3.0 + 4.0;
        }
        row
    };
    (0..count).map(|_| row()).collect()
}

#[test]
fn penalties_biases_and_stops_follow_a_sequence() {
    let mut random = fastrand::Rng::with_seed(21);
    let all = penalised();
    let mut card = Card::new(VOCAB, all.len());
    // A second round uses tables that others left behind, and sequences that were preempted.
    for round in 0..3 {
        let mut plain = Vec::new();
        for (slot, params) in all.iter().enumerate() {
            let prompt: Vec<u32> = (0..40).map(|_| random.u32(..VOCAB as u32 + 3)).chain([5, 5, 4100]).collect();
            let output: Vec<u32> = (0..round * 20).map(|_| [5, 8, 2, 4499][random.usize(..4)]).collect();
            card.sampler.end(slot);
            card.sampler.start(slot, params, &prompt, &output).unwrap();
            plain.push(reference::Sequence::new(*params, &prompt, &output));
        }
        for step in 0..7 {
            backend::set_thread_order(step % 3);
            let rows = steep_rows(&mut random, all.len());
            let found = card.step(&rows.iter().map(|row| &row[..]).collect::<Vec<_>>());
            let expected: Vec<_> = plain.iter_mut().zip(&rows).map(|(plain, row)| plain.sample(row)).collect();
            assert_eq!(found, expected, "round {round}, step {step}");
            assert_eq!(card.sampler.last_tokens().to_vec1::<u32>().unwrap()[..all.len()], found);
        }
    }
    backend::set_thread_order(0);
}

#[test]
fn a_long_context_is_counted_to_its_end() {
    let mut card = Card::new(20, 1);
    let params = SamplerParams { temperature: 0.0, frequency_penalty: 1e-3, ..SamplerParams::default() };
    // Token 4 comes 16,390 times, more than are counted at once, and lies 16 above the next one.
    let output = vec![4; 16_390];
    card.sampler.start(0, &params, &[], &output).unwrap();
    let mut row = vec![0.0; 20];
    (row[4], row[9]) = (16.395, 0.01);
    assert_eq!(card.step(&[&row]), [9]);
}

#[test]
fn a_seeded_sequence_goes_on_after_a_preemption() {
    let mut random = fastrand::Rng::with_seed(2);
    let params = SamplerParams { seed: 5, frequency_penalty: 0.3, ..SamplerParams::default() };
    let rows = steep_rows(&mut random, 12);
    let mut card = Card::new(VOCAB, 2);
    let mut answer = |params: &SamplerParams<'_>, slot: usize, before: &[u32]| -> Vec<u32> {
        card.sampler.end(slot);
        card.sampler.start(slot, params, &[9, 8], before).unwrap();
        let rows = rows[before.len()..].iter();
        rows.map(|row| card.run(&[sample(slot, 0, &[])], &[row]).tokens[0].id).collect()
    };
    let whole = answer(&params, 0, &[]);
    assert_eq!(whole, answer(&params, 1, &[]));
    assert_eq!(whole[7..], answer(&params, 1, &whole[..7]));
    assert_ne!(whole, answer(&SamplerParams { seed: 6, ..params }, 0, &[]));
}

#[test]
fn masks_leave_only_what_they_allow() {
    let mut random = fastrand::Rng::with_seed(8);
    let rows = steep_rows(&mut random, 3);
    let words = VOCAB.div_ceil(32);
    let base = SamplerParams { seed: 12, ..SamplerParams::default() };
    let all = [base, SamplerParams { temperature: 0.0, ..base }, SamplerParams { top_p: 0.8, ..base }];
    let mut card = Card::new(VOCAB, 6);
    for share in [1, 50, VOCAB] {
        let masks: Vec<u32> = (0..6 * words)
            .map(|_| (0..32).fold(0, |word, _| word << 1 | u32::from(random.usize(..share) == 0)))
            .collect();
        card.sampler.set_masks(0, &masks).unwrap();
        card.start_all(&all);
        let masked = |slot| SampleKind::Sample { drafts: &[], first_mask: Some(5 - slot) };
        let tasks = [0, 1, 2].map(|slot| SampleTask { slot, first_row: slot, kind: masked(slot) });
        let results = card.run(&tasks, &rows.each_ref_slices());
        let mut tokens = results.tokens.iter();
        for (slot, params) in all.iter().enumerate() {
            let mask = &masks[(5 - slot) * words..][..words];
            let allows = |id: usize| mask[id / 32] >> (id % 32) & 1 == 1;
            let logits: Vec<f32> =
                rows[slot].iter().enumerate().map(|(id, &logit)| if allows(id) { logit } else { f32::MIN }).collect();
            if (0..VOCAB).any(allows) {
                assert_eq!(tokens.next().unwrap().id, reference::choice(&logits, params, 0), "one of {share}");
            } else {
                assert_eq!(results.outcomes[slot], SampleOutcome::NothingAllowed);
            }
        }
    }
}

/// For slices of rows.
trait Rows {
    fn each_ref_slices(&self) -> Vec<&[f32]>;
}

impl Rows for Vec<Vec<f32>> {
    fn each_ref_slices(&self) -> Vec<&[f32]> {
        self.iter().map(|row| &row[..]).collect()
    }
}

#[test]
fn a_mask_that_leaves_only_a_stop_wins_over_min_tokens() {
    let mut card = Card::new(40, 1);
    let params = SamplerParams { min_tokens: 5, stop_token_ids: &[33, 2], ..SamplerParams::default() };
    card.start_all(&[params]);
    card.sampler.set_masks(0, &[0b100, 0]).unwrap();
    let task = SampleTask { slot: 0, first_row: 0, kind: SampleKind::Sample { drafts: &[], first_mask: Some(0) } };
    assert_eq!(card.run(&[task], &[&[1.0; 40]]).tokens[0].id, 2);
    card.sampler.set_masks(0, &[0b1100, 0]).unwrap();
    assert_eq!(card.run(&[task], &[&[1.0; 40]]).tokens[0].id, 3);
}

#[test]
fn a_step_may_start_before_the_one_before_it_is_collected() {
    let mut random = fastrand::Rng::with_seed(13);
    let params = [SamplerParams { frequency_penalty: 3.0, top_k: 4, ..SamplerParams::default() }; 2];
    let rows = steep_rows(&mut random, 6);
    let mut card = Card::new(VOCAB, 4);
    card.start_all(&params);
    let mut plain = params.map(|params| reference::Sequence::new(params, &[0], &[]));
    let mut results = SampleResults::default();
    let mut before = None;
    for step in 0..5 {
        let logits = card.tensor(&[&rows[step], &rows[step + 1]]);
        let ticket = card.sampler.stage([sample(0, 0, &[]), sample(1, 1, &[])]).unwrap();
        // A recording for more rows than the step has.
        card.sampler.launch(&logits, 4).unwrap();
        card.sampler.begin_collecting(&ticket).unwrap();
        let expected = [plain[0].sample(&rows[step]), plain[1].sample(&rows[step + 1])];
        if let Some((ticket, expected)) = before.replace((ticket, expected)) {
            card.sampler.collect(ticket, &mut results).unwrap();
            assert_eq!(super::ids(&results.tokens), expected);
        }
    }
}

#[test]
fn mistakes_are_refused() {
    let mut card = Card::new(10, 2);
    let base = SamplerParams::default();
    assert!(card.sampler.start(2, &base, &[], &[]).is_err(), "no such slot");
    assert!(card.sampler.start(0, &SamplerParams { logprobs: Some(21), ..base }, &[], &[]).is_err());
    card.sampler.start(0, &base, &[], &[]).unwrap();
    assert!(card.sampler.start(0, &base, &[], &[]).is_err(), "in use");
    assert!(card.sampler.stage([sample(1, 0, &[])]).is_err(), "not in use");
    assert!(card.sampler.stage([sample(0, 0, &[1, 2])]).is_err(), "too many rows");
    let logits = card.tensor(&[&[0.0; 10]]);
    assert!(card.sampler.run([sample(0, 0, &[1])], &logits).is_err(), "a row that is not there");
    assert!(card.sampler.run([sample(0, 0, &[])], &card.tensor(&[&[0.0; 9]])).is_err(), "another vocabulary");
    assert!(card.sampler.set_masks(1, &[1, 2]).is_err());
    let late = card.sampler.run([sample(0, 0, &[])], &logits).unwrap();
    let _ = card.sampler.run([sample(0, 0, &[])], &logits).unwrap();
    let _ = card.sampler.run([], &logits).unwrap();
    assert!(card.sampler.collect(late, &mut SampleResults::default()).is_err(), "overwritten");
}
