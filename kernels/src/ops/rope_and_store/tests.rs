#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use candle_core::{Device, Tensor};
use half::f16;

use crate::testing::{compute, isas, normal_rows};
use crate::{BLOCK_SIZE, Isa, KvCacheType, KvLayer, RopeStyle, RopeTable, Span, StepRows};

fn frequencies(head_dim: usize) -> Vec<f32> {
    (0..head_dim / 2).map(|i| 500_000f32.powf(-2.0 * i as f32 / head_dim as f32)).collect()
}

/// Rotation of one head in f64.
fn rotated(style: RopeStyle, head: &[f32], position: usize, magnitude: f64) -> Vec<f64> {
    let pairs = head.len() / 2;
    let mut out = vec![0.0; head.len()];
    for (i, frequency) in frequencies(head.len()).into_iter().enumerate() {
        let (a, b) = match style {
            RopeStyle::Interleaved => (2 * i, 2 * i + 1),
            RopeStyle::Neox => (i, i + pairs),
        };
        let (sin, cos) = (position as f64 * f64::from(frequency)).sin_cos();
        let (x, y) = (f64::from(head[a]), f64::from(head[b]));
        out[a] = (x * cos - y * sin) * magnitude;
        out[b] = (y * cos + x * sin) * magnitude;
    }
    out
}

/// Two spans, one of them far out, among other blocks.
fn spans() -> [Span; 2] {
    let far = 131_072;
    let mut block_table = vec![0; far / BLOCK_SIZE];
    block_table[far / BLOCK_SIZE - 2..].copy_from_slice(&[4, 2]);
    [
        Span { query_start: 0, query_len: 40, context_len: 45, block_table: vec![1, 3] },
        Span { query_start: 40, query_len: 60, context_len: far, block_table },
    ]
}

#[test]
fn q_and_k_turn_by_position_and_k_and_v_land_in_their_slots() {
    let mut rng = fastrand::Rng::with_seed(1);
    let (num_heads, num_kv_heads, magnitude) = (4, 2, 1.25);
    for (isa, style, head_dim) in [
        (Isa::Scalar, RopeStyle::Neox, 12),
        (Isa::Scalar, RopeStyle::Interleaved, 64),
        (Isa::detect(), RopeStyle::Neox, 128),
        (Isa::detect(), RopeStyle::Interleaved, 20),
    ] {
        let columns = (num_heads + 2 * num_kv_heads) * head_dim;
        let before = normal_rows(&mut rng, 100 * columns, 1.0);
        let qkv = Tensor::from_slice(&before, (100, columns), &Device::Cpu).unwrap();
        let rope = RopeTable::new(style, frequencies(head_dim), magnitude);
        let layer = KvLayer::new(5, num_kv_heads, head_dim, KvCacheType::F16, &Device::Cpu).unwrap();
        compute(2, Some(isa)).rope_and_store(&qkv, &rope, &StepRows::new(&[], &spans()), &layer).unwrap();
        let after = qkv.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let pages = layer.pages.flatten_all().unwrap().to_vec1::<f16>().unwrap();
        for span in spans() {
            for i in 0..span.query_len {
                let (row, position) = (span.query_start + i, span.first_position() + i);
                for head in 0..num_heads + 2 * num_kv_heads {
                    let at = row * columns + head * head_dim;
                    let (before, after) = (&before[at..at + head_dim], &after[at..at + head_dim]);
                    let is_value = head >= num_heads + num_kv_heads;
                    if is_value {
                        assert_eq!(before, after, "v is not rotated");
                    } else {
                        let wanted = rotated(style, before, position, magnitude.into());
                        for (found, wanted) in after.iter().zip(wanted) {
                            assert!((f64::from(*found) - wanted).abs() < 2e-6, "{found} is not {wanted}");
                        }
                    }
                    let Some(kv_head) = head.checked_sub(num_heads) else { continue };
                    let (block, offset) = (span.slot(position) / BLOCK_SIZE, position % BLOCK_SIZE);
                    let page = (block * num_kv_heads + kv_head % num_kv_heads) * 2 * BLOCK_SIZE * head_dim;
                    for (d, value) in after.iter().enumerate() {
                        let of_value = (BLOCK_SIZE + offset) * head_dim + d;
                        let place = if is_value { of_value } else { d * BLOCK_SIZE + offset };
                        assert_eq!(pages[page + place], f16::from_f32(*value), "head {head} at {position}");
                    }
                }
            }
        }
    }
}

#[test]
fn bytes_and_scales_land_in_their_slots_whatever_the_values() {
    let mut rng = fastrand::Rng::with_seed(2);
    let head_dim = 20;
    let mut rows = normal_rows(&mut rng, 6 * 3 * head_dim, 1.0);
    let values = |rows: &mut Vec<f32>, row: usize, factor: f32| {
        rows[(3 * row + 2) * head_dim..][..head_dim].iter_mut().for_each(|x| *x *= factor);
    };
    values(&mut rows, 1, 0.0);
    values(&mut rows, 2, 1e37);
    values(&mut rows, 3, 1e-39);
    rows[(3 * 4 + 2) * head_dim + 7] = f32::NAN;
    rows[(3 * 5 + 2) * head_dim + 7] = f32::NEG_INFINITY;
    for isa in isas() {
        let qkv = Tensor::from_slice(&rows, (6, 3 * head_dim), &Device::Cpu).unwrap();
        let rope = RopeTable::new(RopeStyle::Neox, frequencies(head_dim), 1.0);
        let layer = KvLayer::new(2, 1, head_dim, KvCacheType::Q8, &Device::Cpu).unwrap();
        let span = Span { query_start: 0, query_len: 6, context_len: 34, block_table: vec![1, 0] };
        compute(1, Some(isa)).rope_and_store(&qkv, &rope, &StepRows::new(&[], &[span]), &layer).unwrap();
        let pages = layer.pages.flatten_all().unwrap().to_vec1::<u8>().unwrap();
        let rotated = qkv.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let half = BLOCK_SIZE * (head_dim + 4);
        for (row, is_value) in (0..6).flat_map(|row| [(row, false), (row, true)]) {
            let (block, offset) = if row < 4 { (1, 28 + row) } else { (0, row - 4) };
            let page = &pages[(2 * block + usize::from(is_value)) * half..][..half];
            let scale = &page[BLOCK_SIZE * head_dim + 4 * offset..][..4];
            let scale = f32::from_le_bytes(scale.try_into().unwrap());
            if is_value && row >= 4 {
                assert!(scale.is_nan(), "what is not finite stays visible");
                continue;
            }
            let wanted = &rotated[(3 * row + 1 + usize::from(is_value)) * head_dim..][..head_dim];
            for (d, wanted) in wanted.iter().enumerate() {
                let place = if is_value { offset * head_dim + d } else { d * BLOCK_SIZE + offset };
                let found = f32::from(page[place].cast_signed()) * scale;
                let error = (found - wanted).abs();
                assert!(error <= scale * 0.50001 + 2e-44, "{isa:?} row {row}: {found} is not {wanted}");
            }
        }
    }
}

#[test]
fn angles_are_those_of_the_step_at_hand() {
    let rope = RopeTable::new(RopeStyle::Neox, vec![1.0, 0.1], 1.0);
    let span = |first: usize, query_len| Span {
        query_start: 0,
        query_len,
        context_len: first + query_len,
        block_table: Vec::new(),
    };
    for (first, len) in [(0, 3), (3, 1), (4, 1), (4, 1), (1, 2), (100, 3)] {
        let angles = rope.angles(&[span(first, len)]);
        for i in 0..len {
            let (cos, sin) = angles.row(i, 2);
            let angle = (first + i) as f64;
            assert_eq!(cos, [angle.cos() as f32, (angle * f64::from(0.1f32)).cos() as f32]);
            assert_eq!(sin, [angle.sin() as f32, (angle * f64::from(0.1f32)).sin() as f32]);
        }
    }
}
