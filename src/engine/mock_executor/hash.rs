//! Everything that a mock makes up is a hash of the tokens that it is about.

use crate::engine::TokenLogprob;

/// A bag of tokens: each moves one number of the vector up or down, so that texts are as near as the tokens they share.
pub(super) fn vector_of(text: &[u32], dimensions: usize) -> Vec<f32> {
    let mut vector = vec![0_f32; dimensions];
    for &token in text {
        let hash = mix(0, token);
        vector[(hash >> 1) as usize % dimensions] += if hash & 1 == 0 { 1.0 } else { -1.0 };
    }
    let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    if length == 0.0 {
        vector[0] = 1.0;
        return vector;
    }
    vector.into_iter().map(|value| value / length).collect()
}

/// One round of `SplitMix64` (Steele, Lea and Flood 2014) over hash and token.
pub(super) fn mix(hash: u64, token: u32) -> u64 {
    let mut z = hash.wrapping_add(u64::from(token) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

pub(super) fn token_of(hash: u64, vocab_size: u32) -> u32 {
    (hash % u64::from(vocab_size.max(1))) as u32
}

pub(super) fn logprob_of(hash: u64, id: u32, top: u8) -> TokenLogprob {
    let logprob = -((mix(hash, id) % 1000) as f32) / 1000.0;
    TokenLogprob { logprob, top: (0..u32::from(top)).map(|i| (id + i, logprob - i as f32)).collect() }
}
