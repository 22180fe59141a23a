//! Root-mean-square norm (Zhang & Sennrich, 2019): `x / sqrt(mean(x²) + eps) * weight`, of rows and of single heads.

use candle_core::{CpuStorage, InplaceOp2, InplaceOp3, Layout, Tensor};

use crate::{Compute, Error, Result, rows};

impl Compute {
    /// Root-mean-square norm of each row times `weight`. `x`, `out`: f32 `(num_tokens, hidden)`; `weight`: f32 `(hidden)`.
    pub fn rms_norm(&self, x: &Tensor, weight: &Tensor, eps: f32, out: &Tensor) -> Result<()> {
        const OP: &str = "rms_norm";
        let (num_tokens, hidden) = rows::matrix(OP, "x", x)?;
        rows::expect(OP, "weight", weight, &[hidden])?;
        rows::expect(OP, "out", out, &[num_tokens, hidden])?;
        if num_tokens == 0 || hidden == 0 {
            return Ok(());
        }
        Ok(out.inplace_op3(x, weight, &RmsNorm { hidden, eps })?)
    }

    /// Root-mean-square norm of every head in place (Qwen3's q and k norms): heads `first_head..first_head + num_heads`
    /// of each row of `x`, f32 `(num_tokens, total_heads * head_dim)`; `weight`: f32 `(head_dim)`.
    pub fn head_norm(&self, x: &Tensor, first_head: usize, num_heads: usize, weight: &Tensor, eps: f32) -> Result<()> {
        const OP: &str = "head_norm";
        let (num_tokens, columns) = rows::matrix(OP, "x", x)?;
        let head_dim = weight.elem_count();
        rows::expect(OP, "weight", weight, &[head_dim])?;
        let end = first_head.checked_add(num_heads).and_then(|heads| heads.checked_mul(head_dim));
        if head_dim == 0 || columns % head_dim != 0 || end.is_none_or(|end| end > columns) {
            let asked = format!("heads {first_head}..{first_head}+{num_heads} of {head_dim} elements");
            return Err(Error::shape(OP, format!("{asked} do not fit a row of {columns}")));
        }
        if num_tokens == 0 || num_heads == 0 {
            return Ok(());
        }
        let heads = first_head * head_dim..(first_head + num_heads) * head_dim;
        Ok(x.inplace_op2(weight, &HeadNorm { columns, heads, eps })?)
    }
}

struct RmsNorm {
    hidden: usize,
    eps: f32,
}

impl InplaceOp3 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn cpu_fwd(
        &self,
        out: &mut CpuStorage,
        out_layout: &Layout,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> candle_core::Result<()> {
        let (x, weight) = (rows::f32s(x, x_layout)?, rows::f32s(weight, weight_layout)?);
        let out = rows::f32s_mut(out, out_layout)?;
        for (x, out) in x.chunks_exact(self.hidden).zip(out.chunks_exact_mut(self.hidden)) {
            let factor = inverse_rms(x, self.eps);
            for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
                *out = x * factor * weight;
            }
        }
        Ok(())
    }
}

struct HeadNorm {
    columns: usize,
    heads: std::ops::Range<usize>,
    eps: f32,
}

impl InplaceOp2 for HeadNorm {
    fn name(&self) -> &'static str {
        "head_norm"
    }

    fn cpu_fwd(
        &self,
        x: &mut CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> candle_core::Result<()> {
        let weight = rows::f32s(weight, weight_layout)?;
        for row in rows::f32s_mut(x, x_layout)?.chunks_exact_mut(self.columns) {
            for head in row[self.heads.clone()].chunks_exact_mut(weight.len()) {
                let factor = inverse_rms(head, self.eps);
                for (x, weight) in head.iter_mut().zip(weight) {
                    *x = *x * factor * weight;
                }
            }
        }
        Ok(())
    }
}

/// `1 / sqrt(mean(x²) + eps)`.
fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    let sum: f32 = x.iter().map(|x| x * x).sum();
    1.0 / (sum / x.len() as f32 + eps).sqrt()
}
