//! The gate of the feed-forward layer: `silu(gate) * up`, `silu(x) = x / (1 + exp(-x))` (Shazeer, 2020).
#![expect(clippy::inline_always, reason = "whatever is not inlined into the kernel loses its instruction set")]

use crate::Isa;
use crate::simd::{Kernel, LANES, Simd, dispatch};

/// `out = silu(gate) * up` of one row: `gate_up` holds gate, then up, both as long as `out`.
pub(crate) fn silu_mul(isa: Isa, gate_up: &[f32], out: &mut [f32]) {
    let (gate, up) = gate_up.split_at(out.len());
    dispatch(isa, Row { gate, up, out });
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
    use super::silu_mul;
    use crate::Isa;
    use crate::testing::normal_rows;

    fn row(isa: Isa, gate_up: &[f32]) -> Vec<f32> {
        let mut out = vec![f32::NAN; gate_up.len() / 2];
        silu_mul(isa, gate_up, &mut out);
        out
    }

    #[test]
    fn agrees_with_f64_and_does_not_depend_on_place() {
        let mut rng = fastrand::Rng::with_seed(1);
        for isa in [Isa::Scalar, Isa::detect()] {
            for (columns, scale) in [(1, 1.0), (13, 8.0), (1536, 3.0), (100, 40.0)] {
                let gate_up = normal_rows(&mut rng, 2 * columns, scale);
                for (i, found) in row(isa, &gate_up).into_iter().enumerate() {
                    let (gate, up) = (gate_up[i], gate_up[columns + i]);
                    let wanted = f64::from(gate) / (1.0 + f64::from(-gate).exp()) * f64::from(up);
                    let error = (f64::from(found) - wanted).abs();
                    assert!(error <= 5e-7 * wanted.abs() + 1e-34, "{isa:?}: {found} is not {wanted}");
                    assert_eq!(row(isa, &[gate, up]), [found]);
                }
            }
        }
    }

    #[test]
    fn extreme_values_stay_in_their_place() {
        for isa in [Isa::Scalar, Isa::detect()] {
            let gate = [0.0, -0.0, 1e30, -1e30, f32::INFINITY, f32::NAN, -87.5, -103.0, 88.5];
            let up = [1.0; 9];
            let out = row(isa, &[gate, up].concat());
            assert_eq!(out[..5], [0.0, 0.0, 1e30, 0.0, f32::INFINITY]);
            assert!(out[5].is_nan());
            assert!(out[6] <= 0.0 && out[6] > -1e-35 && out[7] <= 0.0 && out[7] > -1e-35);
            assert!((out[8] - 88.5).abs() < 1e-5);
        }
    }
}
