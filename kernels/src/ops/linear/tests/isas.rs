//! Every instruction set against the plain kernels, which give the same bits: odd shapes, weights of any bytes,
//! activations that overflow, vanish or are no numbers.

use candle_core::{Device, Tensor};

use crate::testing::{compute_with, isas_and_emulated, random_blocks, scale_places};
use crate::{Activations, Compute, GgmlType, Isa, Operand, PackedMatrix};

/// Scales of blocks that arithmetic may stumble over, as f16: zeros, the smallest and the largest, infinities, NaN.
const SCALES: [u16; 9] = [0x0000, 0x8000, 0x0001, 0x8001, 0x7bff, 0xfbff, 0x7c00, 0xfc00, 0x7e00];

/// GGUF bytes of `len` elements: sound ones, any bytes at all, or the largest and smallest integers under odd scales.
fn blocks(rng: &mut fastrand::Rng, ggml_type: GgmlType, len: usize) -> Vec<u8> {
    let mut bytes = random_blocks(rng, ggml_type, len);
    match rng.u8(..3) {
        0 => {}
        1 => rng.fill(&mut bytes),
        _ => {
            let fill = *rng.choice(&[0x00, 0x7f, 0x80, 0xff]).unwrap();
            for block in bytes.chunks_exact_mut(ggml_type.block_bytes()) {
                block.fill(fill);
                for &at in scale_places(ggml_type) {
                    block[at..at + 2].copy_from_slice(&rng.choice(SCALES).unwrap().to_le_bytes());
                }
            }
        }
    }
    bytes
}

/// One to three parts, the others of any type.
fn matrix(rng: &mut fastrand::Rng, plain: &Compute, ggml_type: GgmlType) -> PackedMatrix {
    let mut types = vec![ggml_type];
    types.extend((0..rng.usize(..3)).map(|_| *rng.choice(&GgmlType::ALL).unwrap()));
    let block_len = types.iter().map(|t| t.block_len()).max().unwrap();
    let columns = if block_len == 1 { rng.usize(1..600) } else { block_len * rng.usize(1..4) };
    let parts = types.into_iter().map(|ggml_type| {
        let rows = rng.usize(1..=20);
        PackedMatrix::pack(plain, ggml_type, rows, columns, &blocks(rng, ggml_type, rows * columns)).unwrap()
    });
    let stacked = PackedMatrix::stack(parts.collect()).unwrap();
    if rng.bool() { stacked.with_precise_activations() } else { stacked }
}

/// Rows of activations, each of one size, some with one value that is none.
fn activations(rng: &mut fastrand::Rng, tokens: usize, columns: usize) -> Vec<f32> {
    let row = |rng: &mut fastrand::Rng| {
        let scale = *rng.choice(&[1.0, 1.0, 0.0, 1e-45, 1e-20, 1e6, f32::MAX]).unwrap();
        let mut row: Vec<f32> = (0..columns).map(|_| (rng.f32() * 2.0 - 1.0) * scale).collect();
        if rng.u8(..4) == 0 {
            row[rng.usize(..columns)] = *rng.choice(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX]).unwrap();
        }
        row
    };
    (0..tokens).flat_map(|_| row(rng)).collect()
}

/// The bits of `x · Wᵀ`, added to itself; all that is no finite number is alike, as are zeros.
fn bits(compute: &Compute, weight: &PackedMatrix, x: &[f32]) -> Vec<u32> {
    let tokens = x.len() / weight.columns();
    let x = Tensor::from_slice(x, (tokens, weight.columns()), &Device::Cpu).unwrap();
    let out = Tensor::full(f32::NAN, (tokens, weight.rows()), &Device::Cpu).unwrap();
    compute.linear(weight, Operand::Rows(&x), &out).unwrap();
    let out = compute.residual(out).unwrap();
    compute.linear_add(weight, Operand::Rows(&x), &out, None).unwrap();
    let out = out.rows().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    out.into_iter().map(|v| if v.is_finite() { v + 0.0 } else { f32::NAN }.to_bits()).collect()
}

#[test]
fn every_instruction_set_gives_the_plain_kernels_bits() {
    let mut rng = fastrand::Rng::with_seed(11);
    for isa in isas_and_emulated() {
        // Every instruction that is emulated is a signal.
        let (cases, most_tokens) = match isa {
            Isa::Scalar => (0, 0),
            _ if isa.is_available() => (6, 70),
            _ => (2, 13),
        };
        for precision in [Activations::Int8, Activations::F32] {
            let [plain, computes @ ..] =
                [(Isa::Scalar, 2), (isa, 1), (isa, 2)].map(|(isa, threads)| compute_with(threads, isa, precision));
            for (case, ggml_type) in (0..cases).flat_map(|case| GgmlType::ALL.map(|t| (case, t))) {
                let weight = matrix(&mut rng, &plain, ggml_type);
                let tokens = rng.usize(1..=most_tokens);
                let x = activations(&mut rng, tokens, weight.columns());
                let expected = bits(&plain, &weight, &x);
                for compute in &computes {
                    let (rows, columns, name) = (weight.rows(), weight.columns(), ggml_type.name());
                    let what = format!("{name} ({rows}, {columns}), {tokens} tokens, {isa:?}, case {case}");
                    assert!(bits(compute, &weight, &x) == expected, "{what}");
                }
            }
        }
    }
}
