//! The quantised formats in their packed form: groups of 8 rows, each group a run of blocks over all columns, each block
//! a header of scales ([`Scaling`]) followed by chunks of 32 columns ([`Quants`]). A format is one of each plus the
//! parser of its GGUF block. Knows nothing of matrices, activations or threads.
#![expect(non_camel_case_types, reason = "ggml's spelling of the types")]

pub(crate) mod block;
pub(crate) mod quants;
pub(crate) mod scaling;

use block::Block;
use half::{bf16, f16};
use quants::{Bits2, Bits3, Bits4, Bits5, Bits6, Indexed4, Int8, Quants};
use scaling::chunk::{Affine, Symmetric};
use scaling::superblock::{SuperAffine, SuperAffineHalves, SuperSymmetric};
use scaling::{Scales, Scaling};

use crate::GgmlType;

/// Rows that are interleaved.
pub(crate) const GROUP: usize = 8;
/// Columns of a chunk; also the columns that share one scale of quantised activations.
pub(crate) const CHUNK: usize = 32;
/// Chunks of a super-block.
pub(crate) const SUPER: usize = 8;

/// A quantised format.
pub(crate) trait Format: 'static {
    /// Width of its integers.
    type Quants: Quants;
    /// Kind of its scales.
    type Scaling: Scaling;
    /// The GGUF type.
    const TYPE: GgmlType;

    /// Takes a GGUF block apart.
    fn parse(raw: &[u8], block: &mut Block);

    /// Bytes of a packed block: 8 rows by [`GgmlType::block_len`] columns.
    const BLOCK_BYTES: usize = Self::Scaling::BYTES + Self::Scaling::CHUNKS * Self::Quants::BYTES;
}

macro_rules! formats {
    ($($name:ident: $quants:ty, $scaling:ty, $parse:ident;)*) => {
        $(
            #[doc = concat!("See [`block::", stringify!($parse), "`].")]
            pub(crate) enum $name {}

            impl Format for $name {
                type Quants = $quants;
                type Scaling = $scaling;
                const TYPE: GgmlType = GgmlType::$name;

                fn parse(raw: &[u8], block: &mut Block) {
                    block::$parse(raw, block);
                }
            }
        )*
    };
}

formats! {
    Q4_0: Bits4, Symmetric<8>, parse_q4_0;
    Q4_1: Bits4, Affine, parse_q4_1;
    Q5_0: Bits5, Symmetric<16>, parse_q5_0;
    Q5_1: Bits5, Affine, parse_q5_1;
    Q8_0: Int8, Symmetric<0>, parse_q8_0;
    Q2_K: Bits2, SuperAffineHalves, parse_q2_k;
    Q3_K: Bits3, SuperSymmetric<2, 4>, parse_q3_k;
    Q4_K: Bits4, SuperAffine, parse_q4_k;
    Q5_K: Bits5, SuperAffine, parse_q5_k;
    Q6_K: Bits6, SuperSymmetric<2, 32>, parse_q6_k;
    IQ4_NL: Indexed4, Symmetric<0>, parse_iq4_nl;
    IQ4_XS: Indexed4, SuperSymmetric<1, 0>, parse_iq4_xs;
}

/// What packing and dequantising need of a format, with the format itself erased.
#[derive(Debug)]
pub(crate) struct Codec {
    /// Bytes of a packed block of 8 rows.
    pub(crate) block_bytes: usize,
    /// Packs up to 8 rows of GGUF blocks (all columns) into a group of zeros; missing rows stay zeros.
    pub(crate) pack_group: fn(rows: &[u8], columns: usize, group: &mut [u8]),
    /// Dequantises the 32 columns of `chunk` of one row of a group.
    pub(crate) dequantise: fn(group: &[u8], row: usize, chunk: usize, out: &mut [f32]),
}

impl Codec {
    const fn of<F: Format>() -> Self {
        Self { block_bytes: F::BLOCK_BYTES, pack_group: pack_group::<F>, dequantise: dequantise_chunk::<F> }
    }

    /// The codec of a quantised type, `None` for the float types.
    pub(crate) fn new(ggml_type: GgmlType) -> Option<Self> {
        Some(match ggml_type {
            GgmlType::F32 | GgmlType::F16 | GgmlType::BF16 => return None,
            GgmlType::Q4_0 => Self::of::<Q4_0>(),
            GgmlType::Q4_1 => Self::of::<Q4_1>(),
            GgmlType::Q5_0 => Self::of::<Q5_0>(),
            GgmlType::Q5_1 => Self::of::<Q5_1>(),
            GgmlType::Q8_0 => Self::of::<Q8_0>(),
            GgmlType::Q2_K => Self::of::<Q2_K>(),
            GgmlType::Q3_K => Self::of::<Q3_K>(),
            GgmlType::Q4_K => Self::of::<Q4_K>(),
            GgmlType::Q5_K => Self::of::<Q5_K>(),
            GgmlType::Q6_K => Self::of::<Q6_K>(),
            GgmlType::IQ4_NL => Self::of::<IQ4_NL>(),
            GgmlType::IQ4_XS => Self::of::<IQ4_XS>(),
        })
    }
}

fn pack_group<F: Format>(rows: &[u8], columns: usize, group: &mut [u8]) {
    let (block_len, raw_bytes) = (F::TYPE.block_len(), F::TYPE.block_bytes());
    let row_bytes = columns / block_len * raw_bytes;
    let mut block = Block::default();
    for (row, raw_row) in rows.chunks_exact(row_bytes).enumerate() {
        for (raw, packed) in raw_row.chunks_exact(raw_bytes).zip(group.chunks_exact_mut(F::BLOCK_BYTES)) {
            F::parse(raw, &mut block);
            let (header, chunks) = packed.split_at_mut(F::Scaling::BYTES);
            F::Scaling::put(header, row, &block);
            for (quants, chunk) in block.quants.as_chunks().0.iter().zip(chunks.chunks_exact_mut(F::Quants::BYTES)) {
                F::Quants::put(chunk, row, quants);
            }
        }
    }
}

/// The header of the block that holds a chunk.
pub(crate) fn header<F: Format>(group: &[u8], chunk: usize) -> &[u8] {
    &group[chunk / F::Scaling::CHUNKS * F::BLOCK_BYTES..][..F::Scaling::BYTES]
}

/// One row's part of a chunk as integers.
pub(crate) fn read_quants<F: Format>(group: &[u8], row: usize, chunk: usize) -> [i32; CHUNK] {
    let (block, index) = (chunk / F::Scaling::CHUNKS, chunk % F::Scaling::CHUNKS);
    let start = block * F::BLOCK_BYTES + F::Scaling::BYTES + index * F::Quants::BYTES;
    let quants = F::Quants::get(&group[start..][..F::Quants::BYTES], row);
    quants.map(|q| if F::Quants::SIGNED { i32::from(q as i8) } else { i32::from(q) })
}

/// One row's scales of a chunk: weights are `scale * quant + min`.
pub(crate) fn read_scales<F: Format>(group: &[u8], row: usize, chunk: usize) -> Scales {
    F::Scaling::get(header::<F>(group, chunk), row, chunk % F::Scaling::CHUNKS)
}

/// The values of whole GGUF blocks of any type; what is no whole block at the end is left out.
pub fn dequantise(ggml_type: GgmlType, bytes: &[u8]) -> Vec<f32> {
    let Some(codec) = Codec::new(ggml_type) else {
        let mut values = vec![0.0; bytes.len() / ggml_type.block_bytes()];
        read_floats(ggml_type, bytes, &mut values);
        return values;
    };
    let len = ggml_type.block_len();
    let mut group = vec![0; codec.block_bytes];
    let mut values = vec![0.0; bytes.len() / ggml_type.block_bytes() * len];
    for (raw, values) in bytes.chunks_exact(ggml_type.block_bytes()).zip(values.chunks_exact_mut(len)) {
        (codec.pack_group)(raw, len, &mut group);
        for (chunk, values) in values.chunks_exact_mut(CHUNK).enumerate() {
            (codec.dequantise)(&group, 0, chunk, values);
        }
    }
    values
}

/// Reads as many values of a float type as `out` has, as long as there are bytes.
pub(crate) fn read_floats(ggml_type: GgmlType, bytes: &[u8], out: &mut [f32]) {
    match ggml_type {
        GgmlType::F16 => read(bytes, out, |b| f16::from_le_bytes(b).to_f32()),
        GgmlType::BF16 => read(bytes, out, |b| bf16::from_le_bytes(b).to_f32()),
        _ => read(bytes, out, f32::from_le_bytes),
    }
}

fn read<const N: usize>(bytes: &[u8], out: &mut [f32], value: impl Fn([u8; N]) -> f32) {
    for (out, &bytes) in out.iter_mut().zip(bytes.as_chunks::<N>().0) {
        *out = value(bytes);
    }
}

fn dequantise_chunk<F: Format>(group: &[u8], row: usize, chunk: usize, out: &mut [f32]) {
    let (quants, scales) = (read_quants::<F>(group, row, chunk), read_scales::<F>(group, row, chunk));
    for (k, (out, quant)) in out.iter_mut().zip(quants).enumerate() {
        let sub = k * F::Scaling::SUB / CHUNK;
        let scaled = scales.scale[sub] * quant as f32;
        *out = if F::Scaling::MINS { scaled + scales.min[sub] } else { scaled };
    }
}

#[cfg(test)]
mod tests;
