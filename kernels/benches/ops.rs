//! Everything but the matrix products, at SmolLM2-135M's sizes: one call is one layer's. Run with
//! `cargo bench -p kernels --bench ops`; divan's GB/s of decode attention counts the keys and values of all sequences,
//! the items of prefill attention are floating point operations.

#![expect(clippy::unwrap_used, reason = "a bench fails by panicking")]

use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::{Device, Tensor};
use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use kernels::{Activations, BLOCK_SIZE, Compute, ComputeOptions, KvCacheType, KvLayer, RopeStyle, RopeTable, Span};

const NUM_HEADS: usize = 9;
const NUM_KV_HEADS: usize = 3;
const HEAD_DIM: usize = 64;
/// Layers of the model, whose caches a step reads one after the other.
const LAYERS: usize = 30;
/// As many layers as fit in here stand for all.
const MAX_KV_BYTES: usize = 512 << 20;

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

/// `sequences` spans, each of `query_len` rows that end at `context_len`, and the blocks that they name.
fn spans(sequences: usize, query_len: usize, context_len: usize) -> (Vec<Span>, usize) {
    let blocks = context_len.div_ceil(BLOCK_SIZE);
    let span = |i: usize| Span {
        query_start: i * query_len,
        query_len,
        context_len,
        block_table: (0..blocks).map(|block| (block * sequences + i) as u32).collect(),
    };
    ((0..sequences).map(span).collect(), blocks * sequences)
}

fn qkv(rows: usize) -> Tensor {
    random(rows, (NUM_HEADS + 2 * NUM_KV_HEADS) * HEAD_DIM)
}

fn rope() -> RopeTable {
    let frequency = |i: usize| 1e5f32.powf(-2.0 * i as f32 / HEAD_DIM as f32);
    RopeTable::new(RopeStyle::Interleaved, (0..HEAD_DIM / 2).map(frequency).collect(), 1.0)
}

const F16: KvCacheType = KvCacheType::F16;
const Q8: KvCacheType = KvCacheType::Q8;

#[divan::bench(args = [(1, 1, F16), (32, 1, F16), (1, 512, F16), (32, 1, Q8), (1, 512, Q8)])]
fn rope_and_store(bencher: Bencher, (sequences, query_len, cache_type): (usize, usize, KvCacheType)) {
    let (compute, rope, qkv) = (compute(), rope(), qkv(sequences * query_len));
    let (spans, num_blocks) = spans(sequences, query_len, 1024);
    let layer = KvLayer::new(num_blocks, NUM_KV_HEADS, HEAD_DIM, cache_type, &Device::Cpu).unwrap();
    bencher.bench_local(|| compute.rope_and_store(&qkv, &rope, &spans, &layer).unwrap());
}

/// Layers whose keys and values are read in turn, so that they come from memory as in a model of [`LAYERS`].
fn filled_layers(compute: &Compute, spans: &[Span], num_blocks: usize, cache_type: KvCacheType) -> Vec<KvLayer> {
    let bytes = num_blocks * NUM_KV_HEADS * 2 * cache_type.half_page_bytes(HEAD_DIM);
    let (rope, qkv) = (rope(), qkv(BLOCK_SIZE));
    let layer = || {
        let layer = KvLayer::new(num_blocks, NUM_KV_HEADS, HEAD_DIM, cache_type, &Device::Cpu).unwrap();
        for &block in spans.iter().flat_map(|span| &span.block_table) {
            let (query_start, query_len, context_len) = (0, BLOCK_SIZE, BLOCK_SIZE);
            let span = Span { query_start, query_len, context_len, block_table: vec![block] };
            compute.rope_and_store(&qkv, &rope, &[span], &layer).unwrap();
        }
        layer
    };
    std::iter::repeat_with(layer).take((MAX_KV_BYTES / bytes).clamp(1, LAYERS)).collect()
}

#[divan::bench(args = [(1, F16), (8, F16), (32, F16), (1, Q8), (8, Q8), (32, Q8)], consts = [128, 512, 2048, 8192])]
fn decode_attention<const CONTEXT_LEN: usize>(bencher: Bencher, (sequences, cache_type): (usize, KvCacheType)) {
    let (compute, qkv, out) = (compute(), qkv(sequences), random(sequences, NUM_HEADS * HEAD_DIM));
    let (spans, num_blocks) = spans(sequences, 1, CONTEXT_LEN);
    let layers = filled_layers(&compute, &spans, num_blocks, cache_type);
    let mut layer = layers.iter().cycle();
    let bytes = BytesCount::new(num_blocks * NUM_KV_HEADS * 2 * cache_type.half_page_bytes(HEAD_DIM));
    bencher.counter(bytes).bench_local(|| {
        compute.attention(&qkv, &spans, layer.next().unwrap(), 0.125, None, &out).unwrap();
    });
}

#[divan::bench(args = [(512, 512, F16), (512, 2048, F16), (2048, 2048, F16), (512, 2048, Q8)])]
fn prefill_attention(bencher: Bencher, (query_len, context_len, cache_type): (usize, usize, KvCacheType)) {
    let (compute, qkv, out) = (compute(), qkv(query_len), random(query_len, NUM_HEADS * HEAD_DIM));
    let (spans, num_blocks) = spans(1, query_len, context_len);
    let layers = filled_layers(&compute, &spans, num_blocks, cache_type);
    let mut layer = layers.iter().cycle();
    let seen = query_len * (2 * context_len - query_len + 1) / 2;
    let flops = ItemsCount::new(2 * 2 * seen * NUM_HEADS * HEAD_DIM);
    bencher.counter(flops).bench_local(|| {
        compute.attention(&qkv, &spans, layer.next().unwrap(), 0.125, None, &out).unwrap();
    });
}
