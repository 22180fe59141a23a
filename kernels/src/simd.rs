//! Eight f32 lanes at a time, for whatever instruction set was chosen at run time: an operation is written once over
//! [`Simd`] and compiled for each implementation by [`dispatch`]. Must not know any operation.
//!
//! Everything generic over `Simd` has to be inlined into the function that enables the instruction set: loops, and no
//! closures over lanes, which are compiled without it.
#![expect(clippy::inline_always, reason = "a lane operation that is not inlined loses its instruction set")]

use half::f16;

use crate::Isa;

/// Eight f32 lanes. Every method is lane by lane, so that a value does not depend on its lane.
pub(crate) trait Simd: Copy {
    /// Eight lanes.
    type V: Copy;

    fn splat(self, x: f32) -> Self::V;
    fn load(self, from: &[f32; 8]) -> Self::V;
    fn store(self, v: Self::V, to: &mut [f32; 8]);
    fn load_f16(self, from: &[f16; 8]) -> Self::V;
    /// Rounds to nearest, ties to even.
    fn store_f16(self, v: Self::V, to: &mut [f16; 8]);
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
    fn to_array(self, v: Self::V) -> [f32; 8];

    /// The sum of all lanes, in a fixed order.
    #[inline(always)]
    fn sum(self, v: Self::V) -> f32 {
        let x = self.to_array(v);
        ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]))
    }

    /// The largest lane; NaN lanes may be passed over.
    #[inline(always)]
    fn max_lane(self, v: Self::V) -> f32 {
        let x = self.to_array(v);
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
        _ => unsafe { avx2::run(kernel) },
        #[cfg(not(target_arch = "x86_64"))]
        _ => kernel.run(Scalar),
    }
}

/// Plain Rust.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scalar;

#[inline(always)]
fn zip(a: [f32; 8], b: [f32; 8], f: impl Fn(f32, f32) -> f32) -> [f32; 8] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl Simd for Scalar {
    type V = [f32; 8];

    #[inline(always)]
    fn splat(self, x: f32) -> [f32; 8] {
        [x; 8]
    }
    #[inline(always)]
    fn load(self, from: &[f32; 8]) -> [f32; 8] {
        *from
    }
    #[inline(always)]
    fn store(self, v: [f32; 8], to: &mut [f32; 8]) {
        *to = v;
    }
    #[inline(always)]
    fn load_f16(self, from: &[f16; 8]) -> [f32; 8] {
        from.map(f16::to_f32)
    }
    #[inline(always)]
    fn store_f16(self, v: [f32; 8], to: &mut [f16; 8]) {
        *to = v.map(f16::from_f32);
    }
    #[inline(always)]
    fn add(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn mul_add(self, a: [f32; 8], b: [f32; 8], c: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    fn max(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn zero_below(self, v: [f32; 8], x: [f32; 8], limit: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| if x[i] < limit[i] { 0.0 } else { v[i] })
    }
    #[inline(always)]
    fn half_exp2(self, magic: [f32; 8]) -> [f32; 8] {
        magic.map(|x| f32::from_bits((x.to_bits() << 23).wrapping_add(126 << 23)))
    }
    #[inline(always)]
    fn to_array(self, v: [f32; 8]) -> [f32; 8] {
        v
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        __m256, _CMP_LT_OQ, _MM_FROUND_TO_NEAREST_INT, _mm_loadu_si128, _mm_storeu_si128, _mm256_add_epi32,
        _mm256_add_ps, _mm256_andnot_ps, _mm256_castps_si256, _mm256_castsi256_ps, _mm256_cmp_ps, _mm256_cvtph_ps,
        _mm256_cvtps_ph, _mm256_div_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_max_ps, _mm256_min_ps, _mm256_mul_ps,
        _mm256_set1_epi32, _mm256_set1_ps, _mm256_slli_epi32, _mm256_storeu_ps, _mm256_sub_ps,
    };

    use half::f16;

    use super::{Kernel, Simd};

    /// Proof that the machine has AVX2, FMA and F16C.
    #[derive(Debug, Clone, Copy)]
    struct Avx2(());

    /// Compiles the kernel for AVX2.
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn run<K: Kernel>(kernel: K) {
        kernel.run(Avx2(()));
    }

    // SAFETY (all blocks here): an `Avx2` exists only inside `run`, whose callers proved the features; loads and stores
    // are unaligned and inside the arrays they are given.
    #[expect(clippy::undocumented_unsafe_blocks, reason = "the proof is the same for every lane operation: see above")]
    impl Simd for Avx2 {
        type V = __m256;

        #[inline(always)]
        fn splat(self, x: f32) -> __m256 {
            unsafe { _mm256_set1_ps(x) }
        }
        #[inline(always)]
        fn load(self, from: &[f32; 8]) -> __m256 {
            unsafe { _mm256_loadu_ps(from.as_ptr()) }
        }
        #[inline(always)]
        fn store(self, v: __m256, to: &mut [f32; 8]) {
            unsafe { _mm256_storeu_ps(to.as_mut_ptr(), v) }
        }
        #[inline(always)]
        fn load_f16(self, from: &[f16; 8]) -> __m256 {
            unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().cast())) }
        }
        #[inline(always)]
        fn store_f16(self, v: __m256, to: &mut [f16; 8]) {
            unsafe {
                _mm_storeu_si128(to.as_mut_ptr().cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v));
            }
        }
        #[inline(always)]
        fn add(self, a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_add_ps(a, b) }
        }
        #[inline(always)]
        fn sub(self, a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_sub_ps(a, b) }
        }
        #[inline(always)]
        fn mul(self, a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_mul_ps(a, b) }
        }
        #[inline(always)]
        fn div(self, a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_div_ps(a, b) }
        }
        #[inline(always)]
        fn mul_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
            unsafe { _mm256_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        fn max(self, a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_max_ps(a, b) }
        }
        #[inline(always)]
        fn min(self, a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_min_ps(a, b) }
        }
        #[inline(always)]
        fn zero_below(self, v: __m256, x: __m256, limit: __m256) -> __m256 {
            unsafe { _mm256_andnot_ps(_mm256_cmp_ps::<_CMP_LT_OQ>(x, limit), v) }
        }
        #[inline(always)]
        fn half_exp2(self, magic: __m256) -> __m256 {
            unsafe {
                let n = _mm256_slli_epi32::<23>(_mm256_castps_si256(magic));
                _mm256_castsi256_ps(_mm256_add_epi32(n, _mm256_set1_epi32(126 << 23)))
            }
        }
        #[inline(always)]
        fn to_array(self, v: __m256) -> [f32; 8] {
            let mut lanes = [0.0; 8];
            self.store(v, &mut lanes);
            lanes
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Lanes<'a>(&'a mut [f32; 8]);

    impl Kernel for Lanes<'_> {
        #[inline(always)]
        fn run<S: Simd>(self, simd: S) {
            simd.store(simd.exp(simd.load(self.0)), self.0);
        }
    }

    #[test]
    fn exp_is_within_two_units_of_the_last_place() {
        let mut rng = fastrand::Rng::with_seed(1);
        for isa in [Isa::Scalar, Isa::detect()] {
            for round in 0..40_000 {
                let reach = if round % 2 == 0 { 86.5 } else { 1.0 };
                let x: [f32; 8] = std::array::from_fn(|_| (rng.f32() * 2.0 - 1.0) * reach);
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
        for isa in [Isa::Scalar, Isa::detect()] {
            let mut x = [0.0, -0.0, f32::NEG_INFINITY, f32::INFINITY, -1e30, 1e30, 88.7, -87.0];
            dispatch(isa, Lanes(&mut x));
            assert_eq!(x[..6], [1.0, 1.0, 0.0, f32::INFINITY, 0.0, f32::INFINITY]);
            assert!(x[6].is_finite() && x[7] < 2e-38, "{x:?}");
            let mut nan = [f32::NAN; 8];
            dispatch(isa, Lanes(&mut nan));
            assert!(nan.iter().all(|x| x.is_nan()));
        }
    }
}
