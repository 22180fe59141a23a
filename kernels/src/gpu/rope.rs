//! Rotary embedding on the card: a step's cosines and sines, q and k rotated, k and v stored.

use candle_core::{DType, Tensor};

use super::launch::Argument;
use super::step::StepTables;
use super::{Address, Gpu};
use crate::{Error, KvCacheType, KvLayer, Result, RopeStyle, rows};

/// Threads and warps of a block, and tokens whose values it transposes; as in `cuda/rope_and_store.cu`.
const THREADS: usize = 128;
const WARPS: usize = 4;
const TOKENS: usize = 32;

/// Frequencies on the card, and the cosines and sines of a step's rows.
#[derive(Debug)]
pub(crate) struct RopeAngles {
    style: RopeStyle,
    magnitude: f32,
    /// `(head_dim / 2)`.
    frequencies: Tensor,
    /// `(max_rows, 2, head_dim / 2)`.
    angles: Tensor,
}

/// `Rope` of `cuda/rope.cuh`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Rope {
    angles: Address,
    interleaved: u32,
    head_dim: u32,
}

impl Rope {
    /// Nothing is to be rotated.
    pub const NONE: Self = Self { angles: Address::NULL, interleaved: 0, head_dim: 0 };
}

/// `Store` of `cuda/rope_and_store.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Store {
    rope: Rope,
    qkv: Address,
    slots: Address,
    pages: Address,
    rows: u32,
    heads: u32,
    kv_heads: u32,
    half_page: u32,
    bytes: u32,
    unused: u32,
}

// SAFETY: as declared there; 64 bytes without padding.
unsafe impl Argument for Store {}

impl RopeAngles {
    /// For steps of up to `max_rows` rows; the rest as of [`crate::RopeTable::new`].
    ///
    /// # Errors
    /// When the card has no memory.
    pub fn new(gpu: &Gpu, style: RopeStyle, frequencies: &[f32], magnitude: f32, max_rows: usize) -> Result<Self> {
        let pairs = frequencies.len();
        Ok(Self {
            style,
            magnitude,
            frequencies: Tensor::from_slice(frequencies, pairs, gpu.device())?,
            angles: Tensor::zeros((max_rows, 2, pairs), DType::F32, gpu.device())?,
        })
    }

    fn pairs(&self) -> usize {
        self.frequencies.elem_count()
    }

    /// As kernels take them for this step.
    ///
    /// # Errors
    /// When heads have other dimensions, or there are fewer rows.
    pub(super) fn of(&self, gpu: &Gpu, op: &'static str, tables: &StepTables) -> Result<Rope> {
        let (head_dim, rows) = (tables.shape().head_dim, tables.padded_rows());
        if self.pairs() * 2 != head_dim || rows > self.angles.dims()[0] {
            let found = format!("angles of {:?}", self.angles.dims());
            return Err(Error::shape(op, format!("{found} for {rows} rows of heads of {head_dim}")));
        }
        Ok(Rope {
            angles: gpu.address(&self.angles)?,
            interleaved: u32::from(self.style == RopeStyle::Interleaved),
            head_dim: head_dim as u32,
        })
    }
}

impl Gpu {
    /// Computes cosines and sines of a step's rows; once, before [`Gpu::rope_and_store`] of its layers.
    ///
    /// # Errors
    /// When the step has more rows than the angles have room for, or the card has failed.
    pub fn rope_angles(&self, angles: &RopeAngles, tables: &StepTables) -> Result<()> {
        let (rows, pairs) = (tables.padded_rows(), angles.pairs());
        if rows > angles.angles.dims()[0] {
            return Err(Error::shape("rope_angles", format!("{rows} rows of at most {}", angles.angles.dims()[0])));
        }
        if rows == 0 {
            return Ok(());
        }
        let launch = self.kernel("rope_angles").grid((rows * pairs).div_ceil(THREADS), 1).threads(THREADS);
        let launch = launch.arg(tables.positions(self)?).arg(self.address(&angles.frequencies)?);
        let launch = launch.arg(self.address(&angles.angles)?).arg(rows as u32).arg(pairs as u32).arg(angles.magnitude);
        // SAFETY: there are so many positions and frequencies, and room for the angles, as checked.
        unsafe { launch.run() }
    }

    /// As [`crate::Compute::rope_and_store`], for the step in `tables` and its `angles`: q is rotated in place, k and v go
    /// into the cache. k itself is left as it is, and so are rows of padding. `qkv`: f32 `(padded_rows, (num_heads + 2 *
    /// num_kv_heads) * head_dim)`, or more rows.
    ///
    /// Pages are laid out as `cuda/rope.cuh` says, not as the CPU's. Nothing is done for a step that
    /// [`StepTables::is_stored_by_attention`].
    ///
    /// # Errors
    /// When shapes do not fit each other, or the card has failed.
    pub fn rope_and_store(&self, qkv: &Tensor, angles: &RopeAngles, tables: &StepTables, kv: &KvLayer) -> Result<()> {
        const OP: &str = "rope_and_store";
        let shape = tables.shape();
        let rows = tables.padded_rows();
        check_layer(OP, qkv, tables, kv)?;
        let rope = angles.of(self, OP, tables)?;
        if tables.num_rows() == 0 || tables.is_stored_by_attention() {
            return Ok(());
        }
        let store = Store {
            rope,
            qkv: self.address(qkv)?,
            slots: tables.slots(self)?,
            pages: self.address(&kv.pages)?,
            rows: rows as u32,
            heads: shape.num_heads as u32,
            kv_heads: shape.num_kv_heads as u32,
            half_page: shape.cache_type.half_page_bytes(shape.head_dim) as u32,
            bytes: u32::from(shape.cache_type == KvCacheType::Q8),
            unused: 0,
        };
        let rotate_blocks = (rows * (shape.num_heads + shape.num_kv_heads)).div_ceil(WARPS);
        let store_blocks = rows.div_ceil(TOKENS) * shape.num_kv_heads;
        let launch = self.kernel(OP).grid(rotate_blocks + store_blocks, 1).threads(THREADS);
        // SAFETY: qkv, angles and cache have the sizes in `store`, as checked; slots lie in the cache.
        unsafe { launch.arg(store).arg(rotate_blocks as u32).run() }
    }
}

/// Checks that a layer's rows and cache are those that the tables were made for.
pub(super) fn check_layer(op: &'static str, qkv: &Tensor, tables: &StepTables, kv: &KvLayer) -> Result<()> {
    let (num_rows, columns) = rows::matrix(op, "qkv", qkv)?;
    let (shape, cache) = (tables.shape(), kv.shape(op)?);
    let dtype = if shape.cache_type == KvCacheType::Q8 { DType::U8 } else { DType::F16 };
    rows::contiguous(op, "the KV cache", &kv.pages, dtype)?;
    let needed = tables.padded_rows();
    if num_rows < needed || columns != (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_dim {
        return Err(Error::shape(op, format!("qkv has shape {:?} for {needed} rows of {shape:?}", qkv.dims())));
    }
    let fits = cache.num_kv_heads == shape.num_kv_heads && cache.head_dim == shape.head_dim;
    if !fits || cache.num_blocks < tables.capacity().cache_blocks {
        let found = format!("the KV cache has shape {:?}", kv.pages.dims());
        return Err(Error::shape(op, format!("{found}, not {} blocks of {shape:?}", tables.capacity().cache_blocks)));
    }
    Ok(())
}

#[cfg(all(test, any(feature = "cuda", feature = "cuda-emulation")))]
#[path = "rope_tests.rs"]
mod tests;
