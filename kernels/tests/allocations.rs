//! A step in the steady state allocates nothing of size: every byte that any thread asks for is counted while the
//! operations run again and again on the same shapes.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::{DType, Device, Tensor};
use kernels::{
    Activations, BLOCK_SIZE, Compute, ComputeOptions, GgmlType, KvCacheType, KvLayer, Norm, Operand, PackedMatrix,
    RopeStyle, RopeTable, Span, StepRows,
};

struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is the system allocator's; only a counter is added.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes that one call may allocate: shapes and layouts of views.
const SMALL: usize = 2048;

#[test]
fn repeated_steps_allocate_nothing_of_size() {
    let (num_heads, num_kv_heads, head_dim) = (9, 3, 64);
    let compute = Compute::cpu(ComputeOptions { threads: 3, isa: None, activations: Activations::Int8 }).unwrap();
    let zeros = |rows: usize, columns: usize| Tensor::zeros((rows, columns), DType::F32, &Device::Cpu).unwrap();
    let (blocks, rope) = (2048 / BLOCK_SIZE, RopeTable::new(RopeStyle::Neox, vec![0.5; head_dim / 2], 1.0));
    let layer = |cache_type| KvLayer::new(blocks, num_kv_heads, head_dim, cache_type, &Device::Cpu).unwrap();
    let (layer, q8_layer) = (layer(KvCacheType::F16), layer(KvCacheType::Q8));
    let block_table: Vec<u32> = (0..blocks as u32).collect();
    let matrix = PackedMatrix::pack(&compute, GgmlType::Q8_0, 576, 576, &vec![0; 576 * 576 / 32 * 34]).unwrap();
    // A long prompt's chunk; one token far out, whose positions are split over the threads.
    for (query_len, context_len) in [(600, 1300), (1, 2048)] {
        let spans = [Span { query_start: 0, query_len, context_len, block_table: block_table.clone() }];
        let step = StepRows::new(&[], &spans);
        let qkv = zeros(query_len, (num_heads + 2 * num_kv_heads) * head_dim);
        let attended = zeros(query_len, num_heads * head_dim);
        let gate_up = zeros(query_len, 2 * 576);
        let (weight, bias) = (zeros(1, 576).squeeze(0).unwrap(), zeros(1, qkv.dims()[1]).squeeze(0).unwrap());
        let head_weight = zeros(1, head_dim).squeeze(0).unwrap();
        let out = zeros(query_len, num_heads * head_dim);
        let residual = compute.residual(zeros(query_len, 576)).unwrap();
        let normed = Operand::Normed(&residual, Norm { weight: &weight, eps: 1e-5 });
        let operations: [(&str, &dyn Fn() -> kernels::Result<()>); 11] = [
            ("linear", &|| compute.linear(&matrix, Operand::Rows(&attended), &out)),
            ("linear of norm", &|| compute.linear(&matrix, normed, &out)),
            ("linear of gate", &|| compute.linear_add(&matrix, Operand::Gated(&gate_up), &residual, None)),
            ("head_norm", &|| compute.head_norm(&qkv, 0, num_heads, &head_weight, 1e-5)),
            ("add_bias", &|| compute.add_bias(&qkv, &bias)),
            ("rope_and_store", &|| compute.rope_and_store(&qkv, &rope, &step, &layer)),
            ("attention", &|| compute.attention(&qkv, &step, &layer, 0.125, None, &attended)),
            ("rope_and_store, q8", &|| compute.rope_and_store(&qkv, &rope, &step, &q8_layer)),
            ("attention, q8", &|| compute.attention(&qkv, &step, &q8_layer, 0.125, None, &attended)),
            ("windowed attention", &|| compute.attention(&qkv, &step, &layer, 0.125, Some(700), &attended)),
            ("keep_rows", &|| compute.keep_rows(&out, &StepRows::new(&[query_len as u32 - 1], &[]))),
        ];
        for (name, operation) in operations {
            // Which thread meets which tile is chance, so its memory may grow late; what every call allocates is the
            // least that any of them did.
            let allocated = || {
                let before = ALLOCATED.load(Ordering::Relaxed);
                operation().unwrap();
                ALLOCATED.load(Ordering::Relaxed) - before
            };
            let bytes = std::iter::repeat_with(allocated).take(12).min().unwrap();
            assert!(bytes <= SMALL, "{name} of {query_len} rows allocated {bytes} bytes");
        }
    }
}
