//! Random quantised blocks of a wanted deviation: random quants under scales chosen for it. Nothing is quantised, so
//! that a file of many gigabytes takes seconds a gigabyte; to a reader the blocks are as valid as any.

use half::{bf16, f16};
use kernels::GgmlType;

/// Appends `blocks` blocks of `ggml_type` whose values have zero mean (nearly, for Q4_0, Q5_0, Q3_K and IQ4, whose
/// quants lie unevenly around zero) and standard deviation `deviation`.
pub(super) fn append(out: &mut Vec<u8>, ggml_type: GgmlType, blocks: usize, deviation: f32, rng: &mut fastrand::Rng) {
    out.reserve(blocks * ggml_type.block_bytes());
    for _ in 0..blocks {
        let start = out.len();
        out.resize(start + ggml_type.block_bytes(), 0);
        let block = &mut out[start..];
        // Blocks differ in scale, so that a kernel which takes the wrong one's is found out.
        fill(block, ggml_type, deviation * (0.75 + 0.5 * rng.f32()), rng);
    }
}

/// Values of a float type: uniform, of the same deviation.
fn uniform(deviation: f32, rng: &mut fastrand::Rng) -> f32 {
    (rng.f32() - 0.5) * 12f32.sqrt() * deviation
}

/// One block. The divisors are the deviation of evenly distributed quants (`n` levels: sqrt((n² - 1) / 12)), for
/// k-quants times the root mean square of the scales.
fn fill(block: &mut [u8], ggml_type: GgmlType, deviation: f32, rng: &mut fastrand::Rng) {
    match ggml_type {
        GgmlType::F32 => block.copy_from_slice(&uniform(deviation, rng).to_le_bytes()),
        GgmlType::F16 => block.copy_from_slice(&f16::from_f32(uniform(deviation, rng)).to_le_bytes()),
        GgmlType::BF16 => block.copy_from_slice(&bf16::from_f32(uniform(deviation, rng)).to_le_bytes()),
        // d, then quants: w = d * (q - 8), d * (q - 16) with the fifth bits before the rest, d * q.
        GgmlType::Q4_0 => scaled_quants(block, signed(deviation / 4.61, rng), rng),
        GgmlType::Q5_0 => scaled_quants(block, signed(deviation / 9.23, rng), rng),
        GgmlType::Q8_0 => scaled_quants(block, deviation / 73.9, rng),
        // d and minimum, then quants: w = d * q + m.
        GgmlType::Q4_1 => shifted_quants(block, deviation / 4.61, 7.5, rng),
        GgmlType::Q5_1 => shifted_quants(block, deviation / 9.23, 15.5, rng),
        GgmlType::Q2_K => fill_q2_k(block, deviation, rng),
        GgmlType::Q3_K => {
            // hmask[32] qs[64] scales[12] d: w = d * (scale - 32) * (q - 4), any bits are valid scales.
            rng.fill(&mut block[..108]);
            put_half(&mut block[108..], deviation / (18.5 * 2.35));
        }
        GgmlType::Q4_K => fill_with_minima(block, deviation / 4.61, 7.5, rng),
        GgmlType::Q5_K => fill_with_minima(block, deviation / 9.23, 15.5, rng),
        GgmlType::Q6_K => fill_q6_k(block, deviation, rng),
        // d, then quants: w = d * value[q].
        GgmlType::IQ4_NL => scaled_quants(block, signed(deviation / 67.4, rng), rng),
        // d scales[6] quants: w = d * (scale - 32) * value[q], any bits are valid scales.
        GgmlType::IQ4_XS => scaled_quants(block, deviation / (18.5 * 67.4), rng),
    }
}

fn put_half(out: &mut [u8], value: f32) {
    out[..2].copy_from_slice(&f16::from_f32(value).to_le_bytes());
}

fn signed(value: f32, rng: &mut fastrand::Rng) -> f32 {
    if rng.bool() { value } else { -value }
}

fn scaled_quants(block: &mut [u8], d: f32, rng: &mut fastrand::Rng) {
    rng.fill(&mut block[2..]);
    put_half(block, d);
}

fn shifted_quants(block: &mut [u8], d: f32, middle: f32, rng: &mut fastrand::Rng) {
    rng.fill(&mut block[4..]);
    put_half(block, d);
    put_half(&mut block[2..], -middle * d);
}

/// scales[16] (scale low, minimum high) qs[64] d dmin: w = d * scale * q - dmin * minimum. With minimum = scale and
/// dmin = 1.5 d the mean is zero.
fn fill_q2_k(block: &mut [u8], deviation: f32, rng: &mut fastrand::Rng) {
    for scale in &mut block[..16] {
        *scale = rng.u8(8..16) * 0x11;
    }
    rng.fill(&mut block[16..80]);
    let d = deviation / (11.7 * 1.118);
    put_half(&mut block[80..], d);
    put_half(&mut block[82..], 1.5 * d);
}

/// d dmin scales[12] quants: Q4_K and Q5_K. Eight scales and minima of six bits are packed into twelve bytes; with
/// minimum = scale and dmin = middle * d the mean is zero.
fn fill_with_minima(block: &mut [u8], deviation: f32, middle: f32, rng: &mut fastrand::Rng) {
    let d = deviation / 20.2;
    put_half(block, d);
    put_half(&mut block[2..], middle * d);
    for group in 0..4 {
        let (low, high) = (rng.u8(16..25), rng.u8(16..25));
        let with_top_bits = low | (high >> 4) << 6;
        block[4 + group] = with_top_bits;
        block[8 + group] = with_top_bits;
        block[12 + group] = (high & 15) * 0x11;
    }
    rng.fill(&mut block[16..]);
}

/// ql[128] qh[64] scales[16] d: w = d * scale * (q - 32) with signed scales.
fn fill_q6_k(block: &mut [u8], deviation: f32, rng: &mut fastrand::Rng) {
    rng.fill(&mut block[..192]);
    for scale in &mut block[192..208] {
        let magnitude = rng.i8(32..97);
        *scale = if rng.bool() { magnitude } else { -magnitude } as u8;
    }
    put_half(&mut block[208..], deviation / (66.7 * 18.5));
}

#[cfg(test)]
mod tests {
    use super::append;
    use kernels::{GgmlType, dequantise};

    #[test]
    fn blocks_have_the_mean_and_deviation_asked_for() {
        for ggml_type in GgmlType::ALL {
            let mut bytes = Vec::new();
            let blocks = 65_536 / ggml_type.block_len();
            append(&mut bytes, ggml_type, blocks, 0.5, &mut fastrand::Rng::with_seed(7));
            let values = dequantise(ggml_type, &bytes);
            let mean = values.iter().sum::<f32>() / values.len() as f32;
            let square = values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32;
            assert!(mean.abs() < 0.03, "{}: mean {mean}", ggml_type.name());
            assert!((square.sqrt() - 0.5).abs() < 0.03, "{}: deviation {}", ggml_type.name(), square.sqrt());
        }
    }
}
