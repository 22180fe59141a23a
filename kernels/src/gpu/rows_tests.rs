//! Operations on rows on the card against the CPU's.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use candle_core::Device;

use super::*;
use crate::testing::{compute, normal_rows};
use crate::{Activations, Compute, ComputeOptions};

fn card() -> Compute {
    Compute::cuda(0, ComputeOptions { threads: 1, isa: None, activations: Activations::Int8 }).unwrap()
}

fn tensors(values: &[f32], columns: usize, card: &Compute) -> [Tensor; 2] {
    [&Device::Cpu, card.device()]
        .map(|device| Tensor::from_slice(values, (values.len() / columns, columns), device).unwrap())
}

#[test]
fn biases_are_added_as_on_the_cpu() {
    let (card, mut rng) = (card(), fastrand::Rng::with_seed(1));
    for (num_tokens, columns) in [(1, 3), (5, 129), (33, 960)] {
        let values = normal_rows(&mut rng, num_tokens * columns, 1.0);
        let [on_cpu, on_card] = tensors(&values, columns, &card);
        let [bias_cpu, bias_card] = tensors(&normal_rows(&mut rng, columns, 1.0), columns, &card);
        compute(1, None).add_bias(&on_cpu, &bias_cpu.squeeze(0).unwrap()).unwrap();
        card.add_bias(&on_card, &bias_card.squeeze(0).unwrap()).unwrap();
        assert_eq!(on_card.to_vec2::<f32>().unwrap(), on_cpu.to_vec2::<f32>().unwrap(), "{num_tokens}x{columns}");
    }
    let [_, x] = tensors(&[0.0; 6], 3, &card);
    let [_, bias] = tensors(&[0.0; 2], 2, &card);
    assert!(card.add_bias(&x, &bias.squeeze(0).unwrap()).is_err());
}

#[test]
fn heads_are_normed_as_on_the_cpu_and_the_others_left_alone() {
    let (card, mut rng) = (card(), fastrand::Rng::with_seed(2));
    for (num_tokens, head_dim, heads, chosen) in [(1, 64, 6, 0..4), (7, 80, 5, 4..5), (19, 128, 3, 1..2)] {
        let columns = heads * head_dim;
        let values = normal_rows(&mut rng, num_tokens * columns, 2.0);
        let [on_cpu, on_card] = tensors(&values, columns, &card);
        let [weight_cpu, weight_card] = tensors(&normal_rows(&mut rng, head_dim, 1.0), head_dim, &card);
        let (first, count) = (chosen.start, chosen.len());
        compute(1, None).head_norm(&on_cpu, first, count, &weight_cpu.squeeze(0).unwrap(), 1e-5).unwrap();
        card.head_norm(&on_card, first, count, &weight_card.squeeze(0).unwrap(), 1e-5).unwrap();
        let (found, wanted) = (on_card.to_vec2::<f32>().unwrap(), on_cpu.to_vec2::<f32>().unwrap());
        for (row, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
            for (column, (found, wanted)) in found.iter().zip(wanted).enumerate() {
                let is_normed = chosen.contains(&(column / head_dim));
                let allowed = if is_normed { 1e-5 * (1.0 + wanted.abs()) } else { 0.0 };
                assert!((found - wanted).abs() <= allowed, "row {row}, column {column}: {found}, not {wanted}");
            }
        }
    }
    let [_, x] = tensors(&[0.0; 6], 6, &card);
    let [_, weight] = tensors(&[0.0; 4], 4, &card);
    assert!(
        card.head_norm(&x, 0, 1, &weight.squeeze(0).unwrap(), 1e-5).is_err(),
        "a head that does not divide the row"
    );
}
