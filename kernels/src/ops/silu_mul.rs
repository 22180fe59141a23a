//! The gate of the feed-forward layer: `silu(gate) * up`, `silu(x) = x / (1 + exp(-x))` (Shazeer, 2020).

use candle_core::{CpuStorage, InplaceOp2, Layout, Tensor};

use crate::{Compute, Result, rows};

impl Compute {
    /// `out = silu(gate) * up`. `gate_up`: f32 `(num_tokens, 2 * n)`, gate first; `out`: f32 `(num_tokens, n)`.
    pub fn silu_mul(&self, gate_up: &Tensor, out: &Tensor) -> Result<()> {
        let (num_tokens, columns) = rows::matrix("silu_mul", "out", out)?;
        rows::expect("silu_mul", "gate_up", gate_up, &[num_tokens, 2 * columns])?;
        if num_tokens == 0 || columns == 0 {
            return Ok(());
        }
        Ok(out.inplace_op2(gate_up, &SiluMul { columns })?)
    }
}

struct SiluMul {
    columns: usize,
}

impl InplaceOp2 for SiluMul {
    fn name(&self) -> &'static str {
        "silu_mul"
    }

    fn cpu_fwd(
        &self,
        out: &mut CpuStorage,
        out_layout: &Layout,
        gate_up: &CpuStorage,
        gate_up_layout: &Layout,
    ) -> candle_core::Result<()> {
        let gate_up = rows::f32s(gate_up, gate_up_layout)?.chunks_exact(2 * self.columns);
        for (gate_up, out) in gate_up.zip(rows::f32s_mut(out, out_layout)?.chunks_exact_mut(self.columns)) {
            let (gate, up) = gate_up.split_at(self.columns);
            for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
                *out = gate / (1.0 + (-gate).exp()) * up;
            }
        }
        Ok(())
    }
}
