//! What rope and the cache's store leave on the card against the CPU's, to the bit.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use fastrand::Rng;

use super::*;
use crate::gpu::testing::{Cache, Card, bytes, cpu_layout, frequencies, heads, poisoned, sequence};
use crate::testing::compute;
use crate::{RopeTable, Span, StepRows};

/// Rotates and stores rows from `first` on as one step; returns q and the pages, as the CPU has them.
fn on_the_card(
    card: &Card,
    (style, shape): (RopeStyle, &crate::AttentionShape),
    rows: &[f32],
    span: &Span,
    num_blocks: usize,
) -> (Vec<f32>, Vec<u8>) {
    let layer = poisoned(card.gpu.device(), shape, num_blocks);
    let cache = Cache { layer, tables: Vec::new() };
    let (num_rows, padded) = (span.query_len, span.query_len + 3);
    let mut tables = card.tables(shape, padded, std::slice::from_ref(span), &cache);
    tables.fill(&card.gpu, &vec![0; num_rows], std::slice::from_ref(span), (padded, false)).unwrap();
    let mut values = rows.to_vec();
    values.resize(padded * shape.columns(), f32::NAN);
    let qkv = Tensor::from_vec(values, (padded, shape.columns()), card.gpu.device()).unwrap();
    let angles = RopeAngles::new(&card.gpu, style, &frequencies(shape.head_dim), 1.25, padded).unwrap();
    card.gpu.rope_angles(&angles, &tables).unwrap();
    card.gpu.rope_and_store(&qkv, &angles, &tables, &cache.layer).unwrap();
    let width = shape.num_heads * shape.head_dim;
    let rows = qkv.to_vec2::<f32>().unwrap();
    assert!(rows[num_rows..].iter().flatten().all(|x| x.is_nan()), "rows of padding were changed");
    let q = rows[..num_rows].iter().flat_map(|row| row[..width].to_vec()).collect();
    (q, cpu_layout(shape, bytes(&cache.layer)))
}

fn on_the_cpu(
    (style, shape): (RopeStyle, &crate::AttentionShape),
    rows: &[f32],
    span: &Span,
    num_blocks: usize,
) -> (Vec<f32>, Vec<u8>) {
    let layer = poisoned(&candle_core::Device::Cpu, shape, num_blocks);
    let qkv = Tensor::from_slice(rows, (span.query_len, shape.columns()), &candle_core::Device::Cpu).unwrap();
    let rope = RopeTable::new(style, frequencies(shape.head_dim), 1.25);
    let step = StepRows::new(&[], std::slice::from_ref(span));
    compute(1, None).rope_and_store(&qkv, &rope, &step, &layer).unwrap();
    let width = shape.num_heads * shape.head_dim;
    let q = qkv.to_vec2::<f32>().unwrap().iter().flat_map(|row| row[..width].to_vec()).collect();
    (q, bytes(&layer))
}

#[test]
fn queries_and_pages_are_the_cpus() {
    let mut rng = Rng::with_seed(1);
    let card = Card::new();
    for shape in [heads(4, 2, 64), heads(3, 1, 128), heads(2, 2, 80), heads(2, 1, 256), heads(1, 1, 96)] {
        for shape in shape.over_both() {
            for style in [RopeStyle::Interleaved, RopeStyle::Neox] {
                let (context_len, query_len) = (rng.usize(60..150), rng.usize(1..50));
                let mut block_table: Vec<u32> = (0..7).collect();
                rng.shuffle(&mut block_table);
                let span = Span { query_start: 0, query_len, context_len, block_table };
                let rows = sequence(&mut rng, &shape, query_len);
                let what = format!("{shape:?}, {style:?}, {query_len} of {context_len}");
                let (found, found_pages) = on_the_card(&card, (style, &shape), &rows, &span, 7);
                let (wanted, wanted_pages) = on_the_cpu((style, &shape), &rows, &span, 7);
                assert!(found.iter().zip(&wanted).all(|(a, b)| a.to_bits() == b.to_bits()), "{what}: queries differ");
                let differ = found_pages.iter().zip(&wanted_pages).position(|(a, b)| a != b);
                assert_eq!(differ, None, "{what}: pages differ");
            }
        }
    }
}

#[test]
fn what_is_not_finite_stays_visible_in_bytes() {
    let mut rng = Rng::with_seed(2);
    let card = Card::new();
    let shape = heads(1, 1, 64).over_both()[1];
    let span = Span { query_start: 0, query_len: 2, context_len: 2, block_table: vec![0] };
    let mut rows = sequence(&mut rng, &shape, 2);
    rows[shape.columns() + 64 + 5] = f32::INFINITY;
    let (_, pages) = on_the_card(&card, (RopeStyle::Neox, &shape), &rows, &span, 1);
    let scale = |position: usize| f32::from_le_bytes(pages[32 * 64 + 4 * position..][..4].try_into().unwrap());
    assert!(scale(0).is_finite() && scale(1).is_nan(), "{} {}", scale(0), scale(1));
}
