//! Log-probabilities, of answers and of prompts.

use super::{Card, random_row, sample};
use crate::sampling::{Logprob, SampleKind, SampleOutcome, SampleTask, SamplerParams};

/// By the definition, in f64.
fn expected(row: &[f32], id: u32, alternatives: usize) -> (f64, Vec<(u32, f64)>) {
    let max = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let total = max + row.iter().map(|&logit| (f64::from(logit) - max).exp()).sum::<f64>().ln();
    let mut all: Vec<(u32, f32)> = (0..).zip(row.iter().copied()).collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    all.truncate(alternatives);
    (f64::from(row[id as usize]) - total, all.into_iter().map(|(id, logit)| (id, f64::from(logit) - total)).collect())
}

fn assert_logprob(found: &Logprob, row: &[f32], id: u32, alternatives: usize) {
    let (logprob, top) = expected(row, id, alternatives);
    let near = |found: f32, expected: f64| (f64::from(found) - expected).abs() < 1e-5 + expected.abs() * 1e-6;
    assert!(near(found.logprob, logprob), "{} for {logprob}", found.logprob);
    assert_eq!(found.top.len(), top.len());
    for (found, expected) in found.top.iter().zip(top) {
        assert!(found.0 == expected.0 && near(found.1, expected.1), "{found:?} for {expected:?}");
    }
}

#[test]
fn logprobs_are_of_the_plain_softmax() {
    let mut random = fastrand::Rng::with_seed(19);
    for (round, vocab) in [1, 2, 15, 300, 4097, 9000].into_iter().enumerate() {
        let base = SamplerParams { seed: round as u64, logprobs: Some(20), ..SamplerParams::default() };
        let all = [
            base,
            SamplerParams { temperature: 0.0, logprobs: Some(0), ..base },
            SamplerParams { top_k: 3, logit_bias: &[(0, 50.0)], logprobs: Some(3), ..base },
            SamplerParams { temperature: 0.3, typical_p: 0.5, repetition_penalty: 2.0, logprobs: Some(1), ..base },
            SamplerParams { logprobs: None, ..base },
        ];
        let rows = [1, 7, 1 << 20, 1 << 20, 3].map(|levels| random_row(&mut random, vocab, 9.0, levels));
        let mut card = Card::new(vocab, 10);
        card.start_all(&all);
        let mut tasks: Vec<_> = (0..all.len()).map(|slot| sample(slot, slot, &[])).collect();
        let prompt = |row: usize| (vocab as u32 - 1, [20, 0, 5, 1, 7][row]);
        for row in 0..rows.len() {
            let (token, alternatives) = prompt(row);
            let kind = SampleKind::PromptLogprob { token, alternatives };
            tasks.insert(2 * row, SampleTask { slot: 4, first_row: row, kind });
        }
        let results = card.run(&tasks, &rows.each_ref().map(|row| &row[..]));
        for (slot, (token, row)) in results.tokens.iter().zip(&rows).enumerate() {
            match (&token.logprob, all[slot].logprobs) {
                (Some(found), Some(alternatives)) => assert_logprob(found, row, token.id, alternatives.into()),
                (None, None) => {}
                (found, asked) => panic!("{found:?} where {asked:?} was asked for"),
            }
        }
        for (row, logits) in rows.iter().enumerate() {
            let SampleOutcome::Logprob(found) = &results.outcomes[2 * row] else { panic!("no logprob") };
            let (token, alternatives) = prompt(row);
            assert_logprob(found, logits, token, alternatives.into());
        }
    }
}

#[test]
fn prompt_logprobs_need_finite_logits_and_tell_nothing_of_unknown_tokens() {
    let mut card = Card::new(5, 2);
    card.start_all(&[SamplerParams::default()]);
    let task = |first_row, token| SampleTask {
        slot: 0,
        first_row,
        kind: SampleKind::PromptLogprob { token, alternatives: 1 },
    };
    let results = card.run(&[task(0, 2), task(1, 5)], &[&[1.0, f32::NAN, 0.0, 0.0, 0.0], &[0.0; 5]]);
    assert_eq!(results.outcomes[0], SampleOutcome::NotFinite);
    let SampleOutcome::Logprob(found) = &results.outcomes[1] else { panic!("no logprob") };
    assert!(found.logprob == f32::NEG_INFINITY && found.top == [(0, -(5f32.ln()))]);
}
