//! What the kernels mean, with everything sorted and nothing clever: the engine's sampler in fixed point, and with sums
//! in f64 as the engine has them.

use std::collections::HashMap;

use crate::sampling::SamplerParams;

/// A token that may be chosen.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    id: u32,
    logit: f32,
    exponent: f32,
    weight: f32,
    /// The weight in units of 2^-45, and its product with the exponent.
    units: u64,
    surprise: u64,
}

/// As `exp_below_zero` of the engine's sampler.
pub fn exp_below_zero(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0;
    let clamped = if x > -87.0 { x } else { -87.0 };
    let rounded = clamped * std::f32::consts::LOG2_E + ROUND;
    let power = rounded - ROUND;
    let r = (clamped - power * 0.693_359_4) - power * -2.121_944_4e-4;
    let mut poly = 1.0 / 5040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        poly = poly * r + coefficient;
    }
    let scale = f32::from_bits((rounded.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127)) << 23);
    if x > -87.0 { poly * scale } else { 0.0 }
}

/// As `uniform` of the engine's sampler, before it becomes a number below 1.
pub fn draw_bits(seed: u64, index: usize) -> u64 {
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let finalise = |mut z: u64| {
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    finalise(finalise(seed.wrapping_add(GOLDEN)) ^ (index as u64).wrapping_mul(GOLDEN)) >> 11
}

fn candidates(logits: &[f32], temperature: f32) -> Vec<Candidate> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let candidate = |(id, &logit): (u32, &f32)| {
        let exponent = (logit - max) * temperature.recip();
        let weight = exp_below_zero(exponent);
        let units = (f64::from(weight) * 2f64.powi(45)).round_ties_even() as u64;
        let below = (f64::from(-exponent.max(-40.0)) * 2f64.powi(40)).round_ties_even() as u64;
        let surprise = ((u128::from(units) << 12) * (u128::from(below) << 12)) >> 64;
        Candidate { id, logit, exponent, weight, units, surprise: surprise as u64 }
    };
    (0..).zip(logits).map(candidate).collect()
}

fn is_greedy(params: &SamplerParams<'_>) -> bool {
    params.temperature < 1e-5 || params.top_k == 1
}

pub fn first_of_the_largest(logits: &[f32]) -> u32 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    logits.iter().position(|&logit| logit >= max).unwrap() as u32
}

/// Keeps the best until their sum reaches the target.
fn keep_share<S: PartialOrd + Copy>(
    kept: &mut Vec<Candidate>,
    target: S,
    mut sum: S,
    add: impl Fn(S, &Candidate) -> S,
) {
    let enough = kept.iter().position(|candidate| {
        sum = add(sum, candidate);
        sum >= target
    });
    kept.truncate(enough.map_or(kept.len(), |last| last + 1));
}

fn keep_largest(kept: &mut Vec<Candidate>, k: u32) {
    kept.sort_by(|a, b| b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id)));
    if k > 0 {
        kept.truncate(k as usize);
    }
}

fn sort_by_exponent(kept: &mut [Candidate]) {
    kept.sort_by(|a, b| b.exponent.total_cmp(&a.exponent).then(a.id.cmp(&b.id)));
}

fn sort_by_distance(kept: &mut [Candidate], mean: f32) {
    let distance = |candidate: &Candidate| (candidate.exponent - mean).abs();
    kept.sort_by(|a, b| distance(a).total_cmp(&distance(b)).then(a.id.cmp(&b.id)));
}

/// The tokens that may be chosen by the definition in fixed point, in the order of ids, with their weights.
pub fn legal_choices(logits: &[f32], params: &SamplerParams<'_>) -> Vec<(u32, u64)> {
    let mut kept = candidates(logits, params.temperature);
    let total = |kept: &[Candidate]| kept.iter().map(|candidate| candidate.units).sum::<u64>();
    let share = |total: u64, p: f32| {
        let share = (f64::from(p.max(0.0)) * 2f64.powi(64)) as u64;
        ((u128::from(total) * u128::from(share)).div_ceil(1 << 64) as u64).max(1)
    };
    let add = |sum: u64, candidate: &Candidate| sum + candidate.units;
    keep_largest(&mut kept, params.top_k);
    kept.retain(|candidate| candidate.units > 0);
    sort_by_exponent(&mut kept);
    if params.top_p < 1.0 {
        let target = share(total(&kept), params.top_p);
        keep_share(&mut kept, target, 0, add);
    }
    kept.retain(|candidate| candidate.weight >= params.min_p.min(1.0));
    if params.typical_p < 1.0 {
        let surprise: u64 = kept.iter().map(|candidate| candidate.surprise).sum();
        let mean = -(surprise as f64 / total(&kept) as f64) as f32;
        sort_by_distance(&mut kept, mean);
        let target = share(total(&kept), params.typical_p);
        keep_share(&mut kept, target, 0, add);
    }
    kept.sort_by_key(|candidate| candidate.id);
    kept.iter().map(|candidate| (candidate.id, candidate.units)).collect()
}

/// The choice in fixed point, which is the kernels' to the bit.
pub fn choice(logits: &[f32], params: &SamplerParams<'_>, index: usize) -> u32 {
    if is_greedy(params) {
        return first_of_the_largest(logits);
    }
    let legal = legal_choices(logits, params);
    let total: u64 = legal.iter().map(|(_, units)| units).sum();
    let target = (u128::from(total) * u128::from(draw_bits(params.seed, index))) >> 53;
    let mut sum = 0;
    let chosen = legal.iter().find(|(_, units)| {
        sum += u128::from(*units);
        sum > target
    });
    chosen.unwrap().0
}

/// The choice with sums in f64.
pub fn choice_in_f64(logits: &[f32], params: &SamplerParams<'_>, index: usize) -> u32 {
    if is_greedy(params) {
        return first_of_the_largest(logits);
    }
    let mut kept = candidates(logits, params.temperature);
    let total = |kept: &[Candidate]| kept.iter().map(|candidate| f64::from(candidate.weight)).sum::<f64>();
    let add = |sum: f64, candidate: &Candidate| sum + f64::from(candidate.weight);
    keep_largest(&mut kept, params.top_k);
    kept.retain(|candidate| candidate.weight > 0.0);
    sort_by_exponent(&mut kept);
    if params.top_p < 1.0 {
        let target = f64::from(params.top_p.max(0.0)) * total(&kept);
        keep_share(&mut kept, target, 0.0, add);
    }
    kept.retain(|candidate| candidate.weight >= params.min_p.min(1.0));
    if params.typical_p < 1.0 {
        let product = |candidate: &Candidate| f64::from(candidate.weight) * f64::from(candidate.exponent);
        let mean = (kept.iter().map(product).sum::<f64>() / total(&kept)) as f32;
        sort_by_distance(&mut kept, mean);
        let target = f64::from(params.typical_p.max(0.0)) * total(&kept);
        keep_share(&mut kept, target, 0.0, add);
    }
    kept.sort_by_key(|candidate| candidate.id);
    let draw = draw_bits(params.seed, index) as f64 / 2f64.powi(53);
    let mut target = draw * total(&kept);
    let chosen = kept.iter().find(|candidate| {
        target -= f64::from(candidate.weight);
        target < 0.0
    });
    chosen.unwrap_or(&kept[kept.len() - 1]).id
}

/// A sequence as the engine's sampler keeps it.
#[derive(Debug, Clone)]
pub struct Sequence<'a> {
    pub params: SamplerParams<'a>,
    counts: HashMap<u32, u32>,
    pub num_generated: usize,
}

impl<'a> Sequence<'a> {
    pub fn new(params: SamplerParams<'a>, prompt: &[u32], output: &[u32]) -> Self {
        let mut new = Self { params, counts: HashMap::new(), num_generated: 0 };
        if (params.repetition_penalty - 1.0).abs() > 0.0 {
            new.counts.extend(prompt.iter().map(|&id| (id, 0)));
        }
        for &id in output {
            new.push(id);
        }
        new
    }

    pub fn push(&mut self, id: u32) {
        self.num_generated += 1;
        *self.counts.entry(id).or_default() += 1;
    }

    /// The logits to choose from.
    pub fn change(&self, row: &[f32]) -> Vec<f32> {
        let mut logits = row.to_vec();
        let params = &self.params;
        for (&id, &count) in &self.counts {
            let Some(logit) = logits.get_mut(id as usize) else { continue };
            *logit = if *logit > 0.0 { *logit / params.repetition_penalty } else { *logit * params.repetition_penalty };
            if count > 0 {
                *logit -= count as f32 * params.frequency_penalty + params.presence_penalty;
            }
        }
        for &(id, bias) in params.logit_bias {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit += bias.clamp(-1e6, 1e6);
            }
        }
        if self.num_generated < params.min_tokens {
            for &id in params.stop_token_ids {
                if let Some(logit) = logits.get_mut(id as usize) {
                    *logit = f32::MIN;
                }
            }
        }
        logits
    }

    /// The next token, noted.
    pub fn sample(&mut self, row: &[f32]) -> u32 {
        let id = choice(&self.change(row), &self.params, self.num_generated);
        self.push(id);
        id
    }
}
