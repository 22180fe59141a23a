//! Root-mean-square norm (Zhang & Sennrich, 2019): `x / sqrt(mean(x²) + eps) * weight`, of rows on their way into a
//! product and of single heads.

use candle_core::{CpuStorage, InplaceOp2, Layout, Tensor};

use crate::{Compute, Error, Result, rows};

impl Compute {
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
        if let Some(gpu) = self.gpu() {
            return gpu.head_norm(x, first_head, num_heads, weight, eps);
        }
        let heads = first_head * head_dim..(first_head + num_heads) * head_dim;
        Ok(x.inplace_op2(weight, &HeadNorm { compute: self, columns, heads, eps })?)
    }
}

/// The norm of one row: `out = x / sqrt(mean(x²) + eps) * weight`.
pub(crate) fn norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let factor = inverse_rms(x, eps);
    for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
        *out = x * factor * weight;
    }
}

struct HeadNorm<'a> {
    compute: &'a Compute,
    columns: usize,
    heads: std::ops::Range<usize>,
    eps: f32,
}

impl InplaceOp2 for HeadNorm<'_> {
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
        self.compute.for_each_row(rows::f32s_mut(x, x_layout)?, self.columns, |_, row| {
            for head in row[self.heads.clone()].chunks_exact_mut(weight.len()) {
                let factor = inverse_rms(head, self.eps);
                for (x, weight) in head.iter_mut().zip(weight) {
                    *x = *x * factor * weight;
                }
            }
        });
        Ok(())
    }
}

/// `1 / sqrt(mean(x²) + eps)`. Squares are summed in 16 lanes, which the compiler keeps in vectors.
fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    let (chunks, rest) = x.as_chunks::<16>();
    let mut sums = [0.0; 16];
    for chunk in chunks {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            *sum += x * x;
        }
    }
    for (sum, x) in sums.iter_mut().zip(rest) {
        *sum += x * x;
    }
    let sum: f32 = sums.iter().sum();
    1.0 / (sum / x.len() as f32 + eps).sqrt()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use candle_core::{DType, Device, Tensor};

    use super::norm;
    use crate::testing::{compute, normal_rows};

    fn reference(x: &[f32], weight: &[f32], eps: f32) -> Vec<f64> {
        let mean = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / x.len() as f64;
        let factor = 1.0 / (mean + f64::from(eps)).sqrt();
        x.iter().zip(weight).map(|(x, weight)| f64::from(*x) * factor * f64::from(*weight)).collect()
    }

    #[test]
    fn rows_agree_with_f64() {
        let mut rng = fastrand::Rng::with_seed(1);
        for (len, scale) in [(1, 1.0), (7, 1e-4), (576, 1.0), (4096, 1e15), (1000, 0.0)] {
            let (x, weight) = (normal_rows(&mut rng, len, scale), normal_rows(&mut rng, len, 1.0));
            let mut out = vec![f32::NAN; len];
            norm(&x, &weight, 1e-5, &mut out);
            for (found, wanted) in out.iter().zip(reference(&x, &weight, 1e-5)) {
                assert!((f64::from(*found) - wanted).abs() <= 1e-6 * wanted.abs(), "{found} is not {wanted}");
            }
        }
    }

    #[test]
    fn heads_are_normed_in_place_and_the_others_left_alone() {
        let mut rng = fastrand::Rng::with_seed(2);
        for (num_tokens, heads, head_dim, range) in [(2, 5, 20, 1..3), (70, 6, 64, 0..6), (1, 3, 128, 2..3)] {
            let before = normal_rows(&mut rng, num_tokens * heads * head_dim, 1.0);
            let weight = normal_rows(&mut rng, head_dim, 1.0);
            let x = Tensor::from_slice(&before, (num_tokens, heads * head_dim), &Device::Cpu).unwrap();
            let weights = Tensor::from_slice(&weight, head_dim, &Device::Cpu).unwrap();
            compute(2, None).head_norm(&x, range.start, range.len(), &weights, 1e-6).unwrap();
            let after = x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            for (i, (before, after)) in before.chunks_exact(head_dim).zip(after.chunks_exact(head_dim)).enumerate() {
                if !range.contains(&(i % heads)) {
                    assert_eq!(before, after);
                    continue;
                }
                for (found, wanted) in after.iter().zip(reference(before, &weight, 1e-6)) {
                    assert!((f64::from(*found) - wanted).abs() <= 1e-6 * wanted.abs(), "{found} is not {wanted}");
                }
            }
        }
    }

    #[test]
    fn wrong_shapes_are_errors() {
        let compute = compute(1, None);
        let zeros = |dims: &[usize]| Tensor::zeros(dims, DType::F32, &Device::Cpu).unwrap();
        assert!(compute.head_norm(&zeros(&[2, 8]), 1, 2, &zeros(&[4]), 1e-5).is_err());
        assert!(compute.head_norm(&zeros(&[2, 8]), 0, 1, &zeros(&[3]), 1e-5).is_err());
        assert!(compute.head_norm(&zeros(&[2, 8]), usize::MAX, 1, &zeros(&[4]), 1e-5).is_err());
        assert!(compute.head_norm(&zeros(&[2, 8]), 0, 1, &zeros(&[0]), 1e-5).is_err());
    }
}
