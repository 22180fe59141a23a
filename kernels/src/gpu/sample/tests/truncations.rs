//! Distributions against their definitions, and what the lists of candidates must not lose.

use super::{Card, random_row, reference};
use crate::sampling::SamplerParams;

const SHARES: [f64; 5] = [0.1, 0.4, 0.05, 0.15, 0.3];

fn logits(shares: &[f64]) -> Vec<f32> {
    shares.iter().map(|share| share.ln() as f32 + 3.0).collect()
}

/// How often each token comes in some 4,000 draws: 64 sequences of 64 tokens.
fn assert_frequencies(params: &SamplerParams<'_>, row: &[f32], kept: &[f64]) {
    const SLOTS: usize = 64;
    const STEPS: usize = 64;
    let mut card = Card::new(row.len(), SLOTS);
    let all: Vec<_> = (0..SLOTS as u64).map(|seed| SamplerParams { seed: seed * 7, ..*params }).collect();
    card.start_all(&all);
    let mut counts = vec![0usize; row.len()];
    for _ in 0..STEPS {
        card.step(&[row; SLOTS]).iter().for_each(|&id| counts[id as usize] += 1);
    }
    let draws = (SLOTS * STEPS) as f64;
    let total: f64 = kept.iter().sum();
    for (id, (&count, kept)) in counts.iter().zip(kept).enumerate() {
        let expected = kept / total;
        let deviation = (draws * expected * (1.0 - expected)).sqrt();
        let off = (count as f64 - draws * expected).abs();
        assert!(off <= 4.0 * deviation, "token {id} came {count} of {draws}, expected {expected} with {params:?}");
    }
}

#[test]
fn frequencies_are_those_of_the_definitions() {
    let row = logits(&SHARES);
    let base = SamplerParams::default();
    let check = |params: SamplerParams<'_>, kept: [f64; 5]| assert_frequencies(&params, &row, &kept);
    check(base, SHARES);
    check(SamplerParams { temperature: 0.5, ..base }, SHARES.map(|share| share.powi(2)));
    check(SamplerParams { temperature: 2.0, ..base }, SHARES.map(f64::sqrt));
    check(SamplerParams { top_k: 2, ..base }, [0.0, 0.4, 0.0, 0.0, 0.3]);
    check(SamplerParams { top_p: 0.75, ..base }, [0.0, 0.4, 0.0, 0.15, 0.3]);
    check(SamplerParams { min_p: 0.3, ..base }, [0.0, 0.4, 0.0, 0.15, 0.3]);
    // 0.4 / 0.85 of what top_k leaves is less than a half: the nucleus needs two.
    check(SamplerParams { top_k: 3, top_p: 0.5, ..base }, [0.0, 0.4, 0.0, 0.0, 0.3]);
    check(SamplerParams { top_k: 4, top_p: 0.9, min_p: 0.5, ..base }, [0.0, 0.4, 0.0, 0.0, 0.3]);
    // The entropy is 1.39 nat: nearest to it are the surprises 1.20 (0.3), 0.92 (0.4), 1.90 (0.15).
    check(SamplerParams { typical_p: 0.6, ..base }, [0.0, 0.4, 0.0, 0.0, 0.3]);
    check(SamplerParams { typical_p: 0.2, ..base }, [0.0, 0.0, 0.0, 0.0, 0.3]);
    check(
        SamplerParams { logit_bias: &[(2, 2.0)], ..base },
        [0.1, 0.4, 0.05 * 2f64.exp().powi(2) / 2f64.exp(), 0.15, 0.3],
    );
}

#[test]
fn rows_of_many_chunks_are_drawn_from_by_their_weights() {
    // Two tokens weigh as much as all others together.
    let mut row = vec![0f32; 9000];
    (row[4095], row[8999]) = (4499f32.ln(), 4499f32.ln());
    let mut card = Card::new(row.len(), 64);
    let all: Vec<_> = (0..64).map(|seed| SamplerParams { seed, ..SamplerParams::default() }).collect();
    card.start_all(&all);
    let (mut first, mut last, mut others) = (0, 0, [0; 3]);
    for _ in 0..8 {
        for id in card.step(&[&row[..]; 64]) {
            match id {
                4095 => first += 1,
                8999 => last += 1,
                _ => others[id as usize / 4096] += 1,
            }
        }
    }
    // Of 512: 128 each, of the others 117, 117 and 23.
    let near = |count: usize, expected: usize| count.abs_diff(expected) < 40;
    assert!(near(first, 128) && near(last, 128), "{first} {last}");
    assert!(near(others[0], 117) && near(others[1], 117) && (5..50).contains(&others[2]), "{others:?}");
}

/// Rows at which a list that is too short, or a floor that is too high, would show.
#[test]
fn lists_of_candidates_lose_nothing() {
    const VOCAB: usize = 9000;
    let mut random = fastrand::Rng::with_seed(5);
    let mut tail = vec![0.0005f32.ln(); VOCAB];
    (tail[3], tail[9]) = (0.0, 0.5f32.ln());
    let mut one_warp = vec![-3.0; VOCAB];
    (0..40).for_each(|i| one_warp[4096 + i] = i as f32 / 50.0);
    let mut far = vec![-14.0; VOCAB];
    far[5000] = 0.0;
    let rows = [
        vec![1.0; VOCAB],
        tail,
        one_warp,
        far,
        (0..VOCAB).map(|i| i as f32 * -0.004).collect(),
        random_row(&mut random, VOCAB, 30.0, 1 << 20),
    ];
    let base = SamplerParams { seed: 77, ..SamplerParams::default() };
    let all = [
        SamplerParams { top_k: 35, ..base },
        SamplerParams { top_k: 4000, top_p: 0.7, ..base },
        SamplerParams { top_k: 8999, min_p: 0.3, ..base },
        SamplerParams { top_p: 0.12, ..base },
        SamplerParams { top_p: 0.99999, ..base },
        SamplerParams { top_p: 0.6, min_p: 1e-3, typical_p: 0.9, ..base },
        SamplerParams { min_p: 1e-12, ..base },
        SamplerParams { typical_p: 0.1, ..base },
        SamplerParams { typical_p: 0.999, ..base },
        SamplerParams { temperature: 3.0, typical_p: 0.5, ..base },
    ];
    let mut card = Card::new(VOCAB, rows.len());
    for params in all {
        for seed in 0..3 {
            let params = SamplerParams { seed: params.seed + seed, ..params };
            card.start_all(&vec![params; rows.len()]);
            let found = card.step(&rows.each_ref().map(|row| &row[..]));
            let expected: Vec<_> = rows.iter().map(|row| reference::choice(row, &params, 0)).collect();
            assert_eq!(found, expected, "{params:?}");
        }
    }
}
