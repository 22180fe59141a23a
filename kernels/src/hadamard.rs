//! The Walsh-Hadamard transform, which spreads a few large elements over all: rows survive rounding to bytes better, and
//! products of two rows stay what they were (`QuaRot`, Ashkboos et al., 2024).
#![expect(clippy::inline_always, reason = "whatever is not inlined into the kernel loses its instruction set")]

use crate::simd::LANES;

/// Longest part of a row that is transformed by itself.
const MAX_WIDTH: usize = 128;

/// Transforms a row in place, without its factor: twice gives the row times [`width`].
#[inline(always)]
pub(crate) fn hadamard(row: &mut [f32]) {
    let width = width(row.len());
    for part in row.chunks_exact_mut(width) {
        let mut half = width / 2;
        while half >= LANES || (half > 0 && width < LANES) {
            for pair in part.chunks_exact_mut(2 * half) {
                let (low, high) = pair.split_at_mut(half);
                for (x, y) in low.iter_mut().zip(high) {
                    (*x, *y) = (*x + *y, *x - *y);
                }
            }
            half /= 2;
        }
        for lanes in part.as_chunks_mut::<LANES>().0 {
            *lanes = stage::<1>(stage::<2>(stage::<4>(stage::<8>(*lanes))));
        }
    }
}

/// Sums and differences of elements `HALF` apart.
#[inline(always)]
fn stage<const HALF: usize>(lanes: [f32; LANES]) -> [f32; LANES] {
    let mut out = [0.0; LANES];
    for i in 0..LANES {
        let sign = if i & HALF == 0 { 1.0 } else { -1.0 };
        out[i] = lanes[i] * sign + lanes[i ^ HALF];
    }
    out
}

/// Elements that are transformed together in rows of `len`: a power of two that divides it.
pub(crate) fn width(len: usize) -> usize {
    (1 << len.trailing_zeros()).min(MAX_WIDTH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::normal_rows;

    #[test]
    fn products_stay_and_large_elements_spread() {
        let mut rng = fastrand::Rng::with_seed(1);
        for len in [2, 20, 64, 80, 96, 128, 256] {
            let (mut a, mut b) = (normal_rows(&mut rng, len, 1.0), normal_rows(&mut rng, len, 1.0));
            a[len / 2] = 100.0;
            let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
            let wanted = product(&a, &b);
            hadamard(&mut a);
            hadamard(&mut b);
            let found = product(&a, &b) / width(len) as f64;
            assert!((found - wanted).abs() <= 1e-4 * wanted.abs().max(10.0), "{len}: {found} is not {wanted}");
            let part = &a[len / 2 / width(len) * width(len)..][..width(len)];
            assert!(part.iter().all(|x| (50.0..150.0).contains(&x.abs())), "{len}: {part:?}");
        }
    }
}
