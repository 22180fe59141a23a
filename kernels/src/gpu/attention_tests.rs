//! Attention on the emulated card against the CPU's, and bit for bit against itself under every way to cut the work.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use fastrand::Rng;

use super::*;
use crate::gpu::backend::set_thread_order;
use crate::gpu::step::StepCapacity;
use crate::gpu::testing::{Cache, Card, UNTOUCHED, assert_same_bits, bytes, heads, sequence};
use crate::{RopeStyle, Span};

const SHAPES: [AttentionShape; 9] = [
    heads(9, 3, 64),
    heads(2, 2, 80),
    heads(4, 1, 96),
    heads(8, 2, 128),
    heads(4, 1, 256),
    heads(7, 1, 64),
    heads(3, 3, 8),
    heads(16, 1, 48),
    heads(20, 1, 32),
];

fn assert_close(found: &[f32], wanted: &[f32], tolerance: f32, what: &str) {
    assert_eq!(found.len(), wanted.len());
    for (i, (found, wanted)) in found.iter().zip(wanted).enumerate() {
        let error = (found - wanted).abs();
        assert!(error <= tolerance * (1.0 + wanted.abs()), "{what}: element {i} is {found}, not {wanted}");
    }
}

/// The largest error, and the root of the mean square of all: q is rounded to f16, and scores reach 20.
const TOLERANCE: f32 = 1e-2;
const USUAL_ERROR: f32 = 1e-3;

/// Steps that feed `len` rows of sequence 0 in chunks of `chunk`.
fn chunks(len: usize, chunk: usize) -> Vec<Vec<(usize, usize)>> {
    (0..len).step_by(chunk).map(|start| vec![(0, chunk.min(len - start))]).collect()
}

#[test]
fn agrees_with_the_cpu() {
    let mut rng = Rng::with_seed(1);
    let card = Card::new();
    for shape in SHAPES.into_iter().flat_map(AttentionShape::over_both) {
        for window in [None, Some(1), Some(40), Some(64)] {
            let shape = shape.seeing(window);
            let len = rng.usize(1..200);
            let rows = vec![sequence(&mut rng, &shape, len)];
            let found = card.run(&shape, &rows, &[vec![(0, len)]], &mut rng);
            let (wanted, what) = (card.on_the_cpu(&shape, &rows[0]), format!("{shape:?}, {len} rows"));
            assert_close(&found[0], &wanted, TOLERANCE, &what);
            let squares: f32 = found[0].iter().zip(&wanted).map(|(found, wanted)| (found - wanted).powi(2)).sum();
            let usual = (squares / wanted.len() as f32).sqrt();
            assert!(usual <= USUAL_ERROR, "{what}: the usual error is {usual:.1e}");
        }
    }
}

#[test]
fn agrees_with_the_cpu_over_long_contexts_and_large_scores() {
    let mut rng = Rng::with_seed(2);
    let mut card = Card::new();
    card.is_still = true;
    for (factor, tolerance) in [(1.0, 2e-3), (0.0, 1e-3), (30.0, 2e-2)] {
        let shape = heads(4, 1, 64);
        let mut rows = sequence(&mut rng, &shape, 700);
        // q alone, and rounded as the card does: scores up to thousands.
        rows.chunks_exact_mut(shape.columns()).for_each(|row| {
            row[..256].iter_mut().for_each(|q| *q = half::f16::from_f32(*q * factor).to_f32());
        });
        let wanted = card.on_the_cpu(&shape, &rows);
        let found = card.run(&shape, &[rows], &[vec![(0, 690)], vec![(0, 10)]], &mut rng);
        assert_close(&found[0], &wanted, tolerance, &format!("times {factor}"));
    }
}

#[test]
fn a_prompt_in_chunks_gives_the_same_bits_in_any_order_of_threads() {
    let mut rng = Rng::with_seed(3);
    for shape in SHAPES.into_iter().flat_map(AttentionShape::over_both) {
        for window in [None, Some(75)] {
            let (shape, len) = (shape.seeing(window), 150);
            let rows = [sequence(&mut rng, &shape, len)];
            let mut card = Card::new();
            let whole = card.run(&shape, &rows, &[vec![(0, len)]], &mut rng);
            for (chunk, order) in [(7, 1), (33, 7), (100, 0), (len, 1), (len, 7)] {
                card.order = order;
                let cut = card.run(&shape, &rows, &chunks(len, chunk), &mut rng);
                assert_same_bits(&cut[0], &whole[0], &format!("{shape:?} in chunks of {chunk}, order {order}"));
            }
        }
    }
}

#[test]
fn long_contexts_give_the_same_bits_however_they_are_split() {
    let mut rng = Rng::with_seed(4);
    for (shape, window) in [(SHAPES[0], None), (SHAPES[3], Some(600)), (SHAPES[3].over_both()[1], None)] {
        let (shape, len) = (shape.seeing(window), 1100);
        let rows = [sequence(&mut rng, &shape, len)];
        let mut card = Card::new();
        card.room = Some((1, 1, 1));
        let whole = card.run(&shape, &rows, &[vec![(0, len)]], &mut rng);
        let mut steps = vec![vec![(0, len - 9)], vec![(0, 3)]];
        steps.extend([vec![(0, 1)], vec![(0, 5)]]);
        // Every partition by itself; a few blocks; memory for partial results of some heads only; none.
        for (blocks, partials, order) in [(16, 1 << 20, 0), (5, 1 << 20, 7), (16, 3000, 1), (16, 0, 0), (1, 1 << 20, 0)]
        {
            card.room = Some((1000, blocks, partials));
            card.order = order;
            let cut = card.run(&shape, &rows, &steps, &mut rng);
            assert_same_bits(&cut[0], &whole[0], &format!("{shape:?} over {blocks} blocks"));
        }
    }
}

#[test]
fn a_layer_may_have_another_window_than_the_plan() {
    let mut rng = Rng::with_seed(5);
    let (shape, len) = (SHAPES[3], 700);
    let rows = [sequence(&mut rng, &shape, len)];
    let steps = [vec![(0, len - 1)], vec![(0, 1)]];
    for window in [1, 100, 300] {
        let shape = shape.seeing(Some(window));
        let mut card = Card::new();
        let wanted = card.run(&shape, &rows, &steps, &mut rng);
        card.plans_whole = true;
        assert_same_bits(&card.run(&shape, &rows, &steps, &mut rng)[0], &wanted[0], &format!("a window of {window}"));
    }
}

#[test]
fn company_changes_no_bit_and_nan_stays_at_home() {
    SHAPES[0].over_both().into_iter().for_each(company);
}

fn company(shape: AttentionShape) {
    let mut rng = Rng::with_seed(6);
    let mut card = Card::new();
    let lens: Vec<usize> = (0..12).map(|i| 20 + 13 * i).collect();
    let mut sequences: Vec<Vec<f32>> = lens.iter().map(|&len| sequence(&mut rng, &shape, len)).collect();
    sequences[7].fill(f32::NAN);
    sequences[9][100] = f32::INFINITY;
    let alone: Vec<Vec<f32>> = sequences
        .iter()
        .zip(&lens)
        .map(|(rows, &len)| card.run(&shape, std::slice::from_ref(rows), &[vec![(0, len)]], &mut rng).remove(0))
        .collect();
    for round in 0..3 {
        let mut left = lens.clone();
        let mut steps = Vec::new();
        while left.iter().any(|&len| len > 0) {
            let mut step = Vec::new();
            for (i, left) in left.iter_mut().enumerate() {
                let len = if rng.bool() { 1 } else { rng.usize(0..40) }.min(*left);
                if len > 0 {
                    *left -= len;
                    step.push((i, len));
                }
            }
            rng.shuffle(&mut step);
            steps.push(step);
        }
        card.order = [0, 1, 7][round];
        card.room = [None, Some((1, 7, 1 << 20)), Some((1000, 16, 1 << 20))][round];
        let outs = card.run(&shape, &sequences, &steps, &mut rng);
        for (i, (together, alone)) in outs.iter().zip(&alone).enumerate().filter(|(i, _)| *i != 7 && *i != 9) {
            assert_same_bits(together, alone, &format!("sequence {i} in round {round}"));
            assert!(together.iter().all(|x| x.is_finite()), "sequence {i} caught a NaN");
        }
        assert!(outs[7].iter().all(|x| x.is_nan()));
    }
}

/// The outputs of a step of each sequence's `new` last rows and the cache after it, and whether attention stored them.
fn last_step(card: &Card, shape: &AttentionShape, sequences: &[Vec<f32>], new: &[usize]) -> (Vec<f32>, Vec<u8>, bool) {
    let columns = shape.columns();
    let lens: Vec<usize> = sequences.iter().map(|rows| rows.len() / columns).collect();
    let cache = Cache::new(card.gpu.device(), &mut Rng::with_seed(0), shape, &lens);
    let step = |first: &[usize], end: &[usize]| {
        let (mut rows, mut spans) = (Vec::new(), Vec::new());
        for (i, (&first, &end)) in first.iter().zip(end).enumerate().filter(|(_, (first, end))| first < end) {
            let (query_start, query_len) = (rows.len() / columns, end - first);
            rows.extend_from_slice(&sequences[i][first * columns..end * columns]);
            spans.push(Span { query_start, query_len, context_len: end, block_table: cache.tables[i].clone() });
        }
        set_thread_order(card.order);
        let (qkv, tables) = card.store(shape, &rows, &spans, &cache, 2);
        let out = card.attend(shape, &qkv, &tables, &cache);
        set_thread_order(0);
        (out, tables.is_stored_by_attention())
    };
    let before: Vec<usize> = lens.iter().zip(new).map(|(len, new)| len - new).collect();
    step(&vec![0; lens.len()], &before);
    let (out, is_stored) = step(&before, &lens);
    (out, bytes(&cache.layer), is_stored)
}

#[test]
fn attention_stores_what_is_stored_before_it_otherwise() {
    let mut rng = Rng::with_seed(8);
    let shapes = [SHAPES[1], SHAPES[3], SHAPES[4].seeing(Some(150)), SHAPES[5], SHAPES[6], SHAPES[7]];
    for shape in shapes.into_iter().flat_map(AttentionShape::over_both) {
        // On both sides of a partition's end, at the start of a page, alone, anywhere.
        let most = 16 / shape.group();
        let new = [most, rng.usize(1..=most), 1, rng.usize(1..=most)];
        let lens = [128 + most / 2, 64 + new[1], 1, rng.usize(300..400)];
        let sequences = lens.map(|len| sequence(&mut rng, &shape, len));
        let mut card = Card::new();
        for (style, blocks, order) in [(RopeStyle::Neox, 2, 1), (RopeStyle::Interleaved, 8, 7)] {
            (card.style, card.order, card.room) = (style, order, Some((1000, blocks, 1 << 20)));
            card.attention_may_store = true;
            let (found, found_pages, is_stored) = last_step(&card, &shape, &sequences, &new);
            assert!(is_stored, "{shape:?}");
            card.attention_may_store = false;
            let (wanted, pages, is_stored) = last_step(&card, &shape, &sequences, &new);
            assert!(!is_stored);
            assert_same_bits(&found, &wanted, &format!("{shape:?}, {style:?}"));
            assert_eq!(found_pages.iter().zip(&pages).position(|(a, b)| a != b), None, "{shape:?}: pages differ");
        }
    }
}

#[test]
fn kept_rows_have_tables_of_their_own() {
    let mut rng = Rng::with_seed(7);
    let (card, shape) = (Card::new(), SHAPES[3]);
    let lens = [90, 33];
    let cache = Cache::new(card.gpu.device(), &mut rng, &shape, &lens);
    let rows = sequence(&mut rng, &shape, 123);
    let span = |i: usize, query_start: usize, query_len: usize, context_len: usize| Span {
        query_start,
        query_len,
        context_len,
        block_table: cache.tables[i].clone(),
    };
    let all = card.step(&shape, &rows, &[span(0, 0, 90, 90), span(1, 90, 33, 33)], &cache, 0);
    let kept = [3_u32, 4, 89, 122];
    let spans = [span(0, 0, 2, 5), span(0, 2, 1, 90), span(1, 3, 1, 33)];
    let mut tables = card.tables(&shape, 8, &spans, &cache);
    tables.fill(&card.gpu, &kept, &spans, (6, false)).unwrap();
    let (qkv, _) = card.store(&shape, &rows, &[span(0, 0, 90, 90), span(1, 90, 33, 33)], &cache, 0);
    card.gpu.keep_rows(&qkv, &tables).unwrap();
    let found = card.attend(&shape, &qkv, &tables, &cache);
    let width = shape.num_heads * shape.head_dim;
    for (i, &row) in kept.iter().enumerate() {
        assert_same_bits(&found[i * width..][..width], &all[row as usize * width..][..width], &format!("row {row}"));
    }
}

#[test]
fn wrong_arguments_are_errors() {
    let gpu = Gpu::open(0).unwrap();
    let capacity = StepCapacity { rows: 8, spans: 2, span_blocks: 4, cache_blocks: 4 };
    for shape in [heads(3, 2, 64), heads(4, 0, 64), heads(2, 1, 12), heads(2, 1, 264), heads(65, 1, 64)] {
        assert!(StepTables::new(&gpu, shape, capacity).is_err(), "{shape:?}");
    }
    let q8 = AttentionShape { cache_type: KvCacheType::Q8, ..heads(2, 1, 24) };
    assert!(StepTables::new(&gpu, q8, capacity).is_err());
    let shape = heads(4, 2, 16);
    let mut tables = StepTables::new(&gpu, shape, capacity).unwrap();
    let spans = [Span { query_start: 0, query_len: 3, context_len: 40, block_table: vec![3, 0] }];
    assert!(tables.fill(&gpu, &[1, 2], &spans, (3, false)).is_err(), "a row without a token");
    assert!(tables.fill(&gpu, &[1, 2, 3], &spans, (2, false)).is_err(), "fewer rows than tokens");
    assert!(tables.fill(&gpu, &[1, 2, 3], &spans, (9, false)).is_err(), "too many rows");
    tables.fill(&gpu, &[1, 2, 3], &spans, (4, false)).unwrap();
    let memory = AttentionMemory::new(&gpu, &shape).unwrap();
    let layer = |blocks, kv_heads, dim, kind| KvLayer::new(blocks, kv_heads, dim, kind, gpu.device()).unwrap();
    let kv = layer(4, 2, 16, KvCacheType::F16);
    let qkv = |rows: usize, columns: usize| Tensor::zeros((rows, columns), DType::F32, gpu.device()).unwrap();
    let out = |rows: usize, columns: usize| Tensor::full(UNTOUCHED, (rows, columns), gpu.device()).unwrap();
    let angles = RopeAngles::new(&gpu, RopeStyle::Neox, &[1.0; 8], 1.0, 8).unwrap();
    let call = |qkv: &Tensor, kv: &KvLayer, out: &Tensor| {
        gpu.attention(&memory, qkv, (&tables, kv), &angles, (1.0, None), out)
    };
    assert!(call(&qkv(4, 128), &kv, &out(8, 256)).is_ok());
    assert!(call(&qkv(3, 128), &kv, &out(8, 256)).is_err(), "too few rows");
    assert!(call(&qkv(4, 112), &kv, &out(8, 256)).is_err(), "too few heads");
    assert!(call(&qkv(4, 128), &kv, &out(8, 64)).is_err(), "columns are padded");
    assert!(call(&qkv(4, 128), &kv, &qkv(8, 256)).is_err(), "out is f16");
    assert!(call(&qkv(4, 128), &layer(3, 2, 16, KvCacheType::F16), &out(8, 256)).is_err(), "too few blocks");
    assert!(call(&qkv(4, 128), &layer(4, 1, 16, KvCacheType::F16), &out(8, 256)).is_err());
    assert!(call(&qkv(4, 128), &layer(4, 2, 16, KvCacheType::Q8), &out(8, 256)).is_err());
}
