//! Passes over a whole row of logits, written in lanes so that the compiler makes vector code of them. Their results do
//! not depend on the instruction set: lanes are summed in a fixed order.

const LANES: usize = 16;

/// The largest value, if all are finite.
pub(super) fn finite_max(row: &[f32]) -> Option<f32> {
    let mut max = [f32::NEG_INFINITY; LANES];
    // Zero for ever unless something is infinite or not a number.
    let mut zero = [0f32; LANES];
    let chunks = row.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for lane in 0..LANES {
            max[lane] = if chunk[lane] > max[lane] { chunk[lane] } else { max[lane] };
            zero[lane] += chunk[lane] * 0.0;
        }
    }
    let finite = zero.iter().all(|&lane| lane == 0.0) && rest.iter().all(|value| value.is_finite());
    let max = max.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max);
    (finite && !row.is_empty()).then_some(max)
}

/// The first index of the largest value.
pub(super) fn first_max(row: &[f32], max: f32) -> usize {
    row.iter().position(|&value| value >= max).unwrap_or(0)
}

/// `out[i] = exp((row[i] - max) * scale)`; returns the sum.
pub(super) fn weights(row: &[f32], max: f32, scale: f32, out: &mut Vec<f32>) -> f64 {
    out.clear();
    out.extend(row.iter().map(|&value| exp_below_zero((value - max) * scale)));
    sum(out)
}

/// The sum of a row, in lanes and then blocks.
pub(super) fn sum(row: &[f32]) -> f64 {
    row.chunks(1024).map(block_sum).sum()
}

fn block_sum(block: &[f32]) -> f64 {
    let mut lanes = [0f32; LANES];
    let chunks = block.chunks_exact(LANES);
    let rest = chunks.remainder().iter().sum::<f32>();
    for chunk in chunks {
        for lane in 0..LANES {
            lanes[lane] += chunk[lane];
        }
    }
    f64::from(lanes.iter().sum::<f32>() + rest)
}

/// The natural logarithm of the sum of exponentials.
pub(super) fn log_sum_exp(row: &[f32], max: f32) -> f32 {
    let mut total = 0f64;
    for block in row.chunks(1024) {
        let mut values = [0f32; 1024];
        for (out, &value) in values.iter_mut().zip(block) {
            *out = exp_below_zero(value - max);
        }
        total += block_sum(&values[..block.len()]);
    }
    max + total.ln() as f32
}

/// The index at which the running sum of weights first exceeds `target`; the last weight above zero if none does.
pub(super) fn pick(weights: &[f32], mut target: f64) -> usize {
    for (block, values) in weights.chunks(1024).enumerate() {
        let total = block_sum(values);
        if target < total {
            for (index, &weight) in values.iter().enumerate() {
                target -= f64::from(weight);
                if target < 0.0 && weight > 0.0 {
                    return block * 1024 + index;
                }
            }
            break;
        }
        target -= total;
    }
    weights.iter().rposition(|&weight| weight > 0.0).unwrap_or(0)
}

/// `exp(x)` for `x <= 0` with a relative error below 2e-7; 0 below the smallest normal number.
///
/// Cody and Waite's reduction to `[-ln 2 / 2, ln 2 / 2]` and the Taylor polynomial of degree 7.
#[inline]
pub(super) fn exp_below_zero(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it leaves the nearest integer in the low bits.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let clamped = if x > -87.0 { x } else { -87.0 };
    let rounded = clamped * std::f32::consts::LOG2_E + ROUND;
    let power = rounded - ROUND;
    let r = (clamped - power * LN2_HIGH) - power * LN2_LOW;
    let mut poly = 1.0 / 5040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        poly = poly * r + coefficient;
    }
    let scale = f32::from_bits((rounded.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127)) << 23);
    if x > -87.0 { poly * scale } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_are_exact_enough() {
        for i in 0..870_000 {
            let x = -(i as f32) * 1e-4;
            let (fast, exact) = (f64::from(exp_below_zero(x)), f64::from(x).exp());
            assert!((fast - exact).abs() <= 2e-7 * exact, "exp({x}) = {fast}, not {exact}");
        }
        assert_eq!(exp_below_zero(0.0).to_bits(), 1f32.to_bits());
        assert_eq!(exp_below_zero(-88.0).to_bits(), 0);
        assert_eq!(exp_below_zero(f32::NEG_INFINITY).to_bits(), 0);
    }

    #[test]
    fn anything_not_finite_is_noticed_wherever_it_is() {
        for len in [1, 15, 16, 17, 100] {
            let row: Vec<f32> = (0..len).map(|i| (i * 7 % len) as f32 - 50.0).collect();
            assert_eq!(finite_max(&row), row.iter().copied().reduce(f32::max));
            for at in 0..len {
                for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    let mut row = row.clone();
                    row[at] = bad;
                    assert_eq!(finite_max(&row), None, "{bad} at {at} of {len}");
                }
            }
        }
        assert_eq!(finite_max(&[]), None);
    }

    #[test]
    fn picking_follows_the_weights() {
        let weights: Vec<f32> = (0..5000).map(|i| if i % 3 == 0 { 0.0 } else { (i % 7) as f32 }).collect();
        let total = sum(&weights);
        let mut running = 0.0;
        for (index, &weight) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
            assert_eq!(pick(&weights, running), index);
            running += f64::from(weight);
        }
        assert!((running - total).abs() < 1e-9);
        assert_eq!(pick(&weights, total), weights.iter().rposition(|&weight| weight > 0.0).unwrap_or(0));
    }

    #[test]
    fn log_sum_exp_agrees_with_f64() {
        let row: Vec<f32> = (0..3000).map(|i| ((i * 37) % 100) as f32 / 7.0).collect();
        let exact = row.iter().map(|&value| f64::from(value).exp()).sum::<f64>().ln();
        let max = finite_max(&row).unwrap_or(0.0);
        assert!((f64::from(log_sum_exp(&row, max)) - exact).abs() < 1e-5);
    }
}
