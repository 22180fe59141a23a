//! What the tests of several operations share: handles, random weights.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use half::{bf16, f16};

use crate::{Activations, Compute, ComputeOptions, GgmlType, Isa};

/// A handle with int8 activations.
pub(crate) fn compute(threads: usize, isa: Option<Isa>) -> Compute {
    Compute::cpu(ComputeOptions { threads, isa, activations: Activations::Int8 }).unwrap()
}

/// Every instruction set that this machine has.
pub(crate) fn isas() -> Vec<Isa> {
    [Isa::Scalar, Isa::Avx2, Isa::Avx512Vnni].into_iter().filter(|&isa| isa <= Isa::detect()).collect()
}

/// GGUF bytes of `len` random elements: any integers, block scales of either sign around 0.01.
pub(crate) fn random_blocks(rng: &mut fastrand::Rng, ggml_type: GgmlType, len: usize) -> Vec<u8> {
    let block_bytes = ggml_type.block_bytes();
    let mut bytes: Vec<u8> =
        std::iter::repeat_with(|| rng.u8(..)).take(len / ggml_type.block_len() * block_bytes).collect();
    for block in bytes.chunks_exact_mut(block_bytes) {
        let mut scale = |at: usize| {
            let value = f16::from_f32((rng.f32() - 0.3) * 0.02);
            block[at..at + 2].copy_from_slice(&value.to_le_bytes());
        };
        match ggml_type {
            GgmlType::Q4_1 | GgmlType::Q5_1 | GgmlType::Q4_K | GgmlType::Q5_K => {
                scale(0);
                scale(2);
            }
            GgmlType::Q4_0 | GgmlType::Q5_0 | GgmlType::Q8_0 | GgmlType::IQ4_NL | GgmlType::IQ4_XS => scale(0),
            GgmlType::Q2_K => {
                scale(80);
                scale(82);
            }
            GgmlType::Q3_K => scale(108),
            GgmlType::Q6_K => scale(208),
            GgmlType::F32 => block.copy_from_slice(&(rng.f32() - 0.5).to_le_bytes()),
            GgmlType::F16 => block.copy_from_slice(&f16::from_f32(rng.f32() - 0.5).to_le_bytes()),
            GgmlType::BF16 => block.copy_from_slice(&bf16::from_f32(rng.f32() - 0.5).to_le_bytes()),
        }
    }
    bytes
}

/// `len` values around 0 of standard deviation near `scale`.
pub(crate) fn normal_rows(rng: &mut fastrand::Rng, len: usize, scale: f32) -> Vec<f32> {
    (0..len).map(|_| (rng.f32() + rng.f32() + rng.f32() - 1.5) * 2.0 * scale).collect()
}
