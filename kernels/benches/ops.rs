//! Everything but the matrix products, at SmolLM2-135M's sizes: one call is one layer's. Run with
//! `cargo bench -p kernels --bench ops`; divan's GB/s of attention counts the keys and values read once per sequence,
//! its items are multiply-adds.

#![expect(clippy::unwrap_used, reason = "a bench fails by panicking")]

use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::{DType, Device, Tensor};
use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use kernels::{Activations, BLOCK_SIZE, Compute, ComputeOptions, KvLayer, RopeStyle, RopeTable, Span};

const HIDDEN: usize = 576;
const NUM_HEADS: usize = 9;
const NUM_KV_HEADS: usize = 3;
const HEAD_DIM: usize = 64;
const INNER: usize = 1536;
const ROWS: [usize; 4] = [1, 8, 32, 512];

fn main() {
    divan::main();
}

fn compute() -> Compute {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Compute::cpu(ComputeOptions { threads, isa: None, activations: Activations::Int8 }).unwrap()
}

fn random(rows: usize, columns: usize) -> Tensor {
    Tensor::randn(0f32, 1.0, (rows, columns), &Device::Cpu).unwrap()
}

/// A job of one task per thread in which every task waits for all others to have started.
#[divan::bench]
fn fork_join(bencher: Bencher) {
    let compute = compute();
    let threads = compute.threads();
    bencher.bench_local(|| {
        let started = AtomicUsize::new(0);
        compute.parallel_for(threads, |_| {
            started.fetch_add(1, Ordering::AcqRel);
            while started.load(Ordering::Acquire) < threads {
                std::hint::spin_loop();
            }
        });
    });
}

#[divan::bench(args = ROWS)]
fn rms_norm(bencher: Bencher, rows: usize) {
    let (compute, x, out) = (compute(), random(rows, HIDDEN), random(rows, HIDDEN));
    let weight = Tensor::ones(HIDDEN, DType::F32, &Device::Cpu).unwrap();
    let bytes = BytesCount::new(2 * rows * HIDDEN * 4);
    bencher.counter(bytes).bench_local(|| compute.rms_norm(&x, &weight, 1e-5, &out).unwrap());
}

#[divan::bench(args = ROWS)]
fn silu_mul(bencher: Bencher, rows: usize) {
    let (compute, gate_up, out) = (compute(), random(rows, 2 * INNER), random(rows, INNER));
    let bytes = BytesCount::new(3 * rows * INNER * 4);
    bencher.counter(bytes).bench_local(|| compute.silu_mul(&gate_up, &out).unwrap());
}

/// `sequences` spans, each of `query_len` rows that end at `context_len`.
fn spans(sequences: usize, query_len: usize, context_len: usize) -> (Vec<Span>, KvLayer) {
    let blocks = context_len.div_ceil(BLOCK_SIZE);
    let span = |i: usize| Span {
        query_start: i * query_len,
        query_len,
        context_len,
        block_table: (0..blocks).map(|block| (block * sequences + i) as u32).collect(),
    };
    let layer = KvLayer::new(blocks * sequences, NUM_KV_HEADS, HEAD_DIM, &Device::Cpu).unwrap();
    ((0..sequences).map(span).collect(), layer)
}

fn qkv(rows: usize) -> Tensor {
    random(rows, (NUM_HEADS + 2 * NUM_KV_HEADS) * HEAD_DIM)
}

fn rope() -> RopeTable {
    let frequency = |i: usize| 1e5f32.powf(-2.0 * i as f32 / HEAD_DIM as f32);
    RopeTable::new(RopeStyle::Interleaved, (0..HEAD_DIM / 2).map(frequency).collect(), 1.0)
}

#[divan::bench(args = [(1, 1), (32, 1), (1, 512)])]
fn rope_and_store(bencher: Bencher, (sequences, query_len): (usize, usize)) {
    let (compute, rope, qkv) = (compute(), rope(), qkv(sequences * query_len));
    let (spans, layer) = spans(sequences, query_len, 1024);
    bencher.bench_local(|| compute.rope_and_store(&qkv, &rope, &spans, &layer).unwrap());
}

#[divan::bench(args = [(1, 1, 128), (1, 1, 1024), (1, 1, 8192), (8, 1, 512), (32, 1, 512), (1, 512, 512), (1, 512, 2048)])]
fn attention(bencher: Bencher, (sequences, query_len, context_len): (usize, usize, usize)) {
    let (compute, qkv) = (compute(), qkv(sequences * query_len));
    let (spans, layer) = spans(sequences, query_len, context_len);
    let out = random(sequences * query_len, NUM_HEADS * HEAD_DIM);
    let seen = query_len * (2 * context_len - query_len + 1) / 2;
    let work = ItemsCount::new(2 * sequences * seen * NUM_HEADS * HEAD_DIM);
    let bytes = BytesCount::new(2 * 2 * sequences * context_len * NUM_KV_HEADS * HEAD_DIM);
    bencher
        .counter(work)
        .counter(bytes)
        .bench_local(|| compute.attention(&qkv, &spans, &layer, 0.125, None, &out).unwrap());
}
