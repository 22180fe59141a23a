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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::RandomModel;

    /// Llama 3.1 8B's, whose shape is Saiga's.
    fn config(rope_scaling: RopeScaling) -> ModelConfig {
        ModelConfig { rope_scaling, ..RandomModel::saiga_8b().config }
    }

    #[test]
    fn llama_3_1_scaling_is_that_of_transformers() {
        let scaling =
            RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 8192 };
        let table = rope_table(&config(scaling));
        // Printed by transformers 5.23 for the configuration of Llama 3.1 8B: kept, blended and divided frequencies.
        let expected = [
            (0, 1.0),
            (1, 8.146_172e-1),
            (20, 1.656_044e-2),
            (28, 3.211_446e-3),
            (29, 2.166_570_6e-3),
            (30, 1.371_893_7e-3),
            (32, 5.248_46e-4),
            (34, 1.785_077_9e-4),
            (35, 9.556_212e-5),
            (50, 4.411_534_5e-6),
            (63, 3.068_926e-7),
        ];
        for (pair, expected) in expected {
            let frequency: f32 = table.inverse_frequencies()[pair];
            assert!((frequency / expected - 1.0).abs() < 1e-5, "pair {pair}: {frequency} is not {expected}");
        }
    }

    #[test]
    fn factors_and_linear_scaling_divide() {
        let plain = rope_table(&config(RopeScaling::None));
        let linear = rope_table(&config(RopeScaling::Linear { factor: 4.0 }));
        let factors = rope_table(&config(RopeScaling::Factors((0..64).map(|pair| 1.0 + pair as f32).collect())));
        for pair in 0..64 {
            let frequency = plain.inverse_frequencies()[pair];
            let divided = |by: f32, table: &RopeTable| (table.inverse_frequencies()[pair] * by / frequency - 1.0).abs();
            assert!(divided(4.0, &linear) < 1e-6 && divided(1.0 + pair as f32, &factors) < 1e-6, "pair {pair}");
        }
    }
}
