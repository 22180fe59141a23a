//! The sampler over small vocabularies: distributions against their definitions, and every parameter's effect.
#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;

fn params() -> SamplingParams {
    SamplingParams::default()
}

fn spec(params: SamplingParams) -> SamplingSpec {
    SamplingSpec { params, seed: 0, min_tokens: 0, stop_token_ids: Vec::new(), prompt_logprobs: None }
}

fn state_of(spec: SamplingSpec, prompt: &[u32], output: &[u32]) -> SamplerState {
    let tokens = [prompt, output].concat();
    SamplerState::new(&SequenceStart { slot: 0, spec: Arc::new(spec), tokens, prompt_len: prompt.len() })
}

fn state(params: SamplingParams) -> SamplerState {
    state_of(spec(params), &[0], &[])
}

fn sample(state: &SamplerState, row: &[f32]) -> u32 {
    state.sample(row, &mut Scratch::default()).unwrap().id
}

/// How often each token comes in 20,000 draws.
fn frequencies(params: &SamplingParams, row: &[f32]) -> Vec<f64> {
    const DRAWS: usize = 20_000;
    let mut counts = vec![0f64; row.len()];
    let mut scratch = Scratch::default();
    for seed in 0..DRAWS {
        let state = state(SamplingParams { seed: Some(seed as u64), ..params.clone() });
        let seeded =
            SamplerState { spec: Arc::new(SamplingSpec { seed: seed as u64, ..(*state.spec).clone() }), ..state };
        counts[seeded.sample(row, &mut scratch).unwrap().id as usize] += 1.0 / DRAWS as f64;
    }
    counts
}

fn assert_frequencies(params: &SamplingParams, row: &[f32], expected: &[f64]) {
    for (id, (found, expected)) in frequencies(params, row).iter().zip(expected).enumerate() {
        assert!((found - expected).abs() < 0.015, "token {id} came {found}, expected {expected} with {params:?}");
        assert!(*expected > 0.0 || *found == 0.0, "token {id} must never come with {params:?}");
    }
}

fn logits(shares: &[f64]) -> Vec<f32> {
    shares.iter().map(|share| share.ln() as f32 + 3.0).collect()
}

fn normalised(weights: &[f64]) -> Vec<f64> {
    let total: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / total).collect()
}

const SHARES: [f64; 5] = [0.1, 0.4, 0.05, 0.15, 0.3];

#[test]
fn plain_sampling_follows_the_softmax() {
    assert_frequencies(&params(), &logits(&SHARES), &SHARES);
}

#[test]
fn temperature_sharpens_and_flattens() {
    for temperature in [0.5f32, 2.0] {
        let expected = normalised(&SHARES.map(|share| share.powf(1.0 / f64::from(temperature))));
        assert_frequencies(&SamplingParams { temperature, ..params() }, &logits(&SHARES), &expected);
    }
}

#[test]
fn truncations_keep_what_they_promise() {
    let row = logits(&SHARES);
    let check = |params: SamplingParams, kept: [f64; 5]| assert_frequencies(&params, &row, &normalised(&kept));
    check(SamplingParams { top_k: 2, ..params() }, [0.0, 0.4, 0.0, 0.0, 0.3]);
    check(SamplingParams { top_p: 0.75, ..params() }, [0.0, 0.4, 0.0, 0.15, 0.3]);
    check(SamplingParams { top_p: 0.0, ..params() }, [0.0, 0.4, 0.0, 0.0, 0.0]);
    check(SamplingParams { min_p: 0.3, ..params() }, [0.0, 0.4, 0.0, 0.15, 0.3]);
    check(SamplingParams { min_p: 1.0, ..params() }, [0.0, 0.4, 0.0, 0.0, 0.0]);
    // 0.4 / 0.85 of what top_k leaves is less than a half: the nucleus needs two.
    check(SamplingParams { top_k: 3, top_p: 0.5, ..params() }, [0.0, 0.4, 0.0, 0.0, 0.3]);
    check(SamplingParams { top_k: 4, top_p: 0.9, min_p: 0.5, ..params() }, [0.0, 0.4, 0.0, 0.0, 0.3]);
    // The entropy is 1.39 nat: nearest to it are the surprises 1.20 (0.3), 0.92 (0.4), 1.90 (0.15).
    check(SamplingParams { typical_p: 0.6, ..params() }, [0.0, 0.4, 0.0, 0.0, 0.3]);
    check(SamplingParams { typical_p: 0.2, ..params() }, [0.0, 0.0, 0.0, 0.0, 0.3]);
}

#[test]
fn temperature_counts_among_the_likeliest_too() {
    let [second, best] = [0.3f64, 0.4].map(|share| share.powi(2));
    let expected = normalised(&[0.0, best, 0.0, 0.0, second]);
    assert_frequencies(&SamplingParams { top_k: 2, temperature: 0.5, ..params() }, &logits(&SHARES), &expected);
}

#[test]
fn the_nucleus_is_a_share_of_all_tokens_however_unlikely() {
    // Weights 1 and 0.5, and 8.5 among tokens of 0.0005 each: a nucleus of 0.12 needs the first two.
    let mut row = vec![0.0005f32.ln(); 17_002];
    (row[3], row[9]) = (0.0, 0.5f32.ln());
    let found = (0..2000u64).map(|seed| {
        let spec = SamplingSpec { seed, ..spec(SamplingParams { top_p: 0.12, ..params() }) };
        sample(&state_of(spec, &[0], &[]), &row)
    });
    let second = found.filter(|&id| id == 9).count();
    assert!((500..850).contains(&second), "{second} of 2,000");
}

#[test]
fn greedy_takes_the_first_of_the_largest() {
    let row = [1.0, 5.0, 2.0, 5.0];
    let greedy = SamplingParams { temperature: 0.0, ..params() };
    assert_eq!(sample(&state(greedy.clone()), &row), 1);
    assert_eq!(sample(&state(SamplingParams { top_k: 1, ..params() }), &row), 1);
    let biased = SamplingParams { logit_bias: vec![(2, 4.0), (99, 5.0)], ..greedy };
    assert_eq!(sample(&state(biased), &row), 2);
}

#[test]
fn penalties_follow_their_definitions() {
    let greedy = SamplingParams { temperature: 0.0, ..params() };
    let row = [4.0, 3.0, 2.5, -1.0];
    let next =
        |params: SamplingParams, prompt: &[u32], output: &[u32]| sample(&state_of(spec(params), prompt, output), &row);
    let repetition = SamplingParams { repetition_penalty: 1.5, ..greedy.clone() };
    assert_eq!(next(repetition.clone(), &[0], &[]), 1, "4 / 1.5 is less than 3; the prompt counts");
    assert_eq!(next(repetition.clone(), &[0], &[1]), 0, "4 / 1.5 > 2.5 > 3 / 1.5");
    assert_eq!(next(repetition, &[0, 1], &[0, 0, 0]), 0, "however often");
    let frequency = SamplingParams { frequency_penalty: 0.6, ..greedy.clone() };
    assert_eq!(next(frequency.clone(), &[0, 0, 0], &[0]), 0, "the prompt does not count");
    assert_eq!(next(frequency, &[0], &[0, 0]), 1);
    let both = SamplingParams { repetition_penalty: 1.01, frequency_penalty: 2.0, ..greedy.clone() };
    assert_eq!(next(both, &[0, 0], &[]), 0, "nor with a penalty for which it does");
    let presence = SamplingParams { presence_penalty: 0.9, ..greedy.clone() };
    assert_eq!(next(presence.clone(), &[0], &[0, 0, 0]), 0, "once, however often");
    assert_eq!(next(SamplingParams { presence_penalty: 1.1, ..presence }, &[0], &[0]), 1);
    let mut state = state_of(spec(SamplingParams { frequency_penalty: 0.6, ..greedy }), &[3], &[]);
    let mut answer = Vec::new();
    for _ in 0..4 {
        answer.push(sample(&state, &row));
        state.push(*answer.last().unwrap());
    }
    // 4, 3.4 | 2.8 < 3 | 3 - 0.6 = 2.4 < 2.8
    assert_eq!(answer, [0, 0, 1, 0]);
}

#[test]
fn negative_logits_are_repelled_too() {
    let greedy = SamplingParams { temperature: 0.0, repetition_penalty: 2.0, ..params() };
    assert_eq!(sample(&state_of(spec(greedy), &[0], &[]), &[-1.0, -1.5]), 1);
}

#[test]
fn end_tokens_wait_for_min_tokens() {
    let row = [1.0, 9.0, 2.0];
    for temperature in [0.0, 1.0] {
        let spec = SamplingSpec {
            min_tokens: 2,
            stop_token_ids: vec![1],
            ..spec(SamplingParams { temperature, top_k: 2, ..params() })
        };
        let mut state = state_of(spec, &[0], &[]);
        for _ in 0..2 {
            assert_ne!(sample(&state, &row), 1);
            state.push(2);
        }
        assert_eq!(
            sample(
                &SamplerState {
                    spec: Arc::new(SamplingSpec {
                        params: SamplingParams { temperature: 0.0, ..params() },
                        ..(*state.spec).clone()
                    }),
                    ..state
                },
                &row
            ),
            1
        );
    }
}

#[test]
fn the_same_seed_and_place_give_the_same_token() {
    let row: Vec<f32> = (0..5000).map(|i| ((i * 31) % 97) as f32 / 20.0).collect();
    let spec = |seed| SamplingSpec { seed, ..spec(params()) };
    let answer = |seed: u64, skip: usize| -> Vec<u32> {
        let mut state = state_of(spec(seed), &[0], &vec![7; skip]);
        (skip..20)
            .map(|_| {
                let id = sample(&state, &row);
                state.push(id);
                id
            })
            .collect()
    };
    let whole = answer(5, 0);
    assert_eq!(whole, answer(5, 0));
    assert_eq!(whole[8..], answer(5, 8), "started again after a preemption");
    assert_ne!(whole, answer(6, 0));
    assert!(whole.iter().any(|&id| id != whole[0]));
}

#[test]
fn logprobs_are_of_the_plain_softmax() {
    let asked =
        SamplingParams { temperature: 0.0, logprobs: Some(3), logit_bias: vec![(0, 50.0)], top_k: 2, ..params() };
    let token = state(asked).sample(&logits(&SHARES), &mut Scratch::default()).unwrap();
    let logprob = token.logprob.unwrap();
    assert_eq!(token.id, 0);
    assert!((f64::from(logprob.logprob) - 0.1f64.ln()).abs() < 1e-5);
    assert_eq!(logprob.top.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 4, 3]);
    assert!((f64::from(logprob.top[0].1) - 0.4f64.ln()).abs() < 1e-5);
    let prompt = prompt_logprob(&logits(&SHARES), 2, 1, &mut Scratch::default()).unwrap();
    assert!((f64::from(prompt.logprob) - 0.05f64.ln()).abs() < 1e-5);
    assert_eq!(prompt.top.len(), 1);
}

#[test]
fn what_is_not_finite_is_an_error_whatever_the_parameters() {
    let all = [
        params(),
        SamplingParams { temperature: 0.0, ..params() },
        SamplingParams { top_k: 2, top_p: 0.5, ..params() },
        SamplingParams { repetition_penalty: 1.5, logprobs: Some(2), ..params() },
    ];
    for params in all {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let result = state(params.clone()).sample(&[1.0, bad, 0.5], &mut Scratch::default());
            assert_eq!(result, Err(NotFinite));
        }
    }
    assert!(prompt_logprob(&[f32::NAN], 0, 0, &mut Scratch::default()).is_err());
}

/// The run of a greedy sampler over rows that favour tokens 1, 2 and 0.
fn run(params: SamplingParams, rows: [[f32; 3]; 3], drafts: &[u32]) -> (Result<Vec<u32>, NotFinite>, SamplerState) {
    let mut state = state(SamplingParams { temperature: 0.0, ..params });
    let rows = rows.iter().map(|row| &row[..]);
    let tokens = state.sample_run(rows, drafts.iter().copied(), &mut Scratch::default());
    (tokens.map(|tokens| tokens.iter().map(|token| token.id).collect()), state)
}

#[test]
fn a_run_goes_on_while_its_drafts_are_right() {
    const ROWS: [[f32; 3]; 3] = [[0.0, 1.0, 0.5], [0.0, 0.5, 1.0], [1.0, 0.0, 0.5]];
    for (drafts, expected) in [(vec![1, 2], vec![1, 2, 0]), (vec![1, 1], vec![1, 2]), (vec![2, 2], vec![1])] {
        let (tokens, state) = run(params(), ROWS, &drafts);
        assert_eq!((tokens, state.num_generated), (Ok(expected.clone()), expected.len()), "{drafts:?}");
    }
    assert_eq!(run(params(), ROWS, &[]).0, Ok(vec![1]));
    let mut spoilt = ROWS;
    spoilt[1][0] = f32::NAN;
    assert_eq!(run(params(), spoilt, &[1, 2]).0, Ok(vec![1]));
    assert_eq!(run(params(), spoilt, &[2, 2]).0, Ok(vec![1]));
    spoilt[0][0] = f32::NAN;
    assert_eq!(run(params(), spoilt, &[1, 2]).0, Err(NotFinite));
}

#[test]
fn a_run_sees_the_tokens_before_it() {
    let rows = [[0.0, 1.0, 0.5], [0.0, 1.0, 0.5], [0.1, 1.0, 0.5]];
    let once = SamplingParams { frequency_penalty: 2.0, ..params() };
    assert_eq!(run(once, rows, &[1, 2]).0, Ok(vec![1, 2, 0]));
}

#[test]
fn extreme_parameters_choose_something() {
    let row: Vec<f32> = (0..300).map(|i| (i % 17) as f32).collect();
    let extremes = [
        SamplingParams { temperature: 1e-4, ..params() },
        SamplingParams { temperature: 1e30, top_p: 1e-9, ..params() },
        SamplingParams { top_k: u32::MAX, min_p: 2.0, ..params() },
        SamplingParams { typical_p: 0.0, top_p: -1.0, ..params() },
        SamplingParams { logit_bias: vec![(3, f32::MAX), (4, f32::MIN)], ..params() },
        SamplingParams { frequency_penalty: 1e30, ..params() },
        SamplingParams { frequency_penalty: 1e38, top_k: 300, typical_p: 0.5, ..params() },
    ];
    for params in extremes {
        assert!((sample(&state_of(spec(params), &[1], &[2, 3]), &row) as usize) < row.len());
    }
}

/// What [`SamplerState::choose`] means, with everything sorted and nothing clever. Exponentials and the sum over a
/// whole row, which rounds, are the sampler's own.
fn plain_choice(logits: &[f32], params: &SamplingParams, draw: f64) -> u32 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exponent = |logit: &f32| (logit - max) * params.temperature.recip();
    let mut kept: Vec<Candidate> = (0..).zip(logits).map(|(id, logit)| Candidate::new(id, exponent(logit))).collect();
    let weights: Vec<f32> = kept.iter().map(|candidate| candidate.weight).collect();
    kept.retain(|candidate| candidate.weight > 0.0);
    let keep_share = |kept: &mut Vec<Candidate>, target: f64| {
        let mut sum = 0.0;
        let enough = kept.iter().position(|candidate| {
            sum += f64::from(candidate.weight);
            sum >= target
        });
        kept.truncate(enough.map_or(kept.len(), |last| last + 1));
    };
    let total = |kept: &[Candidate]| kept.iter().map(|candidate| f64::from(candidate.weight)).sum::<f64>();
    kept.sort_by(|a, b| b.exponent.total_cmp(&a.exponent).then(a.id.cmp(&b.id)));
    if params.top_k > 0 {
        kept.truncate(params.top_k as usize);
    }
    if params.top_p < 1.0 {
        let total = if params.top_k > 0 { total(&kept) } else { passes::sum(&weights) };
        let target = f64::from(params.top_p) * total;
        keep_share(&mut kept, target);
    }
    kept.retain(|candidate| candidate.weight >= params.min_p);
    if params.typical_p < 1.0 {
        let product = |candidate: &Candidate| f64::from(candidate.weight) * f64::from(candidate.exponent);
        let mean = (kept.iter().map(product).sum::<f64>() / total(&kept)) as f32;
        let distance = |candidate: &Candidate| (candidate.exponent - mean).abs();
        kept.sort_by(|a, b| distance(a).total_cmp(&distance(b)).then(a.id.cmp(&b.id)));
        let target = f64::from(params.typical_p) * total(&kept);
        keep_share(&mut kept, target);
    }
    kept.sort_by_key(|candidate| candidate.id);
    let mut target = draw * total(&kept);
    let chosen = kept.iter().find(|candidate| {
        target -= f64::from(candidate.weight);
        target < 0.0
    });
    chosen.unwrap_or(&kept[kept.len() - 1]).id
}

#[test]
fn choices_are_those_of_a_plain_sampler() {
    let mut random = fastrand::Rng::with_seed(7);
    let mut scratch = Scratch::default();
    for round in 0..3000 {
        let len = random.usize(1..1500);
        let spread = [0.5, 6.0, 40.0][round % 3];
        // Few levels: many tokens are equally likely.
        let levels = [8, 1 << 20][round % 2];
        let row: Vec<f32> = (0..len).map(|_| spread * random.u32(..levels) as f32 / levels as f32).collect();
        let mut sometimes = |off: f32, value: f32| if random.bool() { off } else { value };
        let params = SamplingParams {
            temperature: sometimes(1.0, 0.3),
            top_p: sometimes(1.0, 0.9),
            min_p: sometimes(0.0, 0.05),
            typical_p: sometimes(1.0, 0.7),
            top_k: sometimes(0.0, 30.0) as u32,
            ..params()
        };
        for seed in 0..4 {
            let spec = SamplingSpec { seed, ..spec(params.clone()) };
            let found = state_of(spec, &[0], &[]).sample(&row, &mut scratch).unwrap().id;
            assert_eq!(found, plain_choice(&row, &params, random::uniform(seed, 0)), "round {round}: {params:?}");
        }
    }
}
