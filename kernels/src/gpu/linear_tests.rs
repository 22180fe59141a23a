//! Products on the emulated card against plain ones in f64 of the same bytes.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use candle_core::Tensor;

use super::*;
use crate::gpu::backend::set_thread_order;
use crate::sampling::pending;
use crate::testing::{normal_rows, random_blocks};
use crate::{Activations, Compute, ComputeOptions, GgmlType, dequantise};

fn card() -> Compute {
    Compute::cuda(0, ComputeOptions { threads: 1, isa: None, activations: Activations::Int8 }).unwrap()
}

fn tensor(compute: &Compute, values: &[f32], columns: usize) -> Tensor {
    Tensor::from_slice(values, (values.len() / columns, columns), compute.device()).unwrap()
}

/// A matrix of stacked parts, and its values.
fn matrix(
    compute: &Compute,
    rng: &mut fastrand::Rng,
    parts: &[(GgmlType, usize)],
    columns: usize,
) -> (PackedMatrix, Vec<f32>) {
    let (mut packed, mut values) = (Vec::new(), Vec::new());
    for &(ggml_type, rows) in parts {
        let bytes = random_blocks(rng, ggml_type, rows * columns);
        packed.push(PackedMatrix::pack(compute, ggml_type, rows, columns, &bytes).unwrap());
        values.extend(dequantise(ggml_type, &bytes));
    }
    (PackedMatrix::stack(packed).unwrap(), values)
}

fn product(compute: &Compute, weight: &PackedMatrix, x: &Tensor) -> Vec<f32> {
    let out = tensor(compute, &vec![f32::NAN; x.dims()[0] * weight.rows()], weight.rows());
    compute.linear(weight, Operand::Rows(x), &out).unwrap();
    out.flatten_all().unwrap().to_vec1().unwrap()
}

/// Checks products against f64: both factors are rounded to 11 bits, and their products add up.
fn check(found: &[f32], weights: &[f32], x: &[f32], columns: usize, what: &str) {
    let rows = weights.len() / columns;
    for (i, &found) in found.iter().enumerate() {
        let (x, weights) = (&x[i / rows * columns..][..columns], &weights[i % rows * columns..][..columns]);
        let products = || x.iter().zip(weights).map(|(x, weight)| f64::from(x * weight));
        let (wanted, size) = (products().sum::<f64>(), products().map(|p| p * p).sum::<f64>().sqrt());
        let error = (f64::from(found) - wanted).abs();
        assert!(error <= 2e-3 * size + 1e-6, "{what}: output {i} is {found}, not {wanted}");
    }
}

#[test]
fn every_format_multiplies_as_its_values_do() {
    let compute = card();
    let mut rng = fastrand::Rng::with_seed(1);
    for ggml_type in GgmlType::ALL {
        for (rows, columns, num_tokens) in [(1, 256, 1), (37, 512, 3), (16, 1280, 8), (20, 256, 13), (40, 768, 17)] {
            let (weight, values) = matrix(&compute, &mut rng, &[(ggml_type, rows)], columns);
            let x = normal_rows(&mut rng, num_tokens * columns, 1.0);
            let found = product(&compute, &weight, &tensor(&compute, &x, columns));
            check(&found, &values, &x, columns, &format!("{} {rows}x{columns}, {num_tokens}", ggml_type.name()));
        }
    }
}

#[test]
fn columns_that_fill_no_tile_are_padded() {
    let compute = card();
    let mut rng = fastrand::Rng::with_seed(2);
    for (ggml_type, columns) in [(GgmlType::Q4_1, 576), (GgmlType::Q8_0, 32), (GgmlType::F32, 7), (GgmlType::BF16, 300)]
    {
        for num_tokens in [2, 70] {
            let (weight, values) = matrix(&compute, &mut rng, &[(ggml_type, 33)], columns);
            let x = normal_rows(&mut rng, num_tokens * columns, 1.0);
            let found = product(&compute, &weight, &tensor(&compute, &x, columns));
            check(&found, &values, &x, columns, ggml_type.name());
        }
    }
}

#[test]
fn an_output_has_the_same_bits_however_many_tokens_there_are_and_in_any_order_of_threads() {
    let compute = card();
    let mut rng = fastrand::Rng::with_seed(3);
    let columns = 1536;
    let parts = [(GgmlType::Q4_K, 100), (GgmlType::Q4_K, 30), (GgmlType::Q6_K, 34)];
    let (weight, values) = matrix(&compute, &mut rng, &parts, columns);
    let x = normal_rows(&mut rng, 150 * columns, 1.0);
    let whole = product(&compute, &weight, &tensor(&compute, &x, columns));
    check(&whole, &values, &x, columns, "stacked");
    for (order, num_tokens) in [(0, 1), (1, 8), (7, 9), (8, 16), (1, 17), (9, 64), (0, 65), (1, 150)] {
        set_thread_order(order);
        let first = 150 - num_tokens;
        let found = product(&compute, &weight, &tensor(&compute, &x[first * columns..], columns));
        assert_eq!(found, whole[first * weight.rows()..], "{num_tokens} tokens");
    }
    set_thread_order(0);
}

#[test]
fn parts_of_any_types_are_multiplied_once() {
    let compute = card();
    let mut rng = fastrand::Rng::with_seed(6);
    let columns = 256;
    let mixed = [GgmlType::Q4_K, GgmlType::Q5_K, GgmlType::Q6_K, GgmlType::F16];
    for parts in [&mixed[..], &mixed[1..3], &[GgmlType::Q6_K, GgmlType::Q2_K, GgmlType::Q6_K]] {
        let parts: Vec<_> = parts.iter().map(|&ggml_type| (ggml_type, 40)).collect();
        let (weight, values) = matrix(&compute, &mut rng, &parts, columns);
        for num_tokens in [1, 9, 20, 80] {
            let x = normal_rows(&mut rng, num_tokens * columns, 1.0);
            let out =
                compute.residual(tensor(&compute, &vec![0.0; num_tokens * weight.rows()], weight.rows())).unwrap();
            compute.linear_add(&weight, Operand::Rows(&tensor(&compute, &x, columns)), &out, None).unwrap();
            let found: Vec<f32> = out.rows().flatten_all().unwrap().to_vec1().unwrap();
            check(&found, &values, &x, columns, &format!("{parts:?}"));
        }
    }
}

#[test]
fn norm_sum_and_gate_are_part_of_products() {
    let compute = card();
    let mut rng = fastrand::Rng::with_seed(4);
    for up_type in [GgmlType::Q4_K, GgmlType::Q6_K, GgmlType::F16] {
        check_feed_forward(&compute, &mut rng, up_type);
    }
}

fn check_feed_forward(compute: &Compute, rng: &mut fastrand::Rng, up_type: GgmlType) {
    let (columns, inner) = (512, 96);
    let (gate_up, gate_up_values) = matrix(compute, rng, &[(GgmlType::Q4_K, inner), (up_type, inner)], columns);
    let (down, down_values) = matrix(compute, rng, &[(GgmlType::Q8_0, columns)], inner);
    // Gates around 1: neither closed nor so far open that nothing but their size counts.
    let norm_weight = normal_rows(rng, columns, 0.02);
    for num_tokens in [1, 12, 40, 130] {
        let x = normal_rows(rng, num_tokens * columns, 3.0);
        let hidden = compute.residual(tensor(compute, &x, columns)).unwrap();
        let gated = compute.gated_rows(num_tokens, inner).unwrap();
        let weight = Tensor::from_slice(&norm_weight, columns, compute.device()).unwrap();
        let norm = Norm { weight: &weight, eps: 1e-5 };
        compute.norm(&hidden, norm).unwrap();
        compute.linear_gated(&gate_up, Operand::Normed(&hidden, norm), &gated).unwrap();
        compute.linear_add(&down, Operand::Gated(&gated), &hidden, None).unwrap();
        let found = hidden.rows().to_vec2::<f32>().unwrap();
        let dot = |row: &[f64], values: &[f32]| row.iter().zip(values).map(|(x, w)| x * f64::from(*w)).sum::<f64>();
        for (x, found) in x.chunks(columns).zip(found) {
            let mean = x.iter().map(|x| f64::from(x * x)).sum::<f64>() / columns as f64;
            let normed: Vec<f64> =
                x.iter().zip(&norm_weight).map(|(x, w)| f64::from(*x) / (mean + 1e-5).sqrt() * f64::from(*w)).collect();
            let outputs: Vec<f64> = gate_up_values.chunks(columns).map(|row| dot(&normed, row)).collect();
            let (gate, up) = outputs.split_at(inner);
            let gated: Vec<f64> = gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
            for ((found, x), row) in found.iter().zip(x).zip(down_values.chunks(inner)) {
                let wanted = f64::from(*x) + dot(&gated, row);
                let size = gated.iter().zip(row).map(|(g, w)| (g * f64::from(*w)).powi(2)).sum::<f64>().sqrt();
                assert!(
                    (f64::from(*found) - wanted).abs() <= 1e-2 * size + 1e-5,
                    "{num_tokens}: {found}, not {wanted}"
                );
            }
        }
    }
}

/// A stream whose norm is read, to which a product is added whose norm is read: the outputs of the second reader.
fn through_two_norms(
    compute: &Compute,
    x: &[f32],
    [read, add, read_again]: &[PackedMatrix; 3],
    norm: Norm<'_>,
) -> Vec<f32> {
    let num_tokens = x.len() / read.columns();
    let stream = compute.residual(tensor(compute, x, read.columns())).unwrap();
    let rows = |columns| tensor(compute, &vec![f32::NAN; num_tokens * columns], columns);
    let (inner, out) = (rows(read.rows()), rows(read_again.rows()));
    compute.norm(&stream, norm).unwrap();
    compute.linear(read, Operand::Normed(&stream, norm), &inner).unwrap();
    compute.linear_add(add, Operand::Rows(&inner), &stream, Some(norm)).unwrap();
    compute.linear(read_again, Operand::Normed(&stream, norm), &out).unwrap();
    out.flatten_all().unwrap().to_vec1().unwrap()
}

/// Rows grow from one norm to the next as much as models' first layers make them.
#[test]
fn norms_of_a_growing_stream_are_those_of_its_rows_and_their_bits_depend_on_no_company() {
    let compute = card();
    let mut rng = fastrand::Rng::with_seed(7);
    let (columns, inner) = (596, 272);
    let weight: Vec<f32> = normal_rows(&mut rng, columns, 1.0);
    for growth in [0.1, 1.0, 1e5] {
        let mut floats = |rows: usize, columns: usize, size: f32| {
            let values = normal_rows(&mut rng, rows * columns, size / (columns as f32).sqrt());
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            PackedMatrix::pack(&compute, GgmlType::F32, rows, columns, &bytes).unwrap()
        };
        let matrices = [floats(inner, columns, 1.0), floats(columns, inner, 0.01 * growth), floats(37, columns, 1.0)];
        let card_weight = Tensor::from_slice(&weight, columns, compute.device()).unwrap();
        let norm = Norm { weight: &card_weight, eps: 1e-6 };
        let x = normal_rows(&mut rng, 140 * columns, 0.01);
        let whole = through_two_norms(&compute, &x, &matrices, norm);
        for (order, num_tokens) in [(0, 1), (1, 8), (7, 13), (8, 17), (1, 64), (0, 65)] {
            set_thread_order(order);
            let first = 140 - num_tokens;
            let found = through_two_norms(&compute, &x[first * columns..], &matrices, norm);
            assert_eq!(found, whole[first * 37..], "{num_tokens} tokens");
        }
        set_thread_order(0);
        let apart = norms_apart(&compute, &x, &matrices, &weight);
        let size = (apart.iter().map(|x| x * x).sum::<f32>() / apart.len() as f32).sqrt();
        for (found, wanted) in whole.iter().zip(&apart) {
            assert!((found - wanted).abs() <= 4e-3 * size, "grown by {growth}: {found}, not {wanted}, of {size}");
        }
    }
}

/// The same with norms computed here.
fn norms_apart(compute: &Compute, x: &[f32], [read, add, read_again]: &[PackedMatrix; 3], weight: &[f32]) -> Vec<f32> {
    let normed = |x: &[f32]| {
        let of_row = |row: &[f32]| {
            let root = 1.0 / (row.iter().map(|x| x * x).sum::<f32>() / row.len() as f32 + 1e-6).sqrt();
            row.iter().zip(weight).map(|(x, w)| x * root * w).collect::<Vec<_>>()
        };
        tensor(compute, &x.chunks(weight.len()).flat_map(of_row).collect::<Vec<_>>(), weight.len())
    };
    let inner = product(compute, read, &normed(x));
    let added = product(compute, add, &tensor(compute, &inner, read.rows()));
    let grown: Vec<f32> = x.iter().zip(added).map(|(x, added)| x + added).collect();
    product(compute, read_again, &normed(&grown))
}

#[test]
fn a_norm_must_be_the_one_that_rows_were_made_ready_for() {
    let compute = card();
    let mut rng = fastrand::Rng::with_seed(8);
    let (weight, _) = matrix(&compute, &mut rng, &[(GgmlType::Q8_0, 32)], 64);
    let stream = compute.residual(tensor(&compute, &[1.0; 128], 64)).unwrap();
    let ones = |len| Tensor::ones(len, DType::F32, compute.device()).unwrap();
    let (first, second, short) = (ones(64), ones(64), ones(63));
    let of = |weight| Norm { weight, eps: 1e-5 };
    let out = tensor(&compute, &[0.0; 64], 32);
    let read = |norm| compute.linear(&weight, Operand::Normed(&stream, norm), &out);
    assert!(read(of(&first)).is_err());
    compute.norm(&stream, of(&first)).unwrap();
    assert!(read(of(&first)).is_ok());
    assert!(read(of(&second)).is_err());
    assert!(compute.norm(&stream, of(&short)).is_err());
}

#[test]
fn embedded_rows_are_the_tables() {
    let compute = card();
    let gpu = compute.gpu().unwrap();
    let mut rng = fastrand::Rng::with_seed(5);
    for ggml_type in GgmlType::ALL {
        let (rows, columns) = (37, 256 * 3);
        let (table, values) = matrix(&compute, &mut rng, &[(ggml_type, rows)], columns);
        let last = Tensor::from_slice(&[9u32, 15], 2, compute.device()).unwrap();
        let ids = Tensor::from_slice(&[0u32, 36, 7, 8, pending(1), 16, 7], 7, compute.device()).unwrap();
        let out = tensor(&compute, &vec![f32::NAN; 7 * columns], columns);
        gpu.embed(&table, (gpu.address(&ids).unwrap(), gpu.address(&last).unwrap()), 7, &out).unwrap();
        for (id, found) in [0, 36, 7, 8, 15, 16, 7].iter().zip(out.to_vec2::<f32>().unwrap()) {
            let wanted = &values[id * columns..][..columns];
            let largest = wanted.iter().fold(0f32, |max, w| max.max(w.abs()));
            for (found, wanted) in found.iter().zip(wanted) {
                assert!((found - wanted).abs() <= 1e-3 * largest, "{}: {found}, not {wanted}", ggml_type.name());
            }
        }
    }
}
