//! Sixteen f32 lanes at a time, for whatever instruction set was chosen at run time: an operation is written once over
//! [`Simd`] and compiled for each implementation by [`dispatch`]. Must not know any operation.
//!
//! Everything generic over `Simd` has to be inlined into the function that enables the instruction set: loops, and no
//! closures over lanes, which are compiled without it.
#![expect(clippy::inline_always, reason = "a lane operation that is not inlined loses its instruction set")]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

use half::f16;

use crate::Isa;

/// Lanes of every instruction set: one or two registers.
pub(crate) const LANES: usize = 16;

/// [`LANES`] f32 lanes. Every method is lane by lane, so that a value does not depend on its lane.
pub(crate) trait Simd: Copy {
    /// The lanes.
    type V: Copy;

    /// Values of [`Simd::V`] that fit into the registers.
    const REGISTERS: usize;

    fn splat(self, x: f32) -> Self::V;
    fn load(self, from: &[f32; LANES]) -> Self::V;
    fn store(self, v: Self::V, to: &mut [f32; LANES]);
    fn load_f16(self, from: &[f16; LANES]) -> Self::V;
    /// Rounds to nearest, ties to even.
    fn store_f16(self, v: Self::V, to: &mut [f16; LANES]);
    /// Signed bytes.
    fn load_i8(self, from: &[u8; LANES]) -> Self::V;
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`; rounded once where the machine can.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger; `b` where either is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The smaller; `b` where either is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// 0 where `x < limit`, else `v`.
    fn zero_below(self, v: Self::V, x: Self::V, limit: Self::V) -> Self::V;
    /// `2^(n - 1)` where `magic` is `n + 1.5 * 2^23` and `-126 <= n - 1 <= 127`.
    fn half_exp2(self, magic: Self::V) -> Self::V;
    fn to_array(self, v: Self::V) -> [f32; LANES];

    /// Asks for the cache line at `from`, which may lie anywhere, into the second level: it has more misses in flight.
    fn prefetch<T>(self, from: *const T);

    /// The sum of all lanes, in a fixed order.
    #[inline(always)]
    fn sum(self, v: Self::V) -> f32 {
        let x = self.to_array(v);
        let x: [f32; 8] = std::array::from_fn(|i| x[i] + x[i + 8]);
        ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]))
    }

    /// The largest lane; NaN lanes may be passed over.
    #[inline(always)]
    fn max_lane(self, v: Self::V) -> f32 {
        let x = self.to_array(v);
        let x: [f32; 8] = std::array::from_fn(|i| x[i].max(x[i + 8]));
        (x[0].max(x[4]).max(x[2].max(x[6]))).max(x[1].max(x[5]).max(x[3].max(x[7])))
    }

    /// `e^x` within 1 ulp where the machine rounds [`Simd::mul_add`] once; 0 below 2^-125, infinity above f32's range.
    ///
    /// `x = n ln 2 + f`, `e^f = 1 + f + f² q(f)` with `q` interpolated at Chebyshev nodes; coefficients are doubled to
    /// make up for the exponent `n - 1`.
    #[inline(always)]
    fn exp(self, x: Self::V) -> Self::V {
        const MAGIC: f32 = 12_582_912.0;
        // `n * LN_2_HIGH` is exact: the constant has 10 bits.
        const LN_2_HIGH: f32 = 355.0 / 512.0;
        const LN_2_LOW: f32 = -2.121_944_4e-4;
        const Q: [f32; 5] = [0.002_785_236_8, 0.016_726_358, 0.083_333_11, 0.333_331_53, 1.0];
        let low = self.splat(-86.6);
        let clamped = self.min(self.splat(89.0), x);
        let magic = self.mul_add(clamped, self.splat(std::f32::consts::LOG2_E), self.splat(MAGIC));
        let n = self.sub(magic, self.splat(MAGIC));
        let f = self.mul_add(n, self.splat(-LN_2_HIGH), clamped);
        let f = self.mul_add(n, self.splat(-LN_2_LOW), f);
        let q = self.splat(Q[0]);
        let q = self.mul_add(q, f, self.splat(Q[1]));
        let q = self.mul_add(q, f, self.splat(Q[2]));
        let q = self.mul_add(q, f, self.splat(Q[3]));
        let q = self.mul_add(q, f, self.splat(Q[4]));
        let two = self.splat(2.0);
        let power = self.mul_add(self.mul_add(q, f, two), f, two);
        self.zero_below(self.mul(power, self.half_exp2(magic)), x, low)
    }

    /// `x / (1 + e^-x)`.
    #[inline(always)]
    fn silu(self, x: Self::V) -> Self::V {
        let minus = self.sub(self.splat(0.0), x);
        self.div(x, self.add(self.splat(1.0), self.exp(minus)))
    }
}

/// Work that can be compiled for any instruction set.
pub(crate) trait Kernel {
    /// Must be `#[inline(always)]`, as must everything generic that it calls.
    fn run<S: Simd>(self, simd: S);
}

/// Runs `kernel` with the instruction set `isa`, which this machine must have (a [`crate::Compute`]'s always is).
pub(crate) fn dispatch(isa: Isa, kernel: impl Kernel) {
    match isa {
        Isa::Scalar => kernel.run(Scalar),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `Compute::cpu` refuses an instruction set that the machine lacks.
        Isa::Avx2 | Isa::AvxVnni => unsafe { avx2::run(kernel) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx512Vnni => unsafe { avx512::run(kernel) },
        #[cfg(not(target_arch = "x86_64"))]
        _ => kernel.run(Scalar),
    }
}

/// Plain Rust.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scalar;

#[inline(always)]
fn zip(a: [f32; LANES], b: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl Simd for Scalar {
    type V = [f32; LANES];

    const REGISTERS: usize = 0;

    #[inline(always)]
    fn splat(self, x: f32) -> [f32; LANES] {
        [x; LANES]
    }
    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> [f32; LANES] {
        *from
    }
    #[inline(always)]
    fn store(self, v: [f32; LANES], to: &mut [f32; LANES]) {
        *to = v;
    }
    #[inline(always)]
    fn load_f16(self, from: &[f16; LANES]) -> [f32; LANES] {
        from.map(f16::to_f32)
    }
    #[inline(always)]
    fn store_f16(self, v: [f32; LANES], to: &mut [f16; LANES]) {
        *to = v.map(f16::from_f32);
    }
    #[inline(always)]
    fn load_i8(self, from: &[u8; LANES]) -> [f32; LANES] {
        from.map(|x| f32::from(x.cast_signed()))
    }
    #[inline(always)]
    fn add(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn mul_add(self, a: [f32; LANES], b: [f32; LANES], c: [f32; LANES]) -> [f32; LANES] {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    fn max(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn zero_below(self, v: [f32; LANES], x: [f32; LANES], limit: [f32; LANES]) -> [f32; LANES] {
        std::array::from_fn(|i| if x[i] < limit[i] { 0.0 } else { v[i] })
    }
    #[inline(always)]
    fn half_exp2(self, magic: [f32; LANES]) -> [f32; LANES] {
        magic.map(|x| f32::from_bits((x.to_bits() << 23).wrapping_add(126 << 23)))
    }
    #[inline(always)]
    fn to_array(self, v: [f32; LANES]) -> [f32; LANES] {
        v
    }
    #[inline(always)]
    fn prefetch<T>(self, _: *const T) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Lanes<'a>(&'a mut [f32; LANES]);

    impl Kernel for Lanes<'_> {
        #[inline(always)]
        fn run<S: Simd>(self, simd: S) {
            simd.store(simd.exp(simd.load(self.0)), self.0);
        }
    }

    #[test]
    fn exp_is_within_two_units_of_the_last_place() {
        let mut rng = fastrand::Rng::with_seed(1);
        for isa in crate::testing::isas() {
            for round in 0..40_000 {
                let reach = if round % 2 == 0 { 86.5 } else { 1.0 };
                let x: [f32; LANES] = std::array::from_fn(|_| (rng.f32() * 2.0 - 1.0) * reach);
                let mut found = x;
                dispatch(isa, Lanes(&mut found));
                for (x, found) in x.iter().zip(found) {
                    let wanted = f64::from(*x).exp();
                    let ulp = f64::from((wanted as f32).next_up() - wanted as f32);
                    assert!((f64::from(found) - wanted).abs() <= 2.0 * ulp, "{isa:?}: e^{x} is {wanted}, not {found}");
                }
            }
        }
    }

    #[test]
    fn exp_has_the_right_edges() {
        for isa in crate::testing::isas() {
            let edges = [0.0, -0.0, f32::NEG_INFINITY, f32::INFINITY, -1e30, 1e30, 88.7, -87.0];
            let mut x: [f32; LANES] = std::array::from_fn(|i| edges[i % 8]);
            dispatch(isa, Lanes(&mut x));
            assert_eq!(x[..6], [1.0, 1.0, 0.0, f32::INFINITY, 0.0, f32::INFINITY]);
            assert!(x[6].is_finite() && x[7] < 2e-38, "{x:?}");
            let mut nan = [f32::NAN; LANES];
            dispatch(isa, Lanes(&mut nan));
            assert!(nan.iter().all(|x| x.is_nan()));
        }
    }
}
