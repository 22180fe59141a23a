//! Attention on the card: which kernel takes a head, how much of a multiprocessor it needs, and its launches.

use candle_core::{DType, Tensor};

use super::attention_memory::AttentionMemory;
use super::attention_shape::AttentionShape;
use super::launch::Argument;
use super::rope::{Rope, RopeAngles, check_layer};
use super::step::StepTables;
use super::{Address, CardInfo, Gpu};
use crate::{Error, KvCacheType, KvLayer, Result, rows};

/// Threads of a block, and positions of a unit; as in `cuda/attention.cuh`.
const THREADS: usize = 128;
const UNIT: usize = 64;
/// Bytes of keys, or values, that a block has under way at least; `BYTES_AHEAD` there.
const BYTES_AHEAD: usize = 16384;
/// Heads of more elements have no kernel.
const MAX_HEAD_DIM: usize = 256;
/// An operand's columns are padded to multiples of this.
const UNIT_COLUMNS: usize = 256;
/// Rows of a fragment.
const FRAGMENT_ROWS: usize = 16;

/// `Arguments` of `cuda/attention.cuh`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Arguments {
    qkv: Address,
    pages: Address,
    items: Address,
    num_items: Address,
    tables: Address,
    out: Address,
    partials: Address,
    counters: Address,
    first_item: u32,
    qkv_columns: u32,
    out_columns: u32,
    kv_heads: u32,
    group: u32,
    head_dim: u32,
    window: u32,
    scale: f32,
    rope: Rope,
}

// SAFETY: as declared there; 112 bytes without padding.
unsafe impl Argument for Arguments {}

/// Which of the two kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Few,
    Many,
}

impl AttentionShape {
    /// Checks that there is a kernel for it.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn check(&self) -> Result<()> {
        let Self { num_heads, num_kv_heads, head_dim, cache_type, .. } = *self;
        let step = if cache_type == KvCacheType::Q8 { 16 } else { 8 };
        let grouped = num_kv_heads > 0 && num_heads >= num_kv_heads && num_heads.is_multiple_of(num_kv_heads);
        let dim_fits = head_dim > 0 && head_dim <= MAX_HEAD_DIM && head_dim.is_multiple_of(step);
        if grouped && dim_fits && self.group() <= self.many_rows() {
            return Ok(());
        }
        let heads = format!("{num_heads} heads over {num_kv_heads} of {head_dim} elements in {cache_type}");
        let limits = format!("multiples of {step} up to {MAX_HEAD_DIM} elements, and at most 32 heads over each");
        Err(Error::Card(format!("there is no attention on the card for {heads}: it takes {limits}")))
    }

    /// Bytes of keys, or of values, of a unit.
    fn half_unit(&self) -> usize {
        UNIT * self.padded_dim() * if self.cache_type == KvCacheType::Q8 { 1 } else { 2 }
    }

    /// Bytes of dynamic shared memory; `Memory` in `cuda/attention.cuh`.
    fn shared_bytes(&self, kind: Kind) -> usize {
        let padded = self.padded_dim();
        let scales = if self.cache_type == KvCacheType::Q8 { UNIT * size_of::<f32>() } else { 0 };
        let depth = (BYTES_AHEAD / self.half_unit()).max(1);
        let rows = if kind == Kind::Few { FRAGMENT_ROWS } else { self.many_rows() };
        let is_shared = kind == Kind::Few || padded > 128;
        let scores = if is_shared { rows * UNIT * size_of::<f32>() } else { 0 };
        let queries = if is_shared || padded > 64 { rows * padded * 2 } else { 0 };
        depth * 2 * (self.half_unit() + scales) + scores + queries
    }

    fn kernel(&self, kind: Kind) -> &'static str {
        match (kind, self.cache_type, self.padded_dim()) {
            (Kind::Few, KvCacheType::F16, 64) => "attention_few_f16_64",
            (Kind::Few, KvCacheType::F16, 128) => "attention_few_f16_128",
            (Kind::Few, KvCacheType::F16, _) => "attention_few_f16_256",
            (Kind::Few, KvCacheType::Q8, 64) => "attention_few_q8_64",
            (Kind::Few, KvCacheType::Q8, 128) => "attention_few_q8_128",
            (Kind::Few, KvCacheType::Q8, _) => "attention_few_q8_256",
            (Kind::Many, KvCacheType::F16, 64) => "attention_many_f16_64",
            (Kind::Many, KvCacheType::F16, 128) => "attention_many_f16_128",
            (Kind::Many, KvCacheType::F16, _) => "attention_many_f16_256",
            (Kind::Many, KvCacheType::Q8, 64) => "attention_many_q8_64",
            (Kind::Many, KvCacheType::Q8, 128) => "attention_many_q8_128",
            (Kind::Many, KvCacheType::Q8, _) => "attention_many_q8_256",
        }
    }
}

impl CardInfo {
    /// Bytes of shared memory of a multiprocessor (CUDA C++ Programming Guide, table of technical specifications).
    fn shared_memory(&self) -> usize {
        let kibibytes = match self.compute_capability {
            (7, _) => 64,
            (8, 0 | 7) => 164,
            (9 | 10, _) => 228,
            _ => 100,
        };
        kibibytes << 10
    }
}

impl Gpu {
    /// Blocks of the kernel for few queries that the card holds at once: its grid.
    pub(super) fn attention_blocks(&self, shape: &AttentionShape) -> usize {
        /// What the system takes of a block's shared memory.
        const RESERVED: usize = 1024;
        // As the kernels' launch bounds promise the registers for.
        let most = if shape.padded_dim() > 128 { 2 } else { 4 };
        let resident = self.info().shared_memory() / (shape.shared_bytes(Kind::Few) + RESERVED);
        self.info().multiprocessors as usize * resident.clamp(1, most)
    }

    /// As [`crate::Compute::attention`], for the step in `tables`. `qkv` as left by [`Gpu::rope_and_store`], which for a
    /// step that [`StepTables::is_stored_by_attention`] is done here, by `angles`; `out`: the operand of the next product, f16 of at least `padded_rows` rows and `num_heads * head_dim` columns, both padded,
    /// in the order of `cuda/operand.cuh`. Rows and columns of padding are left as they are.
    ///
    /// # Errors
    /// When shapes do not fit each other, or the card has failed.
    pub fn attention(
        &self,
        memory: &AttentionMemory,
        qkv: &Tensor,
        (tables, kv): (&StepTables, &KvLayer),
        angles: &RopeAngles,
        (scale, window): (f32, Option<usize>),
        out: &Tensor,
    ) -> Result<()> {
        const OP: &str = "attention";
        let shape = tables.shape();
        check_layer(OP, qkv, tables, kv)?;
        rows::contiguous(OP, "out", out, DType::F16)?;
        let columns = (shape.num_heads * shape.head_dim).next_multiple_of(UNIT_COLUMNS);
        match *out.dims() {
            [rows, found] if rows >= tables.padded_rows() && rows % 8 == 0 && found == columns => {}
            ref dims => return Err(Error::shape(OP, format!("out has shape {dims:?}, not (rows, {columns})"))),
        }
        let (few, many) = tables.attention_blocks();
        let counts = tables.counts(self)?;
        let (partials, counters) = memory.addresses(self, tables.room())?;
        let arguments = Arguments {
            qkv: self.address(qkv)?,
            pages: self.address(&kv.pages)?,
            items: tables.items(self)?,
            num_items: counts.offset(size_of::<u32>()),
            tables: tables.block_tables(self)?,
            out: self.address(out)?,
            partials,
            counters,
            first_item: 0,
            qkv_columns: qkv.dims()[1] as u32,
            out_columns: columns as u32,
            kv_heads: shape.num_kv_heads as u32,
            group: shape.group() as u32,
            head_dim: shape.head_dim as u32,
            window: window.map_or(i32::MAX as u32, |window| window.clamp(1, i32::MAX as usize) as u32),
            scale: scale * std::f32::consts::LOG2_E,
            rope: if tables.is_stored_by_attention() { angles.of(self, OP, tables)? } else { Rope::NONE },
        };
        if few > 0 {
            self.attend(shape, Kind::Few, self.attention_blocks(shape).max(few), arguments)?;
        }
        if many > 0 {
            let first_item = tables.first_many() as u32;
            let num_items = counts.offset(2 * size_of::<u32>());
            self.attend(shape, Kind::Many, many, Arguments { num_items, first_item, ..arguments })?;
        }
        Ok(())
    }

    fn attend(&self, shape: &AttentionShape, kind: Kind, blocks: usize, arguments: Arguments) -> Result<()> {
        let launch = self.kernel(shape.kernel(kind)).grid(blocks, 1).threads(THREADS).overlapping();
        let launch = launch.shared(shape.shared_bytes(kind));
        // SAFETY: rows, cache and output have the sizes in the arguments, which the caller has checked; items and blocks
        // are those of the same tables, with room for as many partial results and counters.
        unsafe { launch.arg(arguments).run() }
    }
}

#[cfg(all(test, any(feature = "cuda", feature = "cuda-emulation")))]
#[path = "attention_tests.rs"]
mod tests;
