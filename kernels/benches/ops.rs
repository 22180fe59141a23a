//! Everything but the plain matrix products, as rows for the log: `cargo bench -p kernels --bench ops`.
//!
//! Attention has SmolLM2-135M's heads, and one call is one layer's; the rest has rows of an 8B model. What moves memory
//! is shown in GB a second beside plain reading, what computes in operations (two a multiply-add) beside nothing but
//! the instruction that multiplies; data that lie in a cache can be faster than plain reading.
#![expect(clippy::unwrap_used, reason = "a bench fails by panicking")]
#![expect(clippy::print_stdout, reason = "the output of the bench")]

mod machine;

use std::hint::spin_loop;
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::{DType, Device, Tensor};
use kernels::{
    BLOCK_SIZE, Compute, GgmlType, KvCacheType, KvLayer, Norm, Operand, PackedMatrix, RopeStyle, RopeTable, Span,
    StepRows,
};

use machine::{BEYOND_CACHES, Peaks, seconds};

const NUM_HEADS: usize = 9;
const NUM_KV_HEADS: usize = 3;
const HEAD_DIM: usize = 64;
/// Layers of the model, whose caches a step reads one after the other.
const LAYERS: usize = 30;
/// As many layers as fit in here stand for all.
const MAX_KV_BYTES: usize = 512 << 20;
/// Columns of the other operations.
const WIDTH: usize = 4096;
/// Rows of the other operations.
const TOKENS: [usize; 2] = [1, 512];
const CACHE_TYPES: [KvCacheType; 2] = [KvCacheType::F16, KvCacheType::Q8];

fn main() {
    let compute = machine::compute();
    let peaks = Peaks::measure(&compute);
    println!("{}, {} threads; {peaks}\n\n| | µs a call | speed |\n|---|---:|---:|", compute.isa(), compute.threads());
    let bench = Bench { compute, peaks };
    bench.fork_join();
    for tokens in TOKENS {
        bench.rows(tokens);
        bench.products(tokens);
    }
    for cache_type in CACHE_TYPES {
        for shape in [(1, 1), (32, 1), (1, 512)] {
            bench.rope_and_store(shape, cache_type);
        }
        for context_len in [128, 512, 2048, 8192] {
            for sequences in [1, 8, 32] {
                bench.decode_attention(sequences, context_len, cache_type);
            }
        }
        for shape in [(512, 512), (512, 2048), (2048, 2048)] {
            bench.prefill_attention(shape, cache_type);
        }
    }
}

/// What a call does.
enum Work {
    /// Bytes read and written.
    Bytes(usize),
    /// Operations on 8-bit integers.
    Int8(usize),
    /// Operations on f32.
    F32(usize),
}

struct Bench {
    compute: Compute,
    peaks: Peaks,
}

impl Bench {
    /// Measures `run` and prints its row.
    fn row(&self, name: &str, work: &Work, run: impl FnMut()) {
        let (amount, unit, peak) = match *work {
            Work::Bytes(bytes) => (bytes, "GB/s", self.peaks.read),
            Work::Int8(operations) => (operations, "int8 Gop/s", self.peaks.int8),
            Work::F32(operations) => (operations, "f32 Gop/s", self.peaks.f32),
        };
        let seconds = seconds(run);
        let speed = amount as f64 / 1e9 / seconds;
        println!("| {name} | {:.1} | {speed:.1} {unit} ({:.0} %) |", 1e6 * seconds, 100.0 * speed / peak);
    }

    /// A job of one task per thread in which every task waits for all others to have started.
    fn fork_join(&self) {
        let threads = self.compute.threads();
        let seconds = seconds(|| {
            let started = AtomicUsize::new(0);
            self.compute.parallel_for(threads, |_| {
                started.fetch_add(1, Ordering::AcqRel);
                while started.load(Ordering::Acquire) < threads {
                    spin_loop();
                }
            });
        });
        println!("| a meeting of all threads | {:.2} | |", 1e6 * seconds);
    }

    /// What moves rows: the embedding, a bias, the norm of heads, rows kept for their logits.
    fn rows(&self, tokens: usize) {
        let (compute, x) = (&self.compute, random(tokens, WIDTH));
        let vector = |len| Tensor::ones(len, DType::F32, &Device::Cpu).unwrap();
        let bytes = tokens * WIDTH * size_of::<f32>();
        let row = |name: &str, bytes, run: &mut dyn FnMut()| {
            self.row(&format!("{name}, {tokens} rows"), &Work::Bytes(bytes), run);
        };
        let table = matrix(compute, BEYOND_CACHES / q8_0_bytes(WIDTH), WIDTH);
        let mut rng = fastrand::Rng::with_seed(1);
        row("embed, Q8_0", bytes + tokens * q8_0_bytes(WIDTH), &mut || {
            let ids: Vec<u32> = (0..tokens).map(|_| rng.u32(0..table.rows() as u32)).collect();
            compute.embed(&table, &StepRows::new(&ids, &[]), None, &x).unwrap();
        });
        let bias = vector(WIDTH);
        row("add_bias", 2 * bytes, &mut || compute.add_bias(&x, &bias).unwrap());
        let weight = vector(HEAD_DIM);
        row("head_norm", 2 * bytes, &mut || compute.head_norm(&x, 0, WIDTH / HEAD_DIM, &weight, 1e-5).unwrap());
        let kept: Vec<u32> = (0..tokens as u32).filter(|row| row % 2 == 1).collect();
        if !kept.is_empty() {
            row("keep_rows, every second", bytes, &mut || compute.keep_rows(&x, &StepRows::new(&kept, &[])).unwrap());
        }
    }

    /// Norm, gate and residual on their way into and out of a product, beside the product without.
    fn products(&self, tokens: usize) {
        let compute = &self.compute;
        let weight = matrix(compute, WIDTH, WIDTH);
        let (x, gate_up, out) = (random(tokens, WIDTH), random(tokens, 2 * WIDTH), random(tokens, WIDTH));
        let norm = Tensor::ones(WIDTH, DType::F32, &Device::Cpu).unwrap();
        let work = Work::Int8(2 * tokens * WIDTH * WIDTH);
        let row = |name: &str, run: &mut dyn FnMut()| self.row(&format!("{name}, {tokens} rows"), &work, run);
        row("product", &mut || compute.linear(&weight, Operand::Rows(&x), &out).unwrap());
        let residual = |rows| compute.residual(rows).unwrap();
        let stream = residual(x.clone());
        let normed = Operand::Normed(&stream, Norm { weight: &norm, eps: 1e-5 });
        row("product of the norm", &mut || compute.linear(&weight, normed, &out).unwrap());
        row("product of the gate", &mut || compute.linear(&weight, Operand::Gated(&gate_up), &out).unwrap());
        // Zeros, so that the sum stays what it is.
        let zeros = Tensor::zeros((tokens, WIDTH), DType::F32, &Device::Cpu).unwrap();
        let out = residual(out);
        row("product added", &mut || compute.linear_add(&weight, Operand::Rows(&zeros), &out, None).unwrap());
    }

    fn rope_and_store(&self, (sequences, query_len): (usize, usize), cache_type: KvCacheType) {
        let (rope, qkv) = (rope(), qkv(sequences * query_len));
        let (spans, num_blocks) = spans(sequences, query_len, 1024);
        let layer = KvLayer::new(num_blocks, NUM_KV_HEADS, HEAD_DIM, cache_type, &Device::Cpu).unwrap();
        let stored = NUM_KV_HEADS * 2 * cache_type.half_page_bytes(HEAD_DIM) / BLOCK_SIZE;
        let row_bytes = (2 * NUM_HEADS + 2 * NUM_KV_HEADS) * HEAD_DIM * size_of::<f32>() + stored;
        let name = format!("rope_and_store, {cache_type}, {sequences} x {query_len}");
        self.row(&name, &Work::Bytes(sequences * query_len * row_bytes), || {
            self.compute.rope_and_store(&qkv, &rope, &StepRows::new(&[], &spans), &layer).unwrap();
        });
    }

    fn decode_attention(&self, sequences: usize, context_len: usize, cache_type: KvCacheType) {
        let (spans, num_blocks) = spans(sequences, 1, context_len);
        let bytes = num_blocks * NUM_KV_HEADS * 2 * cache_type.half_page_bytes(HEAD_DIM);
        let name = format!("attention, {cache_type}, {sequences} of {context_len}");
        self.attention(&name, &Work::Bytes(bytes), &spans, num_blocks, cache_type);
    }

    fn prefill_attention(&self, (query_len, context_len): (usize, usize), cache_type: KvCacheType) {
        let (spans, num_blocks) = spans(1, query_len, context_len);
        let seen = query_len * (2 * context_len - query_len + 1) / 2;
        let name = format!("attention, {cache_type}, the last {query_len} of {context_len}");
        self.attention(&name, &Work::F32(2 * 2 * seen * NUM_HEADS * HEAD_DIM), &spans, num_blocks, cache_type);
    }

    fn attention(&self, name: &str, work: &Work, spans: &[Span], num_blocks: usize, cache_type: KvCacheType) {
        let tokens = spans.iter().map(|span| span.query_len).sum();
        let (qkv, out) = (qkv(tokens), random(tokens, NUM_HEADS * HEAD_DIM));
        let layers = filled_layers(&self.compute, spans, num_blocks, cache_type);
        let mut layer = layers.iter().cycle();
        self.row(name, work, || {
            self.compute.attention(&qkv, &StepRows::new(&[], spans), layer.next().unwrap(), 0.125, None, &out).unwrap();
        });
    }
}

fn random(rows: usize, columns: usize) -> Tensor {
    Tensor::randn(0f32, 1.0, (rows, columns), &Device::Cpu).unwrap()
}

/// Bytes of a row of Q8_0.
fn q8_0_bytes(columns: usize) -> usize {
    columns / GgmlType::Q8_0.block_len() * GgmlType::Q8_0.block_bytes()
}

/// A matrix of Q8_0.
fn matrix(compute: &Compute, rows: usize, columns: usize) -> PackedMatrix {
    PackedMatrix::pack(compute, GgmlType::Q8_0, rows, columns, &vec![1; rows * q8_0_bytes(columns)]).unwrap()
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

/// Layers whose keys and values are read in turn, so that they come from memory as in a model of [`LAYERS`].
fn filled_layers(compute: &Compute, spans: &[Span], num_blocks: usize, cache_type: KvCacheType) -> Vec<KvLayer> {
    let bytes = num_blocks * NUM_KV_HEADS * 2 * cache_type.half_page_bytes(HEAD_DIM);
    let (rope, qkv) = (rope(), qkv(BLOCK_SIZE));
    let layer = || {
        let layer = KvLayer::new(num_blocks, NUM_KV_HEADS, HEAD_DIM, cache_type, &Device::Cpu).unwrap();
        for &block in spans.iter().flat_map(|span| &span.block_table) {
            let (query_start, query_len, context_len) = (0, BLOCK_SIZE, BLOCK_SIZE);
            let span = Span { query_start, query_len, context_len, block_table: vec![block] };
            compute.rope_and_store(&qkv, &rope, &StepRows::new(&[], &[span]), &layer).unwrap();
        }
        layer
    };
    std::iter::repeat_with(layer).take((MAX_KV_BYTES / bytes).clamp(1, LAYERS)).collect()
}
