//! Frequencies of the rotary embedding (Su et al., 2021) and the scalings that stretch them over longer contexts.

use std::f64::consts::TAU;

use kernels::RopeTable;

use crate::{ModelConfig, RopeScaling};

/// The table of a model: `theta^(-2i / head_dim)` for pair `i`, scaled as the file says.
pub(crate) fn rope_table(config: &ModelConfig) -> RopeTable {
    let base = f64::from(config.rope_theta);
    let unscaled = |pair: usize| base.powf(-2.0 * pair as f64 / config.head_dim as f64);
    let frequency = |pair: usize| scaled(unscaled(pair), pair, &config.rope_scaling) as f32;
    let inverse_frequencies = (0..config.head_dim / 2).map(frequency).collect();
    RopeTable::new(config.rope_style, inverse_frequencies, 1.0)
}

/// What each pair's frequency is divided by, `(head_dim / 2)` values: any scaling in the form of GGUF's tensor
/// `rope_freqs.weight`.
pub(crate) fn divisors(config: &ModelConfig) -> Vec<f32> {
    let base = f64::from(config.rope_theta);
    let divisor = |pair: usize| {
        let frequency = base.powf(-2.0 * pair as f64 / config.head_dim as f64);
        (frequency / scaled(frequency, pair, &config.rope_scaling)) as f32
    };
    (0..config.head_dim / 2).map(divisor).collect()
}

fn scaled(frequency: f64, pair: usize, scaling: &RopeScaling) -> f64 {
    match scaling {
        RopeScaling::None => frequency,
        RopeScaling::Linear { factor } => frequency / f64::from(*factor),
        RopeScaling::Factors(factors) => frequency / factors.get(pair).map_or(1.0, |f| f64::from(*f)),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            let (low, high) = (f64::from(*low_freq_factor), f64::from(*high_freq_factor));
            // Rotations over the original context: `high` or more keep their frequency, `low` or fewer are divided.
            let rotations = *original_context as f64 * frequency / TAU;
            let kept = ((rotations - low) / (high - low)).clamp(0.0, 1.0);
            frequency * (kept + (1.0 - kept) / f64::from(*factor))
        }
    }
}
