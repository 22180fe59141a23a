//! The gate of the feed-forward layer: `silu(gate) * up`, `silu(x) = x / (1 + exp(-x))` (Shazeer, 2020).
#![expect(clippy::inline_always, reason = "whatever is not inlined into the kernel loses its instruction set")]

use candle_core::{CpuStorage, InplaceOp2, Layout, Tensor};

use crate::simd::{Kernel, LANES, Simd, dispatch};
use crate::{Compute, Result, rows};

impl Compute {
    /// `out = silu(gate) * up`. `gate_up`: f32 `(num_tokens, 2 * n)`, gate first; `out`: f32 `(num_tokens, n)`.
    pub fn silu_mul(&self, gate_up: &Tensor, out: &Tensor) -> Result<()> {
        let (num_tokens, columns) = rows::matrix("silu_mul", "out", out)?;
        rows::expect("silu_mul", "gate_up", gate_up, &[num_tokens, 2 * columns])?;
        if num_tokens == 0 || columns == 0 {
            return Ok(());
        }
        Ok(out.inplace_op2(gate_up, &SiluMul { compute: self, columns })?)
    }
}

struct SiluMul<'a> {
    compute: &'a Compute,
    columns: usize,
}

impl InplaceOp2 for SiluMul<'_> {
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
        let gate_up = rows::f32s(gate_up, gate_up_layout)?;
        self.compute.for_each_row(rows::f32s_mut(out, out_layout)?, self.columns, |i, out| {
            let (gate, up) = gate_up[i * 2 * self.columns..][..2 * self.columns].split_at(self.columns);
            dispatch(self.compute.isa(), Row { gate, up, out });
        });
        Ok(())
    }
}

struct Row<'a> {
    gate: &'a [f32],
    up: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Row<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let ((gate, gate_rest), (up, up_rest)) = (self.gate.as_chunks::<LANES>(), self.up.as_chunks::<LANES>());
        let (out, out_rest) = self.out.as_chunks_mut::<LANES>();
        for ((gate, up), out) in gate.iter().zip(up).zip(out) {
            simd.store(simd.mul(simd.silu(simd.load(gate)), simd.load(up)), out);
        }
        // The rest in whole vectors too, so that an element's bits do not depend on its place.
        let (mut gate, mut up, mut out) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
        gate[..gate_rest.len()].copy_from_slice(gate_rest);
        up[..up_rest.len()].copy_from_slice(up_rest);
        simd.store(simd.mul(simd.silu(simd.load(&gate)), simd.load(&up)), &mut out);
        out_rest.copy_from_slice(&out[..out_rest.len()]);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use candle_core::{Device, Tensor};

    use crate::Isa;
    use crate::testing::{compute, normal_rows};

    fn silu_mul(isa: Isa, gate_up: &[f32], columns: usize) -> Vec<f32> {
        let num_tokens = gate_up.len() / (2 * columns);
        let gate_up = Tensor::from_slice(gate_up, (num_tokens, 2 * columns), &Device::Cpu).unwrap();
        let out = Tensor::full(f32::NAN, (num_tokens, columns), &Device::Cpu).unwrap();
        compute(2, Some(isa)).silu_mul(&gate_up, &out).unwrap();
        out.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn agrees_with_f64_and_does_not_depend_on_place() {
        let mut rng = fastrand::Rng::with_seed(1);
        for isa in [Isa::Scalar, Isa::detect()] {
            for (num_tokens, columns, scale) in [(1, 1, 1.0), (3, 13, 8.0), (40, 1536, 3.0), (2, 100, 40.0)] {
                let gate_up = normal_rows(&mut rng, num_tokens * 2 * columns, scale);
                let out = silu_mul(isa, &gate_up, columns);
                for (row, out) in gate_up.chunks_exact(2 * columns).zip(out.chunks_exact(columns)) {
                    for (i, found) in out.iter().enumerate() {
                        let (gate, up) = (f64::from(row[i]), f64::from(row[columns + i]));
                        let wanted = gate / (1.0 + (-gate).exp()) * up;
                        let error = (f64::from(*found) - wanted).abs();
                        assert!(error <= 5e-7 * wanted.abs() + 1e-34, "{isa:?}: {found} is not {wanted}");
                        assert_eq!(silu_mul(isa, &[row[i], row[columns + i]], 1), [*found]);
                    }
                }
            }
        }
    }

    #[test]
    fn extreme_values_stay_in_their_place() {
        for isa in [Isa::Scalar, Isa::detect()] {
            let gate = [0.0, -0.0, 1e30, -1e30, f32::INFINITY, f32::NAN, -87.5, -103.0, 88.5];
            let up = [1.0; 9];
            let out = silu_mul(isa, &[gate, up].concat(), 9);
            assert_eq!(out[..5], [0.0, 0.0, 1e30, 0.0, f32::INFINITY]);
            assert!(out[5].is_nan());
            assert!(out[6] <= 0.0 && out[6] > -1e-35 && out[7] <= 0.0 && out[7] > -1e-35);
            assert!((out[8] - 88.5).abs() < 1e-5);
        }
    }
}
