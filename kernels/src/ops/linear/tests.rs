//! Products of every format against a plain sum, and the promise that a row's bits depend on nothing but the row.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use candle_core::{DType, Device, Tensor};

use crate::ops::{rms_norm, silu_mul};
use crate::testing::{compute, compute_with, isas_and_emulated, random_blocks, scale_places};
use crate::{Activations, Compute, ComputeOptions, GgmlType, Isa, Norm, Operand, PackedMatrix, StepRows};

mod isas;

fn random_x(rng: &mut fastrand::Rng, tokens: usize, columns: usize) -> Vec<f32> {
    (0..tokens * columns).map(|_| rng.f32() * 2.0 - 1.0).collect()
}

fn product(compute: &Compute, weight: &PackedMatrix, x: &[f32]) -> Vec<f32> {
    let tokens = x.len() / weight.columns();
    let x = Tensor::from_slice(x, (tokens, weight.columns()), &Device::Cpu).unwrap();
    let out = Tensor::zeros((tokens, weight.rows()), DType::F32, &Device::Cpu).unwrap();
    compute.linear(weight, Operand::Rows(&x), &out).unwrap();
    out.flatten_all().unwrap().to_vec1().unwrap()
}

/// The sums in f64 over the dequantised weights.
fn reference(compute: &Compute, weight: &PackedMatrix, x: &[f32]) -> Vec<f64> {
    let (rows, columns) = (weight.rows(), weight.columns());
    let table = Tensor::zeros((rows, columns), DType::F32, &Device::Cpu).unwrap();
    compute.embed(weight, &StepRows::new(&(0..rows as u32).collect::<Vec<_>>(), &[]), None, &table).unwrap();
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
    for (isa, ggml_type) in isas_and_emulated().into_iter().flat_map(|isa| GgmlType::ALL.map(|t| (isa, t))) {
        let mut rng = fastrand::Rng::with_seed(2);
        let compute = compute_with(2, isa, Activations::Int8);
        for (tokens, rows, blocks) in [(1, 1, 1), (5, 13, 3), (70, 33, 2)] {
            let columns = blocks * ggml_type.block_len();
            let bytes = random_blocks(&mut rng, ggml_type, rows * columns);
            let weight = PackedMatrix::pack(&compute, ggml_type, rows, columns, &bytes).unwrap();
            let x = random_x(&mut rng, tokens, columns);
            let what = format!("{} with {isa:?}", ggml_type.name());
            assert_close(&product(&compute, &weight, &x), &reference(&compute, &weight, &x), 0.03, &what);
        }
    }
}

#[test]
fn precise_activations_are_a_hundred_times_nearer() {
    let mut rng = fastrand::Rng::with_seed(9);
    let compute = compute(2, None);
    for ggml_type in GgmlType::ALL {
        for (tokens, rows) in [(1, 9), (67, 24)] {
            let weight = odd_matrix(&mut rng, &compute, ggml_type, rows).with_precise_activations();
            let x = random_x(&mut rng, tokens, weight.columns());
            assert_close(&product(&compute, &weight, &x), &reference(&compute, &weight, &x), 3e-4, ggml_type.name());
        }
    }
}

fn reference_compute() -> Compute {
    Compute::cpu(ComputeOptions { threads: 1, isa: None, activations: Activations::F32 }).unwrap()
}

/// A matrix of odd size of any type.
fn odd_matrix(rng: &mut fastrand::Rng, compute: &Compute, ggml_type: GgmlType, rows: usize) -> PackedMatrix {
    let columns = if ggml_type.block_len() == 1 { 301 } else { 3 * ggml_type.block_len() };
    let bytes = random_blocks(rng, ggml_type, rows * columns);
    PackedMatrix::pack(compute, ggml_type, rows, columns, &bytes).unwrap()
}

#[test]
fn float_activations_are_exact_to_rounding() {
    let mut rng = fastrand::Rng::with_seed(3);
    let compute = reference_compute();
    for ggml_type in GgmlType::ALL {
        let weight = odd_matrix(&mut rng, &compute, ggml_type, 21);
        let x = random_x(&mut rng, 50, weight.columns());
        assert_close(&product(&compute, &weight, &x), &reference(&compute, &weight, &x), 2e-6, ggml_type.name());
    }
}

#[test]
fn a_rows_bits_depend_on_the_row_alone() {
    let mut rng = fastrand::Rng::with_seed(4);
    for ggml_type in GgmlType::ALL {
        for activations in [Activations::Int8, Activations::F32] {
            let [one, two] =
                [1, 2].map(|threads| Compute::cpu(ComputeOptions { threads, isa: None, activations }).unwrap());
            let weight = odd_matrix(&mut rng, &one, ggml_type, 77);
            let x = random_x(&mut rng, 600, weight.columns());
            let alone: Vec<f32> = x.chunks(weight.columns()).flat_map(|x| product(&one, &weight, x)).collect();
            for m in [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 65, 66, 100, 600] {
                let first = rng.usize(..=600 - m);
                let rows = &x[first * weight.columns()..][..m * weight.columns()];
                let expected = &alone[first * 77..][..m * 77];
                for compute in [&one, &two] {
                    assert_eq!(product(compute, &weight, rows), expected, "{} at {m} tokens", ggml_type.name());
                }
            }
        }
    }
}

#[test]
fn extremes_stay_in_their_row() {
    let mut rng = fastrand::Rng::with_seed(6);
    let compute = compute(2, None);
    for ggml_type in GgmlType::ALL {
        let weight = odd_matrix(&mut rng, &compute, ggml_type, 9);
        let columns = weight.columns();
        let clean = random_x(&mut rng, 11, columns);
        let expected = product(&compute, &weight, &clean);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 1e-45, 0.0] {
            let mut x = clean.clone();
            x[4 * columns..5 * columns].fill(if bad.is_finite() { bad } else { 1.0 });
            x[4 * columns + 40 % columns] = bad;
            let out = product(&compute, &weight, &x);
            for (token, (row, expected)) in out.chunks(9).zip(expected.chunks(9)).enumerate() {
                if token != 4 {
                    assert_eq!(row, expected, "{} beside {bad}", ggml_type.name());
                } else if !bad.is_finite() {
                    assert!(row.iter().all(|v| !v.is_finite()), "{} hides {bad}: {row:?}", ggml_type.name());
                } else if bad < 1.0 {
                    assert!(row.iter().all(|v| v.abs() < 1e-30), "{} makes {row:?} of {bad}", ggml_type.name());
                }
            }
        }
    }
}

/// The largest integers and scales of every format: nothing overflows inside a kernel.
#[test]
fn largest_values_do_not_overflow() {
    let compute = compute(1, None);
    for ggml_type in GgmlType::ALL {
        let columns = 2 * ggml_type.block_len().max(32);
        for fill in [0x00, 0x7f, 0x80, 0xff] {
            let mut rng = fastrand::Rng::with_seed(7);
            let mut bytes = random_blocks(&mut rng, ggml_type, 8 * columns);
            for block in bytes.chunks_exact_mut(ggml_type.block_bytes()) {
                let scales = scale_places(ggml_type);
                if scales.is_empty() {
                    continue;
                }
                for (i, byte) in block.iter_mut().enumerate() {
                    if !scales.iter().any(|&at| i == at || i == at + 1) {
                        *byte = fill;
                    }
                }
            }
            let weight = PackedMatrix::pack(&compute, ggml_type, 8, columns, &bytes).unwrap();
            for x in [vec![1.0; columns], vec![-1.0; columns]] {
                let x = [x.as_slice(), &vec![0.5; columns * 4]].concat();
                let what = format!("{} of {fill:#x}", ggml_type.name());
                assert_close(&product(&compute, &weight, &x), &reference(&compute, &weight, &x), 1e-4, &what);
            }
        }
    }
}

#[test]
fn stacked_parts_of_different_types_write_one_row() {
    let mut rng = fastrand::Rng::with_seed(8);
    let compute = compute(2, None);
    let types = [GgmlType::Q4_K, GgmlType::Q4_K, GgmlType::Q6_K, GgmlType::F16];
    let parts: Vec<PackedMatrix> = types
        .into_iter()
        .zip([13, 8, 5, 3])
        .map(|(ggml_type, rows)| {
            let bytes = random_blocks(&mut rng, ggml_type, rows * 512);
            PackedMatrix::pack(&compute, ggml_type, rows, 512, &bytes).unwrap()
        })
        .collect();
    let stacked = PackedMatrix::stack(parts.clone()).unwrap();
    assert_eq!((stacked.rows(), stacked.columns()), (29, 512));
    assert_eq!(stacked.bytes(), parts.iter().map(PackedMatrix::bytes).sum::<usize>());
    for m in [1, 6] {
        let x = random_x(&mut rng, m, 512);
        let whole = product(&compute, &stacked, &x);
        let mut first = 0;
        for part in &parts {
            let alone = product(&compute, part, &x);
            for (whole, alone) in whole.chunks(29).zip(alone.chunks(part.rows())) {
                assert_eq!(&whole[first..first + part.rows()], alone);
            }
            first += part.rows();
        }
    }
}

#[test]
fn linear_add_adds() {
    let mut rng = fastrand::Rng::with_seed(9);
    let compute = compute(2, None);
    for ggml_type in [GgmlType::Q4_1, GgmlType::BF16] {
        let weight = odd_matrix(&mut rng, &compute, ggml_type, 12);
        let x = random_x(&mut rng, 3, weight.columns());
        let before = random_x(&mut rng, 3, 12);
        let expected: Vec<f32> = before.iter().zip(product(&compute, &weight, &x)).map(|(a, b)| a + b).collect();
        let out = Tensor::from_vec(before, (3, 12), &Device::Cpu).unwrap();
        let x = Tensor::from_vec(x, (3, weight.columns()), &Device::Cpu).unwrap();
        let out = compute.residual(out).unwrap();
        compute.linear_add(&weight, Operand::Rows(&x), &out, None).unwrap();
        assert_eq!(out.rows().flatten_all().unwrap().to_vec1::<f32>().unwrap(), expected);
    }
}

#[test]
fn wrong_shapes_are_errors() {
    let mut rng = fastrand::Rng::with_seed(10);
    let compute = compute(1, None);
    let weight = odd_matrix(&mut rng, &compute, GgmlType::Q8_0, 12);
    let zeros = |shape: (usize, usize), dtype| Tensor::zeros(shape, dtype, &Device::Cpu).unwrap();
    let out = zeros((2, 12), DType::F32);
    for x in [zeros((2, 95), DType::F32), zeros((3, 96), DType::F32), zeros((2, 96), DType::F16)] {
        assert!(compute.linear(&weight, Operand::Rows(&x), &out).unwrap_err().to_string().starts_with("linear: x "));
    }
    let x = zeros((2, 96), DType::F32);
    let narrow = compute.residual(zeros((2, 13), DType::F32)).unwrap();
    let error = compute.linear_add(&weight, Operand::Rows(&x), &narrow, None).unwrap_err().to_string();
    assert!(error.starts_with("linear_add: out has shape [2, 13]"), "{error}");
    assert!(compute.linear(&weight, Operand::Rows(&zeros((0, 96), DType::F32)), &zeros((0, 12), DType::F32)).is_ok());
    assert!(compute.linear(&weight, Operand::Rows(&out), &out).is_err());
    assert!(compute.embed(&weight, &StepRows::new(&[12], &[]), None, &zeros((1, 96), DType::F32)).is_err());
}

/// Norm and gate on the way into a product give the bits of the same computed before it, whatever kernels follow.
#[test]
fn a_norm_or_a_gate_may_be_part_of_the_product() {
    let mut rng = fastrand::Rng::with_seed(7);
    let (rows, columns) = (19, 96);
    let types = [GgmlType::Q8_0, GgmlType::F16];
    for (activations, isa) in [Activations::Int8, Activations::F32].into_iter().zip([Isa::Scalar, Isa::detect()]) {
        let compute = Compute::cpu(ComputeOptions { threads: 2, isa: Some(isa), activations }).unwrap();
        let pack = |ggml_type, rng: &mut fastrand::Rng| {
            let bytes = random_blocks(rng, ggml_type, rows * columns);
            PackedMatrix::pack(&compute, ggml_type, rows, columns, &bytes).unwrap()
        };
        let [quantised, float] = types.map(|ggml_type| pack(ggml_type, &mut rng));
        let both = PackedMatrix::stack(vec![quantised.clone(), float.clone()]).unwrap();
        for (weight, tokens) in
            [(&quantised, 1), (&float, 5), (&both, 70), (&quantised.clone().with_precise_activations(), 9)]
        {
            let gate_up = random_x(&mut rng, tokens, 2 * columns);
            let norm_weight = random_x(&mut rng, 1, columns);
            let (mut normed, mut gated) = (vec![0.0; tokens * columns], vec![0.0; tokens * columns]);
            let x = &gate_up[..tokens * columns];
            for (row, out) in x.chunks(columns).zip(normed.chunks_mut(columns)) {
                rms_norm::norm(row, &norm_weight, 1e-5, out);
            }
            for (row, out) in gate_up.chunks(2 * columns).zip(gated.chunks_mut(columns)) {
                silu_mul::silu_mul(isa, row, out);
            }
            let tensor = |values: &[f32], columns| {
                Tensor::from_slice(values, (values.len() / columns, columns), &Device::Cpu).unwrap()
            };
            let of = |x: Operand<'_>| {
                let out = Tensor::zeros((tokens, weight.rows()), DType::F32, &Device::Cpu).unwrap();
                compute.linear(weight, x, &out).unwrap();
                out.flatten_all().unwrap().to_vec1::<f32>().unwrap()
            };
            let norm_weight = Tensor::from_slice(&norm_weight, columns, &Device::Cpu).unwrap();
            let rows = compute.residual(tensor(x, columns)).unwrap();
            let norm = Norm { weight: &norm_weight, eps: 1e-5 };
            assert_eq!(of(Operand::Normed(&rows, norm)), product(&compute, weight, &normed));
            assert_eq!(of(Operand::Gated(&tensor(&gate_up, 2 * columns))), product(&compute, weight, &gated));
        }
    }
}
