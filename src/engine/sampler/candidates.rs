//! Choosing from the likeliest: top-k, top-p, min-p and typical-p. Nothing is sorted in full: a set is found by
//! selection, in time linear in the vocabulary whatever the parameters.

use super::passes;

/// A token that may be chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Candidate {
    pub id: u32,
    /// Not normalised.
    pub weight: f32,
    /// The least key is the best; likeliest first unless something else is asked for.
    pub key: f32,
}

impl Candidate {
    /// A candidate to be judged by its likelihood.
    pub fn new(id: u32, weight: f32) -> Self {
        Self { id, weight, key: -weight }
    }
}

/// The `k` largest values with their ids, largest first; of equal ones the lower ids.
pub(super) fn largest(row: &[f32], k: usize, out: &mut Vec<(u32, f32)>) {
    const CHUNK: usize = 16;
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
        let max = values.iter().copied().fold(f32::NEG_INFINITY, |max, value| if value > max { value } else { max });
        if is_full && max <= threshold {
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

/// Keeps the best candidates (least key first, then lower ids) until their weights reach `target`. At least one is kept.
///
/// Selection of a weighted quantile: halve the undecided range at its median, go on in the half in which the target is
/// reached. Each round costs half of the one before.
pub(super) fn keep_weight(candidates: &mut Vec<Candidate>, target: f64) {
    let (mut start, mut end, mut before) = (0, candidates.len(), 0f64);
    while end - start > 1 {
        let middle = (end - start) / 2;
        let undecided = &mut candidates[start..end];
        undecided.select_nth_unstable_by(middle, |a, b| a.key.total_cmp(&b.key).then(a.id.cmp(&b.id)));
        let half = total_weight(&undecided[..middle]);
        if before + half >= target {
            end = start + middle;
        } else {
            before += half;
            start += middle;
        }
    }
    candidates.truncate(end.max(1));
}

/// The sum of weights.
pub(super) fn total_weight(candidates: &[Candidate]) -> f64 {
    candidates.iter().map(|candidate| f64::from(candidate.weight)).sum()
}

/// The candidates among which the nucleus of `top_p` and everything that `min_p` leaves must lie.
///
/// `weights`: relative to the largest, which is 1, with sum `total`.
pub(super) fn plausible(weights: &[f32], total: f64, top_p: f32, out: &mut Vec<Candidate>) {
    // Most rows have their nucleus among few tokens; where one does not, all are candidates.
    for floor in [1e-3f32, 1e-6] {
        let inside: f64 = weights.chunks(1024).map(|block| block_above(block, floor)).sum();
        if inside >= f64::from(top_p) * total {
            return gather(weights, floor, out);
        }
    }
    gather(weights, 0.0, out);
}

/// The candidates of at least this weight.
pub(super) fn gather(weights: &[f32], floor: f32, out: &mut Vec<Candidate>) {
    out.clear();
    let candidates = weights.iter().enumerate().filter(|(_, weight)| **weight >= floor && **weight > 0.0);
    out.extend(candidates.map(|(id, &weight)| Candidate::new(id as u32, weight)));
}

fn block_above(block: &[f32], floor: f32) -> f64 {
    let mut kept = [0f32; 1024];
    for (out, &weight) in kept.iter_mut().zip(block) {
        *out = if weight >= floor { weight } else { 0.0 };
    }
    passes::sum(&kept[..block.len()])
}

/// Locally typical sampling (Meister et al. 2023): keeps those whose surprise is nearest to the entropy.
pub(super) fn keep_typical(candidates: &mut Vec<Candidate>, typical_p: f32) {
    let total = total_weight(candidates);
    let share = |candidate: &Candidate| f64::from(candidate.weight) / total;
    let entropy: f64 = candidates.iter().map(|candidate| -share(candidate) * share(candidate).ln()).sum();
    for candidate in candidates.iter_mut() {
        candidate.key = (-share(candidate).ln() - entropy).abs() as f32;
    }
    keep_weight(candidates, f64::from(typical_p) * total);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything sorted: what the selections above must agree with.
    fn sorted(mut candidates: Vec<Candidate>) -> Vec<Candidate> {
        candidates.sort_by(|a, b| a.key.total_cmp(&b.key).then(a.id.cmp(&b.id)));
        candidates
    }

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
            let weight = |random: &mut fastrand::Rng| (random.u32(1..=levels)) as f32;
            let all: Vec<Candidate> = (0..len as u32).map(|id| Candidate::new(id, weight(&mut random))).collect();
            let share = random.f32() * 0.998 + 0.001;
            let mut kept = all.clone();
            let target = f64::from(share) * total_weight(&all);
            keep_weight(&mut kept, target);
            let order = sorted(all.clone());
            let size = (1..=len).find(|&size| total_weight(&order[..size]) >= target).unwrap_or(len);
            assert_eq!(sorted(kept), order[..size]);
        }
    }

    #[test]
    fn the_plausible_hold_the_nucleus() {
        let mut random = fastrand::Rng::with_seed(3);
        let mut found = Vec::new();
        for spread in [0.1f32, 3.0, 10.0, 80.0] {
            let weights: Vec<f32> = (0..3000).map(|_| (-random.f32() * spread).exp()).collect();
            for top_p in [0.01, 0.5, 0.9, 0.9999] {
                plausible(&weights, passes::sum(&weights), top_p, &mut found);
                let mut all = Vec::new();
                gather(&weights, 0.0, &mut all);
                let total = total_weight(&all);
                let order = sorted(all);
                let target = f64::from(top_p) * total * 0.9999;
                let size = (1..=order.len()).find(|&size| total_weight(&order[..size]) >= target).unwrap_or(0);
                assert_eq!(sorted(found.clone())[..size], order[..size]);
            }
        }
        assert!(found.len() < 3000, "a peaked row has few candidates");
    }

    #[test]
    fn typical_sampling_drops_the_obvious_when_surprise_is_expected() {
        // One token of weight 10 beside a hundred of weight 1: most of the mass is about as surprising as the entropy.
        let mut candidates: Vec<Candidate> = (0..100).map(|id| Candidate::new(id, 1.0)).collect();
        candidates.push(Candidate::new(100, 10.0));
        keep_typical(&mut candidates, 0.5);
        assert!(candidates.iter().all(|candidate| candidate.id != 100));
        assert_eq!(candidates.len(), 55);
    }
}
