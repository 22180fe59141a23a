//! What the tests of attention and rope on the emulated card share: caches in which everything that was not stored is
//! NaN, both devices' page layouts, steps run on either.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use candle_core::{DType, Device, Tensor};
use fastrand::Rng;
use half::f16;

use super::attention_memory::AttentionMemory;
use super::attention_shape::AttentionShape;
use super::backend::set_thread_order;
use super::rope::RopeAngles;
use super::step::{StepCapacity, StepTables};
use super::{Gpu, plan::Room};
use crate::testing::compute;
use crate::{BLOCK_SIZE, KvCacheType, KvLayer, RopeStyle, RopeTable, Span, StepRows};

/// What stands where nothing may be written.
pub(super) const UNTOUCHED: f16 = f16::from_f32_const(1234.0);

pub(super) const fn heads(num_heads: usize, num_kv_heads: usize, head_dim: usize) -> AttentionShape {
    AttentionShape { num_heads, num_kv_heads, head_dim, cache_type: KvCacheType::F16, window: None }
}

impl AttentionShape {
    pub(super) fn columns(&self) -> usize {
        (self.num_heads + 2 * self.num_kv_heads) * self.head_dim
    }

    /// Over both types of cache, where the card takes both.
    pub(super) fn over_both(self) -> Vec<Self> {
        let types = [KvCacheType::F16, KvCacheType::Q8].map(|cache_type| Self { cache_type, ..self });
        types.into_iter().filter(|shape| shape.check().is_ok()).collect()
    }

    pub(super) fn seeing(self, window: Option<usize>) -> Self {
        Self { window, ..self }
    }

    fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }
}

/// Rows of q, k and v of one sequence.
pub(super) fn sequence(rng: &mut Rng, shape: &AttentionShape, len: usize) -> Vec<f32> {
    (0..len * shape.columns()).map(|_| (rng.f32() + rng.f32() + rng.f32() - 1.5) * 4.0).collect()
}

pub(super) fn frequencies(head_dim: usize) -> Vec<f32> {
    (0..head_dim / 2).map(|i| 10_000_f32.powf(-2.0 * i as f32 / head_dim as f32)).collect()
}

/// A cache in which whatever was not stored is NaN, and the sequences' blocks in it.
pub(super) struct Cache {
    pub layer: KvLayer,
    pub tables: Vec<Vec<u32>>,
}

impl Cache {
    pub(super) fn new(device: &Device, rng: &mut Rng, shape: &AttentionShape, lens: &[usize]) -> Self {
        let blocks: Vec<usize> = lens.iter().map(|len| len.div_ceil(BLOCK_SIZE)).collect();
        let num_blocks = blocks.iter().sum::<usize>() + 3;
        let mut ids: Vec<u32> = (0..num_blocks as u32).collect();
        rng.shuffle(&mut ids);
        let tables = blocks.iter().map(|&n| ids.drain(..n).collect()).collect();
        Self { layer: poisoned(device, shape, num_blocks), tables }
    }
}

pub(super) fn poisoned(device: &Device, shape: &AttentionShape, num_blocks: usize) -> KvLayer {
    let dims = |elements| (num_blocks, shape.num_kv_heads, 2, elements);
    let half_bytes = shape.cache_type.half_page_bytes(shape.head_dim);
    let pages = match shape.cache_type {
        KvCacheType::F16 => Tensor::full(f16::NAN, dims(half_bytes / 2), device),
        // Scales of only ones are NaN.
        KvCacheType::Q8 => Tensor::full(0xff_u8, dims(half_bytes), device),
    };
    KvLayer { pages: pages.unwrap() }
}

/// Bytes of a cache.
pub(super) fn bytes(layer: &KvLayer) -> Vec<u8> {
    let flat = layer.pages.flatten_all().unwrap();
    match layer.pages.dtype() {
        DType::U8 => flat.to_vec1().unwrap(),
        _ => flat.to_vec1::<f16>().unwrap().into_iter().flat_map(f16::to_le_bytes).collect(),
    }
}

/// Bytes of a cache in the card's layout as they are in the CPU's.
pub(super) fn cpu_layout(shape: &AttentionShape, mut card: Vec<u8>) -> Vec<u8> {
    let head_dim = shape.head_dim;
    let size = if shape.cache_type == KvCacheType::Q8 { 1 } else { 2 };
    for (half, page) in card.chunks_exact_mut(shape.cache_type.half_page_bytes(head_dim)).enumerate() {
        let before = page.to_vec();
        for (position, d) in (0..BLOCK_SIZE).flat_map(|position| (0..head_dim).map(move |d| (position, d))) {
            let (rows, columns) = (position * head_dim + d, d * BLOCK_SIZE + position);
            let (from, to) = if half % 2 == 0 { (rows, columns) } else { (columns, rows) };
            page[to * size..][..size].copy_from_slice(&before[from * size..][..size]);
        }
    }
    card
}

/// The outputs of an operand's first rows. Checks that nothing else was written.
pub(super) fn operand_rows(out: &Tensor, rows: usize, columns: usize) -> Vec<f32> {
    let (all_rows, padded) = out.dims2().unwrap();
    let values = out.flatten_all().unwrap().to_vec1::<f16>().unwrap();
    let mut found = vec![f32::NAN; rows * columns];
    for (row, column) in (0..all_rows).flat_map(|row| (0..padded).map(move |column| (row, column))) {
        let block = row / 8 * (padded / 32) + column / 32;
        let value = values[block * 256 + row % 8 * 32 + column % 32];
        if row < rows && column < columns {
            found[row * columns + column] = value.to_f32();
        } else {
            assert_eq!(value, UNTOUCHED, "row {row}, column {column} is padding");
        }
    }
    found
}

/// A card, and how its tests vary what must not matter.
pub(super) struct Card {
    pub gpu: Gpu,
    /// Order of threads.
    pub order: u32,
    /// Multiprocessors, blocks and partial results that plans are made for, if not the card's.
    pub room: Option<(usize, usize, usize)>,
    /// Plans are made as if layers had no window.
    pub plans_whole: bool,
    /// Angles of 0, so that rope changes nothing.
    pub is_still: bool,
    /// How pairs are formed.
    pub style: RopeStyle,
    /// Attention may store the step's rows.
    pub attention_may_store: bool,
}

impl Card {
    pub(super) fn new() -> Self {
        Self {
            gpu: Gpu::open(0).unwrap(),
            order: 0,
            room: None,
            plans_whole: false,
            is_still: false,
            style: RopeStyle::Neox,
            attention_may_store: true,
        }
    }

    fn angles(&self, shape: &AttentionShape, rows: usize) -> RopeAngles {
        let mut frequencies = frequencies(shape.head_dim);
        if self.is_still {
            frequencies.fill(0.0);
        }
        RopeAngles::new(&self.gpu, self.style, &frequencies, 1.0, rows).unwrap()
    }

    pub(super) fn tables(&self, shape: &AttentionShape, rows: usize, spans: &[Span], cache: &Cache) -> StepTables {
        let capacity = StepCapacity {
            rows,
            spans: spans.len(),
            span_blocks: spans.iter().map(|span| span.block_table.len()).sum(),
            cache_blocks: cache.layer.pages.dims()[0],
        };
        let planned = AttentionShape { window: shape.window.filter(|_| !self.plans_whole), ..*shape };
        match self.room {
            None => StepTables::new(&self.gpu, planned, capacity).unwrap(),
            Some((multiprocessors, blocks, partials)) => {
                let room = Room { multiprocessors, blocks, partials };
                StepTables::with_room(&self.gpu, planned, capacity, room).unwrap()
            }
        }
    }

    /// Stores and attends one step. Returns the outputs of its rows.
    pub(super) fn step(
        &self,
        shape: &AttentionShape,
        rows: &[f32],
        spans: &[Span],
        cache: &Cache,
        padding: usize,
    ) -> Vec<f32> {
        set_thread_order(self.order);
        let (qkv, tables) = self.store(shape, rows, spans, cache, padding);
        let out = self.attend(shape, &qkv, &tables, cache);
        set_thread_order(0);
        out
    }

    /// Rotates and stores one step's rows. Returns them, and the step's tables.
    pub(super) fn store(
        &self,
        shape: &AttentionShape,
        rows: &[f32],
        spans: &[Span],
        cache: &Cache,
        padding: usize,
    ) -> (Tensor, StepTables) {
        let num_rows = rows.len() / shape.columns();
        let padded = num_rows + padding;
        let mut tables = self.tables(shape, padded, spans, cache);
        tables.fill(&self.gpu, &vec![0; num_rows], spans, (padded, self.attention_may_store)).unwrap();
        let mut padded_rows = rows.to_vec();
        padded_rows.resize(padded * shape.columns(), f32::NAN);
        let qkv = Tensor::from_vec(padded_rows, (padded, shape.columns()), self.gpu.device()).unwrap();
        let angles = self.angles(shape, padded);
        self.gpu.rope_angles(&angles, &tables).unwrap();
        self.gpu.rope_and_store(&qkv, &angles, &tables, &cache.layer).unwrap();
        (qkv, tables)
    }

    /// Attends from rows that are rotated.
    pub(super) fn attend(&self, shape: &AttentionShape, qkv: &Tensor, tables: &StepTables, cache: &Cache) -> Vec<f32> {
        let columns = shape.num_heads * shape.head_dim;
        let dims = (tables.padded_rows().next_multiple_of(8), columns.next_multiple_of(256));
        let out = Tensor::full(UNTOUCHED, dims, self.gpu.device()).unwrap();
        let memory = AttentionMemory::new(&self.gpu, shape).unwrap();
        let layer = (shape.scale(), shape.window);
        let angles = self.angles(shape, tables.padded_rows());
        self.gpu.rope_angles(&angles, tables).unwrap();
        self.gpu.attention(&memory, qkv, (tables, &cache.layer), &angles, layer, &out).unwrap();
        operand_rows(&out, tables.num_rows(), columns)
    }

    /// Runs sequences in steps, each a list of (sequence, rows), and returns every sequence's outputs.
    pub(super) fn run(
        &self,
        shape: &AttentionShape,
        sequences: &[Vec<f32>],
        steps: &[Vec<(usize, usize)>],
        rng: &mut Rng,
    ) -> Vec<Vec<f32>> {
        let columns = shape.columns();
        let lens: Vec<usize> = sequences.iter().map(|rows| rows.len() / columns).collect();
        let cache = Cache::new(self.gpu.device(), rng, shape, &lens);
        let mut done = vec![0; sequences.len()];
        let mut outs = vec![Vec::new(); sequences.len()];
        for step in steps {
            let (mut rows, mut spans) = (Vec::new(), Vec::new());
            for &(i, len) in step {
                let query_start = rows.len() / columns;
                rows.extend_from_slice(&sequences[i][done[i] * columns..(done[i] + len) * columns]);
                done[i] += len;
                let block_table = cache.tables[i].clone();
                spans.push(Span { query_start, query_len: len, context_len: done[i], block_table });
            }
            let out = self.step(shape, &rows, &spans, &cache, rng.usize(0..4));
            let width = shape.num_heads * shape.head_dim;
            for (&(i, len), span) in step.iter().zip(&spans) {
                outs[i].extend_from_slice(&out[span.query_start * width..][..len * width]);
            }
        }
        assert_eq!(done, lens);
        outs
    }

    /// The outputs of one sequence on the CPU.
    pub(super) fn on_the_cpu(&self, shape: &AttentionShape, rows: &[f32]) -> Vec<f32> {
        let len = rows.len() / shape.columns();
        let mut rng = Rng::with_seed(0);
        let Cache { layer, tables } = Cache::new(&Device::Cpu, &mut rng, shape, &[len]);
        let spans = [Span { query_start: 0, query_len: len, context_len: len, block_table: tables[0].clone() }];
        let qkv = Tensor::from_slice(rows, (len, shape.columns()), &Device::Cpu).unwrap();
        let out = Tensor::full(f32::NAN, (len, shape.num_heads * shape.head_dim), &Device::Cpu).unwrap();
        let mut frequencies = frequencies(shape.head_dim);
        if self.is_still {
            frequencies.fill(0.0);
        }
        let compute = compute(2, None);
        let (rope, step) = (RopeTable::new(RopeStyle::Neox, frequencies, 1.0), StepRows::new(&[], &spans));
        compute.rope_and_store(&qkv, &rope, &step, &layer).unwrap();
        compute.attention(&qkv, &step, &layer, shape.scale(), shape.window, &out).unwrap();
        out.flatten_all().unwrap().to_vec1().unwrap()
    }
}

pub(super) fn assert_same_bits(found: &[f32], wanted: &[f32], what: &str) {
    assert_eq!(found.len(), wanted.len());
    let first = found.iter().zip(wanted).position(|(a, b)| a.to_bits() != b.to_bits());
    assert!(first.is_none(), "{what}: element {first:?} of {} differs", found.len());
}
