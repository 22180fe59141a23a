//! The paged key/value cache of one layer, and the description of a step's sequences that attention works from.
//! Must not know who owns a block: ids come from above.

use std::fmt;

use candle_core::{DType, Device, Tensor};
use half::{f16, vec::HalfBitsVecExt as _};

use crate::{Error, Result, rows};

/// Bytes of a scale.
const SCALE: usize = size_of::<f32>();

/// Tokens in one block of the paged KV cache.
pub const BLOCK_SIZE: usize = 32;

/// How keys and values are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KvCacheType {
    /// Two bytes an element.
    #[default]
    F16,
    /// Signed bytes, with one scale for the key and one for the value of a token and head: 127 is the largest magnitude.
    /// Keys are kept transformed (see `hadamard`), for some of their elements are far larger than others.
    Q8,
}

impl fmt::Display for KvCacheType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F16 => "f16",
            Self::Q8 => "q8",
        })
    }
}

impl KvCacheType {
    /// Bytes of the keys, and again of the values, of one head of one block.
    pub fn half_page_bytes(self, head_dim: usize) -> usize {
        match self {
            Self::F16 => BLOCK_SIZE * head_dim * size_of::<f16>(),
            Self::Q8 => BLOCK_SIZE * (head_dim + SCALE),
        }
    }
}

/// Keys and values of one layer: one tensor of shape `(num_blocks, num_kv_heads, 2, half_page)`, f16 with half pages of
/// `BLOCK_SIZE * head_dim` elements, or bytes with `BLOCK_SIZE` f32 scales, little endian, after so many.
///
/// In a block of a head, the rotated keys come first, transposed to `(head_dim, BLOCK_SIZE)` so that scores of
/// neighbouring positions are neighbours; then the values as `(BLOCK_SIZE, head_dim)`.
#[derive(Debug, Clone)]
pub struct KvLayer {
    /// The blocks.
    pub pages: Tensor,
}

impl KvLayer {
    /// A zeroed layer on `device`.
    pub fn new(
        num_blocks: usize,
        num_kv_heads: usize,
        head_dim: usize,
        cache_type: KvCacheType,
        device: &Device,
    ) -> Result<Self> {
        let half_bytes = cache_type.half_page_bytes(head_dim);
        let halves = num_blocks * num_kv_heads * 2;
        if !device.is_cpu() {
            let (elements, dtype) = match cache_type {
                KvCacheType::F16 => (half_bytes / size_of::<f16>(), DType::F16),
                KvCacheType::Q8 => (half_bytes, DType::U8),
            };
            return Ok(Self { pages: Tensor::zeros((num_blocks, num_kv_heads, 2, elements), dtype, device)? });
        }
        // Zeros of an integer type come from the system untouched: a block costs memory when it is first written.
        let pages = match cache_type {
            KvCacheType::F16 => {
                let elements = half_bytes / size_of::<f16>();
                let zeros = vec![0_u16; halves * elements].reinterpret_into::<f16>();
                Tensor::from_vec(zeros, (num_blocks, num_kv_heads, 2, elements), device)?
            }
            KvCacheType::Q8 => {
                Tensor::from_vec(vec![0_u8; halves * half_bytes], (num_blocks, num_kv_heads, 2, half_bytes), device)?
            }
        };
        Ok(Self { pages })
    }

    /// The sizes of the cache, checked.
    pub(crate) fn shape(&self, op: &'static str) -> Result<PageShape> {
        let (dtype, scales) = match self.pages.dtype() {
            DType::U8 => (DType::U8, SCALE),
            _ => (DType::F16, 0),
        };
        rows::contiguous(op, "the KV cache", &self.pages, dtype)?;
        match *self.pages.dims() {
            [num_blocks, num_kv_heads, 2, half_len]
                if half_len > BLOCK_SIZE * scales && half_len % BLOCK_SIZE == 0 && num_kv_heads > 0 =>
            {
                let head_dim = half_len / BLOCK_SIZE - scales;
                Ok(PageShape { num_blocks, num_kv_heads, head_dim, half_len })
            }
            ref dims => Err(Error::shape(
                op,
                format!("the KV cache has shape {dims:?}, not (blocks, heads, 2, {BLOCK_SIZE} * head_dim and scales)"),
            )),
        }
    }
}

/// The bytes of a scale among those of its half of a page, whose elements they follow.
pub(crate) fn scale_bytes(offset: usize) -> std::ops::Range<usize> {
    offset * SCALE..(offset + 1) * SCALE
}

/// Sizes of a [`KvLayer`], and where a head's keys and values lie in its flat memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PageShape {
    pub num_blocks: usize,
    pub num_kv_heads: usize,
    pub head_dim: usize,
    /// Elements of the keys, or of the values, of one head of one block, with their scales.
    pub half_len: usize,
}

impl PageShape {
    /// Offset of the keys, `(head_dim, BLOCK_SIZE)`, of one head of one block.
    pub fn keys(&self, block: u32, kv_head: usize) -> usize {
        (block as usize * self.num_kv_heads + kv_head) * 2 * self.half_len
    }

    /// Offset of the values, `(BLOCK_SIZE, head_dim)`, of one head of one block.
    pub fn values(&self, block: u32, kv_head: usize) -> usize {
        self.keys(block, kv_head) + self.half_len
    }
}

/// One sequence's part of a step: `query_len` rows of the batch, starting at `query_start`, are its tokens at
/// positions `context_len - query_len .. context_len`.
///
/// Invariant: `block_table.len() * BLOCK_SIZE >= context_len`, and KV exists in those blocks for all positions before
/// the query (the step itself writes the query's).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// First row of this sequence in the batch.
    pub query_start: usize,
    /// Rows of this sequence in the batch, at least 1.
    pub query_len: usize,
    /// Tokens of the sequence once this step is done.
    pub context_len: usize,
    /// Block ids in the order of positions.
    pub block_table: Vec<u32>,
}

impl Span {
    /// The position of the span's first row.
    pub fn first_position(&self) -> usize {
        self.context_len - self.query_len
    }

    /// The slot (`block * BLOCK_SIZE + offset`) of a position in the cache.
    pub fn slot(&self, position: usize) -> usize {
        self.block_table[position / BLOCK_SIZE] as usize * BLOCK_SIZE + position % BLOCK_SIZE
    }
}

/// Checks that the spans cover rows `0..num_tokens` in order and that their block tables reach their contexts and name
/// blocks of the cache.
pub(crate) fn check_spans(op: &'static str, spans: &[Span], num_tokens: usize, num_blocks: usize) -> Result<()> {
    let mut covered = 0;
    for (i, span) in spans.iter().enumerate() {
        let Span { query_start, query_len, context_len, .. } = *span;
        if query_start != covered || query_len == 0 || query_len > context_len {
            let found = format!("{query_len} rows from {query_start} of a context of {context_len}");
            return Err(Error::shape(op, format!("span {i} has {found}; its first row should be {covered}")));
        }
        let blocks = context_len.div_ceil(BLOCK_SIZE);
        let Some(used) = span.block_table.get(..blocks) else {
            let len = span.block_table.len();
            return Err(Error::shape(op, format!("span {i} has {len} blocks for a context of {context_len} tokens")));
        };
        if let Some(id) = used.iter().find(|&&id| id as usize >= num_blocks) {
            return Err(Error::shape(op, format!("span {i} names block {id} of a cache of {num_blocks}")));
        }
        covered += query_len;
    }
    if covered == num_tokens {
        return Ok(());
    }
    Err(Error::shape(op, format!("spans cover {covered} rows of a batch of {num_tokens}")))
}
