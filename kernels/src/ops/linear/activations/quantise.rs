//! The numbers: f32 to int8 with one scale for each 32 values, alone or 256 together. Knows nothing of tiles.
#![expect(clippy::inline_always, reason = "what is not inlined is not compiled for the instruction set")]

use crate::formats::{CHUNK, SUPER};

use super::{BlockScale, ChunkScale};

/// An instruction set's way with 32 values.
pub(super) trait Numbers {
    /// The largest magnitude, NaN if there is one.
    ///
    /// # Safety
    /// The instruction set must be there.
    unsafe fn max(x: &[f32; CHUNK]) -> f32;

    /// Sets `values` to the integers nearest to `x * factor`, and returns the sums of either 16.
    ///
    /// # Safety
    /// The instruction set must be there.
    unsafe fn quantise(x: &[f32; CHUNK], factor: f32, values: &mut [u8; CHUNK]) -> [i32; 2];
}

/// `N` chunks of 32 values. One has a scale of its own, `max |x| / 127`. Eight share `d`: a chunk's scale is the
/// smallest of `d`, `2 d`, `4 d` and `8 d` that holds its values, `8 d` being `max |x| / 127` of all.
#[derive(Debug)]
pub(super) struct Chunks<const N: usize> {
    pub(super) values: [[u8; CHUNK]; N],
    pub(super) scales: [ChunkScale; N],
    /// The scale of all without the powers of two.
    d: f32,
    shifts: [i32; N],
    /// Sums of either 16 integers.
    half_sums: [[i32; 2]; N],
}

impl<const N: usize> Chunks<N> {
    /// The largest power of two between chunks' scales.
    const MAX_SHIFT: i32 = if N == 1 { 0 } else { 3 };

    /// Quantises `N * 32` values.
    ///
    /// # Safety
    /// The instruction set must be there.
    #[inline(always)]
    pub(super) unsafe fn new<I: Numbers>(x: &[f32]) -> Self {
        let (x, _) = x.as_chunks::<CHUNK>();
        let mut maxima = [0.0; N];
        for c in 0..N {
            // SAFETY: the caller's promise.
            maxima[c] = unsafe { I::max(&x[c]) };
        }
        // The bits of magnitudes order as the magnitudes do, with NaN above all.
        let most = f32::from_bits(maxima.iter().map(|max| max.to_bits()).max().unwrap_or(0));
        let (d, factor) = scale_and_factor(most, (127 << Self::MAX_SHIFT) as f32);
        let mut chunks = Self {
            values: [[0; CHUNK]; N],
            scales: [ChunkScale::default(); N],
            d,
            shifts: [0; N],
            half_sums: [[0; 2]; N],
        };
        for c in 0..N {
            let shift =
                (1..=Self::MAX_SHIFT).filter(|&s| maxima[c] > most * power_of_two(s - 1 - Self::MAX_SHIFT)).count();
            chunks.shifts[c] = shift as i32;
            let factor = factor * power_of_two(-chunks.shifts[c]);
            // SAFETY: the caller's promise.
            let half_sums = unsafe { I::quantise(&x[c], factor, &mut chunks.values[c]) };
            let (d, integer_sum) = (d * power_of_two(chunks.shifts[c]), half_sums[0] + half_sums[1]);
            chunks.scales[c] = ChunkScale { d, sum: d * integer_sum as f32, integer_sum };
            chunks.half_sums[c] = half_sums;
        }
        chunks
    }

    /// What rounding left of `x`.
    pub(super) fn left(&self, x: &[f32]) -> [[f32; CHUNK]; N] {
        let (x, _) = x.as_chunks::<CHUNK>();
        std::array::from_fn(|c| {
            std::array::from_fn(|i| x[c][i] - self.scales[c].d * f32::from(self.values[c][i].cast_signed()))
        })
    }
}

impl<const N: usize> Chunks<N> {
    /// What belongs to all of 8 chunks.
    #[inline(always)]
    pub(super) fn block(&self) -> BlockScale {
        const { assert!(N <= SUPER) }
        let mut block = BlockScale { d: self.d, ..BlockScale::default() };
        let sums = |c: usize| self.half_sums[c].map(|sum| sum << self.shifts[c]);
        for c in 0..N {
            block.shifts[c] = self.shifts[c];
            block.half_sums[c] = pair(sums(c));
        }
        for (i, pair_of_chunks) in block.chunk_sums.iter_mut().enumerate().take(N / 2) {
            *pair_of_chunks = pair([2 * i, 2 * i + 1].map(|c| sums(c).iter().sum()));
        }
        block
    }
}

/// Two numbers of 16 bits, the first in the low half. Sums of 32 integers times 8 fit: 32 * 128 * 8 = 2^15, below zero.
#[inline(always)]
fn pair([low, high]: [i32; 2]) -> i32 {
    low & 0xffff | high << 16
}

/// `2^n`.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits(((127 + n) as u32) << 23)
}

/// The scale of values whose largest magnitude `max` becomes `integer`, and the factor that takes values to integers.
#[inline(always)]
fn scale_and_factor(max: f32, integer: f32) -> (f32, f32) {
    let factor = integer / max;
    // Infinite for zeros (and magnitudes that vanish beside any weight); zero or NaN where `max` is not finite.
    if factor.is_infinite() { (0.0, 0.0) } else { (max / integer, factor) }
}

/// Without any instruction set.
pub(super) enum Plain {}

impl Numbers for Plain {
    unsafe fn max(x: &[f32; CHUNK]) -> f32 {
        f32::from_bits(x.iter().map(|x| x.abs().to_bits()).max().unwrap_or(0))
    }

    unsafe fn quantise(x: &[f32; CHUNK], factor: f32, values: &mut [u8; CHUNK]) -> [i32; 2] {
        *values = x.map(|x| ((x * factor).round_ties_even() as i8).cast_unsigned());
        let sum = |values: &[u8]| values.iter().map(|&v| i32::from(v.cast_signed())).sum();
        [sum(&values[..16]), sum(&values[16..])]
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2 {
    use std::arch::x86_64::{
        __m128i, _mm_add_epi32, _mm_cvtsi128_si32, _mm_max_epu32, _mm_shuffle_epi32, _mm256_and_si256,
        _mm256_castsi256_si128, _mm256_cvtps_epi32, _mm256_extracti128_si256, _mm256_loadu_ps, _mm256_loadu_si256,
        _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_max_epu32, _mm256_mul_ps, _mm256_packs_epi16,
        _mm256_packs_epi32, _mm256_permutevar8x32_epi32, _mm256_set1_epi8, _mm256_set1_epi16, _mm256_set1_epi32,
        _mm256_set1_ps, _mm256_setr_epi32, _mm256_setzero_si256, _mm256_storeu_si256,
    };

    use super::{CHUNK, Numbers};

    pub(in crate::ops::linear::activations) enum Avx2 {}

    impl Numbers for Avx2 {
        #[inline(always)]
        unsafe fn max(x: &[f32; CHUNK]) -> f32 {
            // SAFETY: all loads are inside the array.
            unsafe {
                let mut bits = [_mm256_set1_epi32(i32::MAX); 4];
                for (i, bits) in bits.iter_mut().enumerate() {
                    *bits = _mm256_and_si256(*bits, _mm256_loadu_si256(x.as_ptr().add(i * 8).cast()));
                }
                let max = _mm256_max_epu32(_mm256_max_epu32(bits[0], bits[1]), _mm256_max_epu32(bits[2], bits[3]));
                let max = _mm_max_epu32(_mm256_castsi256_si128(max), _mm256_extracti128_si256::<1>(max));
                let max = _mm_max_epu32(max, _mm_shuffle_epi32::<0b01_00_11_10>(max));
                let max = _mm_max_epu32(max, _mm_shuffle_epi32::<0b10_11_00_01>(max));
                f32::from_bits(_mm_cvtsi128_si32(max) as u32)
            }
        }

        #[inline(always)]
        unsafe fn quantise(x: &[f32; CHUNK], factor: f32, values: &mut [u8; CHUNK]) -> [i32; 2] {
            // SAFETY: all loads and stores are inside the arrays.
            unsafe {
                let factor = _mm256_set1_ps(factor);
                let mut q = [_mm256_setzero_si256(); 4];
                for (i, q) in q.iter_mut().enumerate() {
                    *q = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x.as_ptr().add(i * 8)), factor));
                }
                let q = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
                let q = _mm256_permutevar8x32_epi32(q, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
                _mm256_storeu_si256(values.as_mut_ptr().cast(), q);
                let sums = _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_set1_epi8(1), q), _mm256_set1_epi16(1));
                [sum4(_mm256_castsi256_si128(sums)), sum4(_mm256_extracti128_si256::<1>(sums))]
            }
        }
    }

    /// # Safety
    /// SSE2, which every machine of this kind has.
    #[inline(always)]
    unsafe fn sum4(v: __m128i) -> i32 {
        // SAFETY: the caller's promise.
        unsafe {
            let v = _mm_add_epi32(v, _mm_shuffle_epi32::<0b01_00_11_10>(v));
            _mm_cvtsi128_si32(_mm_add_epi32(v, _mm_shuffle_epi32::<0b10_11_00_01>(v)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    /// Chunks of any size beside each other, some of zeros.
    fn values(rng: &mut fastrand::Rng) -> Vec<f32> {
        let chunk = |rng: &mut fastrand::Rng| {
            let size = *rng.choice(&[0.0, 1e-30, 1e-3, 0.1, 0.3, 1.0, 1.0, 1e6]).unwrap_or(&1.0);
            std::array::from_fn::<f32, CHUNK, _>(|_| (rng.f32() * 2.0 - 1.0) * size)
        };
        (0..SUPER).flat_map(|_| chunk(rng)).collect()
    }

    fn check<const N: usize>(x: &[f32], chunks: &Chunks<N>) {
        let most = x.iter().fold(0.0, |most: f32, x| most.max(x.abs()));
        for (c, (x, left)) in x.as_chunks::<CHUNK>().0.iter().zip(chunks.left(x)).enumerate() {
            let d = chunks.scales[c].d;
            assert_eq!(d.to_bits(), (chunks.d * power_of_two(chunks.shifts[c])).to_bits());
            assert!(left.iter().all(|left| left.abs() <= d * 0.5001), "{x:?} leaves {left:?} with {d}");
            let own = x.iter().fold(0.0, |most: f32, x| most.max(x.abs())) / 127.0;
            let largest = if N == 1 { own } else { (2.0 * own).max(most / 1016.0) };
            assert!(d <= largest * 1.0001, "{d} where {largest} would do");
            let integers = chunks.values[c].map(|v| i32::from(v.cast_signed()));
            assert_eq!(chunks.scales[c].integer_sum, integers.iter().sum::<i32>());
            if N == SUPER {
                let block = chunks.block();
                let of = |integers: &[i32]| (integers.iter().sum::<i32>() << block.shifts[c]) as i16;
                assert_eq!(block.sums(2)[c], pair([of(&integers[..16]), of(&integers[16..])].map(i32::from)));
                assert_eq!((block.sums(1)[c / 2] >> (c % 2 * 16)) as i16, of(&integers));
            }
        }
    }

    #[test]
    fn values_are_within_half_a_step_of_a_scale_that_is_no_larger_than_needed() {
        let mut rng = fastrand::Rng::with_seed(12);
        for _ in 0..2000 {
            let x = values(&mut rng);
            // SAFETY: needs nothing.
            let (one, eight) = unsafe { (Chunks::<1>::new::<Plain>(&x[..CHUNK]), Chunks::<SUPER>::new::<Plain>(&x)) };
            check(&x[..CHUNK], &one);
            check(&x, &eight);
            #[cfg(target_arch = "x86_64")]
            if Isa::Avx2.is_available() {
                // SAFETY: just detected.
                let same = unsafe { Chunks::<SUPER>::new::<avx2::Avx2>(&x) };
                assert_eq!((same.values, same.shifts, same.half_sums), (eight.values, eight.shifts, eight.half_sums));
                assert_eq!(same.d.to_bits(), eight.d.to_bits());
            }
        }
    }
}
