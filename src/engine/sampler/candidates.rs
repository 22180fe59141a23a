//! Choosing from the likeliest: top-k, top-p, min-p and typical-p. Nothing is sorted in full: a set is found by
//! selection, in time linear in the vocabulary whatever the parameters.

use std::cmp::Ordering;

use super::{SamplingParams, passes};

/// Values that are looked at together before any is looked at alone.
const CHUNK: usize = 16;

/// A token that may be chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Candidate {
    pub id: u32,
    /// `(logit - largest logit) / temperature`: 0 of the likeliest, less of others.
    pub exponent: f32,
    /// `e` to the exponent.
    pub weight: f32,
}

impl Candidate {
    pub fn new(id: u32, exponent: f32) -> Self {
        Self { id, exponent, weight: passes::exp_below_zero(exponent) }
    }
}

/// A candidate among others that it is compared with: the least key is the best, of equal ones the lower id.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ranked {
    key: f32,
    id: u32,
    weight: f32,
}

impl Ranked {
    fn order(&self, other: &Self) -> Ordering {
        self.key.total_cmp(&other.key).then(self.id.cmp(&other.id))
    }
}

/// The `k` largest values with their ids, largest first; of equal ones the lower ids.
pub(super) fn largest(row: &[f32], k: usize, out: &mut Vec<(u32, f32)>) {
    let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    let k = k.min(row.len());
    out.clear();
    if k == 0 {
        return;
    }
    let room = (2 * k).max(256);
    // Later ids lose against equal earlier ones: only what is larger can still get in.
    let mut threshold = f32::NEG_INFINITY;
    let mut is_full = false;
    for (chunk, values) in row.chunks(CHUNK).enumerate() {
        if is_full && largest_of(values) <= threshold {
            continue;
        }
        for (index, &value) in values.iter().enumerate() {
            if !is_full || value > threshold {
                out.push(((chunk * CHUNK + index) as u32, value));
            }
        }
        if out.len() >= room {
            out.select_nth_unstable_by(k - 1, order);
            out.truncate(k);
            threshold = out[k - 1].1;
            is_full = true;
        }
    }
    if out.len() > k {
        out.select_nth_unstable_by(k - 1, order);
        out.truncate(k);
    }
    out.sort_unstable_by(order);
}

/// The largest of a few numbers, in a form that the compiler makes vector code of.
fn largest_of(values: &[f32]) -> f32 {
    values.iter().copied().fold(f32::NEG_INFINITY, |max, value| if value > max { value } else { max })
}

/// Keeps the best candidates by their keys until their weights reach `target`, at least one. Their order stays.
///
/// Selection of a weighted quantile: halve the undecided range at its median, go on in the half in which the target is
/// reached. Each round costs half of the one before.
pub(super) fn keep_best(
    candidates: &mut Vec<Candidate>,
    target: f64,
    ranked: &mut Vec<Ranked>,
    key: impl Fn(&Candidate) -> f32,
) {
    let rank = |candidate: &Candidate| Ranked { key: key(candidate), id: candidate.id, weight: candidate.weight };
    ranked.clear();
    ranked.extend(candidates.iter().map(rank));
    let (mut start, mut end, mut before) = (0, ranked.len(), 0f64);
    // Invariant: what lies before `start` is kept and better than the rest, what lies from `end` on is not kept.
    while end - start > 1 {
        let middle = (end - start) / 2;
        let undecided = &mut ranked[start..end];
        undecided.select_nth_unstable_by(middle, Ranked::order);
        let half: f64 = undecided[..middle].iter().map(|ranked| f64::from(ranked.weight)).sum();
        if before + half >= target {
            end = start + middle;
        } else {
            before += half;
            start += middle;
        }
    }
    if let Some(worst) = ranked.get(start) {
        candidates.retain(|candidate| rank(candidate).order(worst).is_le());
    }
}

/// The sum of weights.
pub(super) fn total_weight(candidates: &[Candidate]) -> f64 {
    candidates.iter().map(|candidate| f64::from(candidate.weight)).sum()
}

/// A weight below which no token can survive `top_p` and, where there is none, `min_p`.
///
/// `weights`: relative to the largest, which is 1, with sum `total`.
pub(super) fn least_weight(weights: &[f32], total: f64, params: &SamplingParams) -> f32 {
    if params.top_p >= 1.0 {
        return params.min_p.min(1.0);
    }
    // Most rows have their nucleus among few tokens; where one does not, all are candidates.
    let holds_nucleus = |floor: &f32| {
        let inside: f64 = weights.chunks(1024).map(|block| block_above(block, *floor)).sum();
        inside >= f64::from(params.top_p) * total
    };
    [1e-3, 1e-6].into_iter().find(holds_nucleus).unwrap_or(0.0)
}

/// Hands out the weights of at least `least` and above zero, with their ids, ascending.
pub(super) fn gather(weights: &[f32], least: f32, mut take: impl FnMut(usize, f32)) {
    let least = least.max(f32::MIN_POSITIVE);
    for (chunk, values) in weights.chunks(CHUNK).enumerate() {
        if largest_of(values) >= least {
            for (index, &weight) in values.iter().enumerate().filter(|(_, weight)| **weight >= least) {
                take(chunk * CHUNK + index, weight);
            }
        }
    }
}

fn block_above(block: &[f32], floor: f32) -> f64 {
    let mut kept = [0f32; 1024];
    for (out, &weight) in kept.iter_mut().zip(block) {
        *out = if weight >= floor { weight } else { 0.0 };
    }
    passes::sum(&kept[..block.len()])
}

/// Locally typical sampling (Meister et al. 2023): keeps those whose surprise is nearest to the entropy.
///
/// Surprise is the logarithm of the total less the exponent, and entropy is its mean: the logarithm cancels out.
pub(super) fn keep_typical(candidates: &mut Vec<Candidate>, typical_p: f32, ranked: &mut Vec<Ranked>) {
    let total = total_weight(candidates);
    let product = |candidate: &Candidate| f64::from(candidate.weight) * f64::from(candidate.exponent);
    let mean = (candidates.iter().map(product).sum::<f64>() / total) as f32;
    let distance = |candidate: &Candidate| (candidate.exponent - mean).abs();
    let target = f64::from(typical_p) * total;
    // Most of the weight is near; the rest need not be compared.
    let near = |candidate: &&Candidate| distance(candidate) <= 3.0;
    if candidates.iter().filter(near).map(|candidate| f64::from(candidate.weight)).sum::<f64>() >= target {
        candidates.retain(|candidate| near(&candidate));
    }
    keep_best(candidates, target, ranked, distance);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random_row(random: &mut fastrand::Rng, len: usize, levels: u32) -> Vec<f32> {
        (0..len).map(|_| random.u32(0..levels) as f32 / 8.0 - 20.0).collect()
    }

    #[test]
    fn the_largest_are_those_of_a_full_sort() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut found = Vec::new();
        for (len, levels) in [(1, 9), (15, 3), (300, 5), (5000, 40_000), (5000, 7)] {
            let row = random_row(&mut random, len, levels);
            let mut all: Vec<(u32, f32)> = (0u32..).zip(row.iter().copied()).collect();
            all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            for k in [0, 1, 2, 20, 100, 299, 5000, 6000] {
                largest(&row, k, &mut found);
                assert_eq!(found, all[..k.min(len)], "{k} of {len}");
            }
        }
    }

    #[test]
    fn the_share_kept_is_the_smallest_set_of_the_best() {
        let mut random = fastrand::Rng::with_seed(2);
        for round in 0..300 {
            let len = random.usize(1..400);
            let levels = [2, 30, 1_000_000][round % 3];
            let candidate = |id| {
                let weight = random.u32(1..=levels) as f32;
                Candidate { id, exponent: weight.ln(), weight }
            };
            let all: Vec<Candidate> = (0..len as u32).map(candidate).collect();
            let target = f64::from(random.f32() * 0.998 + 0.001) * total_weight(&all);
            let mut kept = all.clone();
            keep_best(&mut kept, target, &mut Vec::new(), |candidate| -candidate.weight);
            let mut best = all;
            best.sort_by(|a, b| b.weight.total_cmp(&a.weight).then(a.id.cmp(&b.id)));
            let size = (1..=len).find(|&size| total_weight(&best[..size]) >= target).unwrap_or(len);
            best.truncate(size);
            best.sort_by_key(|candidate| candidate.id);
            assert_eq!(kept, best);
        }
    }
}
