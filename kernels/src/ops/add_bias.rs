//! A bias added to every row (Qwen2's q, k and v).

use candle_core::{CpuStorage, InplaceOp2, Layout, Tensor};

use crate::{Compute, Result, rows};

impl Compute {
    /// `x[i] += bias` for every row. `x`: f32 `(num_tokens, n)`; `bias`: f32 `(n)`.
    pub fn add_bias(&self, x: &Tensor, bias: &Tensor) -> Result<()> {
        let (num_tokens, columns) = rows::matrix("add_bias", "x", x)?;
        rows::expect("add_bias", "bias", bias, &[columns])?;
        if num_tokens == 0 || columns == 0 {
            return Ok(());
        }
        if let Some(gpu) = self.gpu() {
            return gpu.add_bias(x, bias);
        }
        Ok(x.inplace_op2(bias, &AddBias { compute: self })?)
    }
}

struct AddBias<'a> {
    compute: &'a Compute,
}

impl InplaceOp2 for AddBias<'_> {
    fn name(&self) -> &'static str {
        "add_bias"
    }

    fn cpu_fwd(
        &self,
        x: &mut CpuStorage,
        x_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> candle_core::Result<()> {
        let bias = rows::f32s(bias, bias_layout)?;
        self.compute.for_each_row(rows::f32s_mut(x, x_layout)?, bias.len(), |_, row| {
            for (x, bias) in row.iter_mut().zip(bias) {
                *x += bias;
            }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use candle_core::{Device, Tensor};

    use crate::testing::{compute, normal_rows};

    #[test]
    fn every_row_gets_the_bias() {
        let mut rng = fastrand::Rng::with_seed(1);
        for (num_tokens, columns) in [(1, 3), (50, 960)] {
            let before = normal_rows(&mut rng, num_tokens * columns, 1.0);
            let bias = normal_rows(&mut rng, columns, 1.0);
            let x = Tensor::from_slice(&before, (num_tokens, columns), &Device::Cpu).unwrap();
            compute(2, None).add_bias(&x, &Tensor::from_slice(&bias, columns, &Device::Cpu).unwrap()).unwrap();
            let wanted: Vec<f32> = before.iter().enumerate().map(|(i, x)| x + bias[i % columns]).collect();
            assert_eq!(x.flatten_all().unwrap().to_vec1::<f32>().unwrap(), wanted);
            assert!(compute(1, None).add_bias(&x, &Tensor::from_slice(&[0f32; 2], 2, &Device::Cpu).unwrap()).is_err());
        }
    }
}
