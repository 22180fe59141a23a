//! What the tests of several operations share: handles, random weights.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub(crate) mod avx_vnni;

use half::{bf16, f16};

use crate::{Activations, Compute, ComputeOptions, GgmlType, Isa};

/// A handle with int8 activations.
pub(crate) fn compute(threads: usize, isa: Option<Isa>) -> Compute {
    Compute::cpu(ComputeOptions { threads, isa, activations: Activations::Int8 }).unwrap()
}

/// A handle of one of [`isas_and_emulated`].
pub(crate) fn compute_with(threads: usize, isa: Isa, activations: Activations) -> Compute {
    Compute::with_isa(isa, ComputeOptions { threads, isa: None, activations }).unwrap()
}

const ISAS: [Isa; 4] = [Isa::Scalar, Isa::Avx2, Isa::AvxVnni, Isa::Avx512Vnni];

/// Every instruction set that this machine has.
pub(crate) fn isas() -> Vec<Isa> {
    ISAS.into_iter().filter(|isa| isa.is_available()).collect()
}

/// The same and AVX-VNNI, which any machine with AVX2 can carry out.
pub(crate) fn isas_and_emulated() -> Vec<Isa> {
    ISAS.into_iter().filter(|&isa| isa.is_available() || emulate(isa)).collect()
}

/// Has the process carry out what the machine lacks, where it can.
fn emulate(isa: Isa) -> bool {
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    if isa == Isa::AvxVnni && Isa::Avx2.is_available() {
        avx_vnni::install();
        return true;
    }
    false
}

/// Where a block of a quantised type has its f16 scales.
pub(crate) fn scale_places(ggml_type: GgmlType) -> &'static [usize] {
    match ggml_type {
        GgmlType::F32 | GgmlType::F16 | GgmlType::BF16 => &[],
        GgmlType::Q4_0 | GgmlType::Q5_0 | GgmlType::Q8_0 | GgmlType::IQ4_NL | GgmlType::IQ4_XS => &[0],
        GgmlType::Q4_1 | GgmlType::Q5_1 | GgmlType::Q4_K | GgmlType::Q5_K => &[0, 2],
        GgmlType::Q2_K => &[80, 82],
        GgmlType::Q3_K => &[108],
        GgmlType::Q6_K => &[208],
    }
}

/// GGUF bytes of `len` random elements: any integers, block scales of either sign around 0.01.
pub(crate) fn random_blocks(rng: &mut fastrand::Rng, ggml_type: GgmlType, len: usize) -> Vec<u8> {
    let block_bytes = ggml_type.block_bytes();
    let mut bytes: Vec<u8> =
        std::iter::repeat_with(|| rng.u8(..)).take(len / ggml_type.block_len() * block_bytes).collect();
    for block in bytes.chunks_exact_mut(block_bytes) {
        match ggml_type {
            GgmlType::F32 => block.copy_from_slice(&(rng.f32() - 0.5).to_le_bytes()),
            GgmlType::F16 => block.copy_from_slice(&f16::from_f32(rng.f32() - 0.5).to_le_bytes()),
            GgmlType::BF16 => block.copy_from_slice(&bf16::from_f32(rng.f32() - 0.5).to_le_bytes()),
            _ => {
                for &at in scale_places(ggml_type) {
                    let scale = f16::from_f32((rng.f32() - 0.3) * 0.02);
                    block[at..at + 2].copy_from_slice(&scale.to_le_bytes());
                }
            }
        }
    }
    bytes
}

/// `len` values around 0 of standard deviation near `scale`.
pub(crate) fn normal_rows(rng: &mut fastrand::Rng, len: usize, scale: f32) -> Vec<f32> {
    (0..len).map(|_| (rng.f32() + rng.f32() + rng.f32() - 1.5) * 2.0 * scale).collect()
}
