//! Attention against a plain f64 reference, and bit for bit against itself under every way to cut a step.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use candle_core::{DType, Device, Tensor};
use fastrand::Rng;
use half::f16;

use crate::testing::isas;
use crate::{BLOCK_SIZE, Compute, ComputeOptions, Isa, KvCacheType, KvLayer, RopeStyle, RopeTable, Span, StepRows};

#[derive(Debug, Clone, Copy)]
#[expect(clippy::struct_field_names, reason = "the field's own names")]
struct Heads {
    num_heads: usize,
    num_kv_heads: usize,
    head_dim: usize,
    cache_type: KvCacheType,
}

impl Heads {
    const fn new(num_heads: usize, num_kv_heads: usize, head_dim: usize) -> Self {
        Self { num_heads, num_kv_heads, head_dim, cache_type: KvCacheType::F16 }
    }

    /// Over both types of cache.
    fn over_both(self) -> [Self; 2] {
        [KvCacheType::F16, KvCacheType::Q8].map(|cache_type| Self { cache_type, ..self })
    }

    fn columns(self) -> usize {
        (self.num_heads + 2 * self.num_kv_heads) * self.head_dim
    }
}

fn compute(threads: usize, isa: Isa) -> Compute {
    Compute::cpu(ComputeOptions { threads, isa: Some(isa), activations: crate::Activations::default() }).unwrap()
}

/// Rows of q, k and v of one sequence.
fn sequence(rng: &mut Rng, heads: Heads, len: usize) -> Vec<f32> {
    (0..len * heads.columns()).map(|_| (rng.f32() + rng.f32() + rng.f32() - 1.5) * 4.0).collect()
}

/// A cache in which whatever was not stored is NaN, and the sequences' blocks in it.
struct Cache {
    layer: KvLayer,
    tables: Vec<Vec<u32>>,
}

impl Cache {
    fn new(rng: &mut Rng, heads: Heads, lens: &[usize]) -> Self {
        let blocks: Vec<usize> = lens.iter().map(|len| len.div_ceil(BLOCK_SIZE)).collect();
        let num_blocks = blocks.iter().sum::<usize>() + 3;
        let shape = |elements| (num_blocks, heads.num_kv_heads, 2, elements);
        let pages = match heads.cache_type {
            KvCacheType::F16 => Tensor::full(f16::NAN, shape(BLOCK_SIZE * heads.head_dim), &Device::Cpu),
            // Scales of only ones are NaN.
            KvCacheType::Q8 => {
                Tensor::full(0xff_u8, shape(heads.cache_type.half_page_bytes(heads.head_dim)), &Device::Cpu)
            }
        };
        let mut ids: Vec<u32> = (0..num_blocks as u32).collect();
        rng.shuffle(&mut ids);
        let tables = blocks.iter().map(|&n| ids.drain(..n).collect()).collect();
        Self { layer: KvLayer { pages: pages.unwrap() }, tables }
    }
}

/// Runs the sequences in steps, each a list of (sequence, rows), and returns every sequence's outputs and its rotated
/// rows of qkv.
fn run_steps(
    compute: &Compute,
    heads: Heads,
    window: Option<usize>,
    sequences: &[Vec<f32>],
    steps: &[Vec<(usize, usize)>],
    rng: &mut Rng,
) -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
    let columns = heads.columns();
    let lens: Vec<usize> = sequences.iter().map(|rows| rows.len() / columns).collect();
    let cache = Cache::new(rng, heads, &lens);
    let frequencies = (0..heads.head_dim / 2).map(|i| 10_000f32.powf(-(i as f32) / heads.head_dim as f32)).collect();
    let rope = RopeTable::new(RopeStyle::Neox, frequencies, 1.0);
    let mut done = vec![0; sequences.len()];
    let (mut outs, mut rotated) = (vec![Vec::new(); sequences.len()], vec![Vec::new(); sequences.len()]);
    for step in steps {
        let (mut rows, mut spans) = (Vec::new(), Vec::new());
        for &(i, len) in step {
            let query_start = rows.len() / columns;
            rows.extend_from_slice(&sequences[i][done[i] * columns..(done[i] + len) * columns]);
            done[i] += len;
            let block_table = cache.tables[i].clone();
            spans.push(Span { query_start, query_len: len, context_len: done[i], block_table });
        }
        let num_tokens = rows.len() / columns;
        let qkv = Tensor::from_vec(rows, (num_tokens, columns), &Device::Cpu).unwrap();
        let out = Tensor::full(f32::NAN, (num_tokens, heads.num_heads * heads.head_dim), &Device::Cpu).unwrap();
        compute.rope_and_store(&qkv, &rope, &StepRows::new(&[], &spans), &cache.layer).unwrap();
        let scale = 1.0 / (heads.head_dim as f32).sqrt();
        compute.attention(&qkv, &StepRows::new(&[], &spans), &cache.layer, scale, window, &out).unwrap();
        for (&(i, len), span) in step.iter().zip(&spans) {
            let part = |t: &Tensor| {
                let rows = t.narrow(0, span.query_start, len).unwrap();
                rows.flatten_all().unwrap().to_vec1::<f32>().unwrap()
            };
            outs[i].extend(part(&out));
            rotated[i].extend(part(&qkv));
        }
    }
    assert_eq!(done, lens);
    (outs, rotated)
}

/// A key or a value as the cache keeps it.
fn stored(cache_type: KvCacheType, row: &[f32]) -> Vec<f64> {
    let scale = row.iter().fold(0_f32, |largest, x| largest.max(x.abs())) / 127.0;
    let element = |&x: &f32| match cache_type {
        KvCacheType::F16 => f64::from(f16::from_f32(x).to_f32()),
        KvCacheType::Q8 if scale == 0.0 => 0.0,
        KvCacheType::Q8 => f64::from((x / scale).round_ties_even()) * f64::from(scale),
    };
    row.iter().map(element).collect()
}

/// Softmax attention in f64 over keys and values as the cache keeps them, from rotated rows.
fn reference(heads: Heads, window: Option<usize>, rows: &[f32]) -> Vec<f64> {
    let Heads { num_heads, num_kv_heads, head_dim, cache_type } = heads;
    let rows: Vec<&[f32]> = rows.chunks_exact(heads.columns()).collect();
    // (tokens, heads of k, then of v, head_dim)
    let kv = |row: &&[f32]| row[num_heads * head_dim..].chunks_exact(head_dim).map(|x| stored(cache_type, x)).collect();
    let kv: Vec<Vec<Vec<f64>>> = rows.iter().map(kv).collect();
    let mut out = Vec::new();
    for (position, row) in rows.iter().enumerate() {
        for (head, query) in row.chunks_exact(head_dim).take(num_heads).enumerate() {
            let kv_head = head / (num_heads / num_kv_heads);
            let first = window.map_or(0, |window| (position + 1).saturating_sub(window));
            let seen = &kv[first..=position];
            let score = |kv: &Vec<Vec<f64>>| {
                let products = query.iter().zip(&kv[kv_head]).map(|(q, k)| f64::from(*q) * k);
                products.sum::<f64>() / (head_dim as f64).sqrt()
            };
            let scores: Vec<f64> = seen.iter().map(score).collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
            let sum: f64 = weights.iter().sum();
            out.extend((0..head_dim).map(|d| {
                let weighted =
                    seen.iter().zip(&weights).map(|(kv, weight)| weight / sum * kv[num_kv_heads + kv_head][d]);
                weighted.sum::<f64>()
            }));
        }
    }
    out
}

fn assert_close(found: &[f32], wanted: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), wanted.len());
    for (i, (found, wanted)) in found.iter().zip(wanted).enumerate() {
        let error = (f64::from(*found) - wanted).abs();
        assert!(error <= tolerance * (1.0 + wanted.abs()), "{what}: element {i} is {found}, not {wanted}");
    }
}

fn assert_same_bits(found: &[f32], wanted: &[f32], what: &str) {
    assert_eq!(found.len(), wanted.len());
    let first = found.iter().zip(wanted).position(|(a, b)| a.to_bits() != b.to_bits());
    assert!(first.is_none(), "{what}: element {first:?} of {} differs", found.len());
}

const SHAPES: [Heads; 10] = [
    Heads::new(9, 3, 64),
    Heads::new(2, 2, 80),
    Heads::new(4, 1, 96),
    Heads::new(8, 2, 128),
    Heads::new(8, 1, 256),
    Heads::new(7, 1, 64),
    Heads::new(3, 3, 8),
    Heads::new(10, 2, 20),
    Heads::new(2, 1, 2),
    Heads::new(49, 1, 16),
];

#[test]
fn agrees_with_the_reference() {
    let mut rng = Rng::with_seed(1);
    for heads in SHAPES.into_iter().flat_map(Heads::over_both) {
        for isa in isas() {
            for window in [None, Some(1), Some(40), Some(64)] {
                let len = rng.usize(1..150);
                let rows = vec![sequence(&mut rng, heads, len)];
                let (outs, rotated) = run_steps(&compute(2, isa), heads, window, &rows, &[vec![(0, len)]], &mut rng);
                let wanted = reference(heads, window, &rotated[0]);
                assert_close(&outs[0], &wanted, 3e-5, &format!("{heads:?} {isa:?} {window:?} {len}"));
            }
        }
    }
}

#[test]
fn agrees_with_the_reference_over_partitions_and_large_scores() {
    let mut rng = Rng::with_seed(2);
    let heads = Heads::new(2, 1, 32);
    for (isa, heads) in isas().into_iter().flat_map(|isa| heads.over_both().map(|heads| (isa, heads))) {
        for (factor, tolerance) in [(1.0, 3e-5), (0.0, 1e-6), (30.0, 2e-2)] {
            let mut rows = sequence(&mut rng, heads, 1200);
            // q alone: scores up to tens of thousands.
            rows.chunks_exact_mut(heads.columns()).for_each(|row| row[..64].iter_mut().for_each(|q| *q *= factor));
            let (outs, rotated) = run_steps(&compute(2, isa), heads, None, &[rows], &[vec![(0, 1200)]], &mut rng);
            assert_close(&outs[0], &reference(heads, None, &rotated[0]), tolerance, &format!("{isa:?} {factor}"));
        }
    }
}

/// Steps that feed `len` rows of sequence 0 in chunks of `chunk`.
fn chunks(len: usize, chunk: usize) -> Vec<Vec<(usize, usize)>> {
    (0..len).step_by(chunk).map(|start| vec![(0, chunk.min(len - start))]).collect()
}

#[test]
fn a_prompt_in_chunks_gives_the_same_bits() {
    let mut rng = Rng::with_seed(3);
    for heads in SHAPES.into_iter().flat_map(Heads::over_both) {
        for (isa, window) in isas().into_iter().flat_map(|isa| [(isa, None), (isa, Some(75))]) {
            let len = if isa == Isa::Scalar { 70 } else { 300 };
            let rows = [sequence(&mut rng, heads, len)];
            let (whole, _) = run_steps(&compute(1, isa), heads, window, &rows, &[vec![(0, len)]], &mut rng);
            for (chunk, threads) in [(1, 2), (7, 1), (32, 3), (100, 2), (len, 4)] {
                let (cut, _) = run_steps(&compute(threads, isa), heads, window, &rows, &chunks(len, chunk), &mut rng);
                assert_same_bits(&cut[0], &whole[0], &format!("{heads:?} {isa:?} {window:?} in chunks of {chunk}"));
            }
        }
    }
}

#[test]
fn long_contexts_give_the_same_bits_however_they_are_split() {
    let mut rng = Rng::with_seed(4);
    let cases = [(SHAPES[0], None), (SHAPES[3], Some(700)), (SHAPES[7], None), (SHAPES[0].over_both()[1], None)];
    for (heads, window) in cases {
        let len = 1700;
        let rows = [sequence(&mut rng, heads, len)];
        let (whole, _) = run_steps(&compute(1, Isa::detect()), heads, window, &rows, &[vec![(0, len)]], &mut rng);
        // The last rows alone: partitions spread over threads.
        let mut steps = vec![vec![(0, len - 5)], vec![(0, 3)]];
        steps.extend([vec![(0, 1)], vec![(0, 1)]]);
        for threads in [1, 2, 5] {
            let (cut, _) = run_steps(&compute(threads, Isa::detect()), heads, window, &rows, &steps, &mut rng);
            assert_same_bits(&cut[0], &whole[0], &format!("{heads:?} on {threads} threads"));
        }
    }
}

#[test]
fn company_changes_no_bit_and_nan_stays_at_home() {
    SHAPES[0].over_both().into_iter().for_each(company);
}

fn company(heads: Heads) {
    let mut rng = Rng::with_seed(5);
    let lens: Vec<usize> = (0..16).map(|i| 20 + 13 * i).collect();
    let mut sequences: Vec<Vec<f32>> = lens.iter().map(|&len| sequence(&mut rng, heads, len)).collect();
    sequences[7].fill(f32::NAN);
    sequences[9][100] = f32::INFINITY;
    let alone: Vec<Vec<f32>> = sequences
        .iter()
        .zip(&lens)
        .map(|(rows, &len)| {
            let rows = [rows.clone()];
            run_steps(&compute(1, Isa::detect()), heads, None, &rows, &[vec![(0, len)]], &mut rng).0.remove(0)
        })
        .collect();
    for round in 0..4 {
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
        let (outs, _) = run_steps(&compute(1 + round, Isa::detect()), heads, None, &sequences, &steps, &mut rng);
        for (i, (together, alone)) in outs.iter().zip(&alone).enumerate().filter(|(i, _)| *i != 7 && *i != 9) {
            assert_same_bits(together, alone, &format!("sequence {i} in round {round}"));
            assert!(together.iter().all(|x| x.is_finite()), "sequence {i} caught a NaN");
        }
        assert!(outs[7].iter().all(|x| x.is_nan()));
    }
}

#[test]
fn two_callers_may_share_a_handle() {
    let mut rng = Rng::with_seed(6);
    let heads = SHAPES[0];
    let rows = [sequence(&mut rng, heads, 600)];
    let shared = compute(3, Isa::detect());
    let (alone, _) = run_steps(&shared, heads, None, &rows, &[vec![(0, 600)]], &mut rng);
    std::thread::scope(|scope| {
        for seed in 0..3 {
            let (shared, rows, alone) = (&shared, &rows, &alone);
            scope.spawn(move || {
                let mut rng = Rng::with_seed(seed);
                let (outs, _) = run_steps(shared, heads, None, rows, &chunks(600, 150), &mut rng);
                assert_same_bits(&outs[0], &alone[0], "beside other callers");
            });
        }
    });
}

#[test]
fn wrong_arguments_are_errors() {
    let compute = compute(1, Isa::detect());
    let layer = KvLayer::new(4, 2, 16, KvCacheType::F16, &Device::Cpu).unwrap();
    let tensor = |rows: usize, columns: usize| Tensor::zeros((rows, columns), DType::F32, &Device::Cpu).unwrap();
    let span = |query_start, query_len, context_len, blocks: &[u32]| Span {
        query_start,
        query_len,
        context_len,
        block_table: blocks.to_vec(),
    };
    let call = |qkv: &Tensor, spans: &[Span], out: &Tensor| {
        let rope = RopeTable::new(RopeStyle::Neox, vec![1.0; 8], 1.0);
        let stored = compute.rope_and_store(qkv, &rope, &StepRows::new(&[], spans), &layer);
        let attended = compute.attention(qkv, &StepRows::new(&[], spans), &layer, 1.0, None, out);
        stored.and(attended)
    };
    let (qkv, out) = (tensor(3, 8 * 16), tensor(3, 4 * 16));
    assert!(call(&qkv, &[span(0, 3, 40, &[3, 0])], &out).is_ok());
    assert!(call(&tensor(0, 8 * 16), &[], &tensor(0, 4 * 16)).is_ok());
    for spans in [
        vec![],
        vec![span(0, 2, 2, &[0])],
        vec![span(1, 3, 3, &[0])],
        vec![span(0, 3, 2, &[0])],
        vec![span(0, 3, 3, &[4])],
        vec![span(0, 3, 33, &[1])],
        vec![span(0, 0, 0, &[]), span(0, 3, 3, &[0])],
        vec![span(0, 2, 2, &[0]), span(1, 2, 2, &[1])],
    ] {
        let error = call(&qkv, &spans, &out).unwrap_err().to_string();
        assert!(error.contains("span"), "{error}");
    }
    let good = [span(0, 3, 3, &[0])];
    assert!(call(&tensor(3, 7 * 16), &good, &out).is_err(), "3 query heads over 2");
    assert!(call(&tensor(3, 4 * 16), &good, &out).is_err(), "no query heads");
    assert!(call(&tensor(3, 8 * 16 + 1), &good, &out).is_err(), "part of a head");
    assert!(call(&qkv, &good, &tensor(2, 4 * 16)).is_err(), "too few rows of out");
    assert!(
        compute
            .attention(&qkv.to_dtype(DType::F16).unwrap(), &StepRows::new(&[], &good), &layer, 1.0, None, &out)
            .is_err()
    );
    assert!(compute.attention(&qkv, &StepRows::new(&[], &good), &layer, 1.0, None, &out.t().unwrap()).is_err());
}
