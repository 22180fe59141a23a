//! Random numbers by counter: a draw is a function of seed and place, so that a seeded answer does not depend on what
//! runs beside it, nor on being preempted.

/// The draw for the `index`-th token of an answer with this seed: uniform in `[0, 1)`, 53 bits.
///
/// Two rounds of the `SplitMix64` finaliser (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
/// 2014) over seed and index.
pub(super) fn uniform(seed: u64, index: usize) -> f64 {
    let bits = finalise(finalise(seed.wrapping_add(GOLDEN)) ^ (index as u64).wrapping_mul(GOLDEN));
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

fn finalise(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_uniform_and_differ_by_seed_and_index() {
        let draws: Vec<f64> = (0..20_000).map(|i| uniform(i % 20, (i / 20) as usize)).collect();
        assert!(draws.iter().all(|draw| (0.0..1.0).contains(draw)));
        for tenth in 0..10 {
            let inside = draws.iter().filter(|&&draw| (draw * 10.0) as usize == tenth).count();
            assert!((1850..2150).contains(&inside), "{inside} of 20,000 draws in tenth {tenth}");
        }
        let mut bits: Vec<u64> = draws.iter().map(|draw| draw.to_bits()).collect();
        bits.sort_unstable();
        bits.dedup();
        assert_eq!(bits.len(), draws.len());
        assert_eq!(uniform(3, 4).to_bits(), uniform(3, 4).to_bits());
    }
}
