//! Values to ggml blocks, for converting files; Candle does the arithmetic of the types that it knows.

use candle_core::quantized::QTensor;
use candle_core::{Device, Tensor};
use half::{bf16, f16};
use kernels::{GgmlType, IQ4_VALUES};

use crate::Result;

/// The blocks nearest to `values`, whose number divides into blocks of `ggml_type`.
pub(crate) fn quantize(ggml_type: GgmlType, values: &[f32]) -> Result<Vec<u8>> {
    Ok(match (ggml_type, ggml_type.candle()) {
        (GgmlType::F32, _) => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        (GgmlType::F16, _) => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
        (GgmlType::BF16, _) => values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
        (GgmlType::IQ4_NL, _) => values.as_chunks().0.iter().flat_map(iq4_nl).collect(),
        (_, None) => values.as_chunks().0.iter().flat_map(iq4_xs).collect(),
        (_, Some(dtype)) => {
            let tensor = Tensor::from_slice(values, values.len(), &Device::Cpu)?;
            QTensor::quantize(&tensor, dtype)?.data()?.into_owned()
        }
    })
}

/// d, then nibbles.
fn iq4_nl(values: &[f32; 32]) -> [u8; 18] {
    let mut block = [0; 18];
    let d = f16::from_f32(iq4_scale(values));
    block[..2].copy_from_slice(&d.to_le_bytes());
    put_iq4(values, d.to_f32(), &mut block[2..]);
    block
}

/// d, two high bits and four low bits of the eight scales plus 32, then nibbles.
fn iq4_xs(values: &[f32; 256]) -> [u8; 136] {
    let mut block = [0; 136];
    let (parts, _) = values.as_chunks::<32>();
    let scales: [f32; 8] = std::array::from_fn(|s| iq4_scale(&parts[s]));
    let d = f16::from_f32(largest(&scales) / -32.0);
    block[..2].copy_from_slice(&d.to_le_bytes());
    let mut high = 0;
    for (s, part) in parts.iter().enumerate() {
        let scale = (scales[s] * inverse(d.to_f32())).round().clamp(-32.0, 31.0);
        let bits = (scale + 32.0) as u16;
        high |= (bits >> 4) << (2 * s);
        block[4 + s / 2] |= ((bits & 15) as u8) << (s % 2 * 4);
        put_iq4(part, d.to_f32() * scale, &mut block[8 + s * 16..][..16]);
    }
    block[2..4].copy_from_slice(&high.to_le_bytes());
    block
}

/// The scale by which the nearest of [`IQ4_VALUES`] come nearest to `values` in the mean square, the largest value
/// having been taken for the first of the table.
fn iq4_scale(values: &[f32; 32]) -> f32 {
    let d = largest(values) / f32::from(IQ4_VALUES[0]);
    let (mut products, mut squares) = (0.0, 0.0);
    for &x in values {
        let value = f32::from(IQ4_VALUES[usize::from(iq4_place(x * inverse(d)))]);
        products += x * value;
        squares += value * value;
    }
    products / squares
}

/// The place of the nearest of [`IQ4_VALUES`].
fn iq4_place(x: f32) -> u8 {
    let borders = IQ4_VALUES.array_windows().map(|[a, b]| f32::midpoint(f32::from(*a), f32::from(*b)));
    borders.map(|border| u8::from(x > border)).sum()
}

/// Places for 32 values: the first 16 in the low halves of the bytes.
fn put_iq4(values: &[f32; 32], d: f32, nibbles: &mut [u8]) {
    let (low, high) = values.split_at(16);
    for ((nibbles, low), high) in nibbles.iter_mut().zip(low).zip(high) {
        *nibbles = iq4_place(low * inverse(d)) | iq4_place(high * inverse(d)) << 4;
    }
}

/// The value of the largest magnitude.
fn largest(values: &[f32]) -> f32 {
    values.iter().copied().fold(0.0, |a, b| if b.abs() > a.abs() { b } else { a })
}

/// 0 of 0, so that blocks of zeros stay zero.
fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

#[cfg(test)]
mod tests {
    use super::quantize;
    use kernels::{GgmlType, dequantise};

    /// Mean squared error over the mean square.
    fn error(ggml_type: GgmlType, values: &[f32]) -> crate::Result<f32> {
        let found = dequantise(ggml_type, &quantize(ggml_type, values)?);
        let square = |values: &mut dyn Iterator<Item = f32>| values.map(|x| x * x).sum::<f32>();
        let difference = square(&mut values.iter().zip(&found).map(|(a, b)| a - b));
        Ok(difference / square(&mut values.iter().copied()))
    }

    #[test]
    fn iq4_is_nearer_to_normal_values_than_q4_0() -> crate::Result<()> {
        let mut rng = fastrand::Rng::with_seed(3);
        let normal = |_| (0..12).map(|_| rng.f32()).sum::<f32>() - 6.0;
        let values: Vec<f32> = (0..1 << 16).map(normal).collect();
        let [nl, xs, q4_0] = [GgmlType::IQ4_NL, GgmlType::IQ4_XS, GgmlType::Q4_0].map(|t| error(t, &values));
        let (nl, xs, q4_0) = (nl?, xs?, q4_0?);
        assert!(nl < 0.85 * q4_0 && xs < 0.85 * q4_0, "IQ4_NL {nl}, IQ4_XS {xs}, Q4_0 {q4_0}");
        Ok(())
    }

    #[test]
    fn zeros_and_single_values_survive_iq4() -> crate::Result<()> {
        for ggml_type in [GgmlType::IQ4_NL, GgmlType::IQ4_XS] {
            for x in [0.0, -0.02, 3.0] {
                let mut values = vec![0.0; 256];
                values[77] = x;
                let found = dequantise(ggml_type, &quantize(ggml_type, &values)?);
                assert!((found[77] - x).abs() <= 0.01 * x.abs(), "{}: {x} is {}", ggml_type.name(), found[77]);
                let most = x.abs() / 100.0;
                assert!(found.iter().enumerate().all(|(i, v)| i == 77 || v.abs() <= most), "{}", ggml_type.name());
            }
        }
        Ok(())
    }
}
