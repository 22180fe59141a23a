//! One operation per file: what it computes, its plain reference, its fast paths, its property test.

pub(crate) mod rope;

use candle_core::Tensor;

use crate::{Compute, KvLayer, PackedMatrix, Result, RopeTable, Span};

// Temporary signatures: each moves to its own file with its implementation.
#[expect(unused_variables, clippy::unused_self, reason = "signatures only until the operations land")]
impl Compute {
    /// Writes row `ids[i]` of `table`, dequantised, to `out[i]`. `out`: f32 `(ids.len(), columns)`.
    pub fn embed(&self, table: &PackedMatrix, ids: &[u32], out: &Tensor) -> Result<()> {
        Ok(())
    }

    /// `out = x · Wᵀ`. `x`: f32 `(num_tokens, columns)`; `out`: f32 `(num_tokens, rows)`.
    pub fn linear(&self, weight: &PackedMatrix, x: &Tensor, out: &Tensor) -> Result<()> {
        Ok(())
    }

    /// `out += x · Wᵀ`: the projection back into the residual stream. Shapes as in [`Compute::linear`].
    pub fn linear_add(&self, weight: &PackedMatrix, x: &Tensor, out: &Tensor) -> Result<()> {
        Ok(())
    }

    /// `x[i] += bias` for every row. `x`: f32 `(num_tokens, n)`; `bias`: f32 `(n)`.
    pub fn add_bias(&self, x: &Tensor, bias: &Tensor) -> Result<()> {
        Ok(())
    }

    /// Root-mean-square norm of each row times `weight`. `x`, `out`: f32 `(num_tokens, hidden)`; `weight`: f32 `(hidden)`.
    pub fn rms_norm(&self, x: &Tensor, weight: &Tensor, eps: f32, out: &Tensor) -> Result<()> {
        Ok(())
    }

    /// Root-mean-square norm of every head in place (Qwen3's q and k norms): heads `first_head..first_head + num_heads`
    /// of each row of `x`, f32 `(num_tokens, total_heads * head_dim)`; `weight`: f32 `(head_dim)`.
    pub fn head_norm(&self, x: &Tensor, first_head: usize, num_heads: usize, weight: &Tensor, eps: f32) -> Result<()> {
        Ok(())
    }

    /// Rotates q and k of `qkv` in place by their positions and stores k and v into the cache at the spans' slots.
    /// `qkv`: f32 `(num_tokens, (num_heads + 2 * num_kv_heads) * head_dim)`.
    pub fn rope_and_store(&self, qkv: &Tensor, rope: &RopeTable, spans: &[Span], kv: &KvLayer) -> Result<()> {
        Ok(())
    }

    /// Causal attention of each span's queries over its pages. `qkv` as left by [`Compute::rope_and_store`] (only q is
    /// read); `out`: f32 `(num_tokens, num_heads * head_dim)`. `window`: only the last so many positions are seen.
    pub fn attention(
        &self,
        qkv: &Tensor,
        spans: &[Span],
        kv: &KvLayer,
        scale: f32,
        window: Option<usize>,
        out: &Tensor,
    ) -> Result<()> {
        Ok(())
    }

    /// `out = silu(gate) * up`. `gate_up`: f32 `(num_tokens, 2 * n)`, gate first; `out`: f32 `(num_tokens, n)`.
    pub fn silu_mul(&self, gate_up: &Tensor, out: &Tensor) -> Result<()> {
        Ok(())
    }

    /// `out[i] = x[rows[i]]`. `x`: f32 `(num_tokens, n)`; `out`: f32 `(rows.len(), n)`.
    pub fn gather_rows(&self, x: &Tensor, rows: &[u32], out: &Tensor) -> Result<()> {
        Ok(())
    }
}
