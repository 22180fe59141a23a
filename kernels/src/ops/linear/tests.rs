//! Products of every format against a plain sum, and the promise that a row's bits depend on nothing but the row.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use candle_core::{DType, Device, Tensor};

use crate::testing::{compute, random_blocks};
use crate::{Compute, GgmlType, PackedMatrix};

fn random_x(rng: &mut fastrand::Rng, tokens: usize, columns: usize) -> Vec<f32> {
    (0..tokens * columns).map(|_| rng.f32() * 2.0 - 1.0).collect()
}

fn product(compute: &Compute, weight: &PackedMatrix, x: &[f32]) -> Vec<f32> {
    let tokens = x.len() / weight.columns();
    let x = Tensor::from_slice(x, (tokens, weight.columns()), &Device::Cpu).unwrap();
    let out = Tensor::zeros((tokens, weight.rows()), DType::F32, &Device::Cpu).unwrap();
    compute.linear(weight, &x, &out).unwrap();
    out.flatten_all().unwrap().to_vec1().unwrap()
}

/// The sums in f64 over the dequantised weights.
fn reference(compute: &Compute, weight: &PackedMatrix, x: &[f32]) -> Vec<f64> {
    let (rows, columns) = (weight.rows(), weight.columns());
    let table = Tensor::zeros((rows, columns), DType::F32, &Device::Cpu).unwrap();
    compute.embed(weight, &(0..rows as u32).collect::<Vec<_>>(), &table).unwrap();
    let table = table.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let dot = |x: &[f32], w: &[f32]| x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum();
    x.chunks(columns).flat_map(|x| table.chunks(columns).map(move |w| dot(x, w))).collect()
}

fn assert_close(actual: &[f32], expected: &[f64], tolerance: f64, what: &str) {
    let norm = (expected.iter().map(|v| v * v).sum::<f64>() / expected.len() as f64).sqrt();
    for (i, (&a, &e)) in actual.iter().zip(expected).enumerate() {
        assert!((f64::from(a) - e).abs() <= tolerance * (norm + e.abs()), "{what}: output {i} is {a}, not {e}");
    }
}

#[test]
fn products_are_near_the_plain_sum() {
    let mut rng = fastrand::Rng::with_seed(2);
    let compute = compute(2, None);
    for ggml_type in GgmlType::ALL {
        for (tokens, rows, blocks) in [(1, 1, 1), (5, 13, 3), (70, 33, 2)] {
            let columns = blocks * ggml_type.block_len();
            let bytes = random_blocks(&mut rng, ggml_type, rows * columns);
            let weight = PackedMatrix::pack(&compute, ggml_type, rows, columns, &bytes).unwrap();
            let x = random_x(&mut rng, tokens, columns);
            assert_close(&product(&compute, &weight, &x), &reference(&compute, &weight, &x), 0.03, ggml_type.name());
        }
    }
}
