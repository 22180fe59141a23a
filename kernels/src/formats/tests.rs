//! Packing and dequantising against Candle's own dequantisation of the same bytes.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{DType, Device, Tensor};

use crate::testing::{compute, random_blocks};
use crate::{GgmlType, PackedMatrix, StepRows, dequantise};

/// Candle's values of a `(rows, columns)` tensor of GGUF bytes.
fn candle_values(dtype: GgmlDType, rows: usize, columns: usize, bytes: &[u8]) -> Vec<f32> {
    let storage = QStorage::from_data(bytes.to_vec().into(), &Device::Cpu, dtype).unwrap();
    let tensor = QTensor::new(storage, (rows, columns)).unwrap().dequantize(&Device::Cpu).unwrap();
    tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap()
}

#[test]
fn dequantised_rows_equal_candles() {
    let mut rng = fastrand::Rng::with_seed(1);
    let compute = compute(1, None);
    for ggml_type in GgmlType::ALL {
        for (rows, columns) in [(1, 1), (3, 2), (8, 3), (19, 1)] {
            let columns = columns * ggml_type.block_len();
            let bytes = random_blocks(&mut rng, ggml_type, rows * columns);
            let table = PackedMatrix::pack(&compute, ggml_type, rows, columns, &bytes).unwrap();
            let ids: Vec<u32> = (0..rows as u32).rev().collect();
            let out = Tensor::zeros((rows, columns), DType::F32, &Device::Cpu).unwrap();
            compute.embed(&table, &StepRows::new(&ids, &[]), None, &out).unwrap();
            let expected = match ggml_type.candle() {
                Some(dtype) => candle_values(dtype, rows, columns, &bytes),
                None => dequantise(ggml_type, &bytes),
            };
            let out = out.to_vec2::<f32>().unwrap();
            for (row, values) in out.iter().rev().zip(expected.chunks(columns)) {
                assert_eq!(row, values, "{}", ggml_type.name());
            }
        }
    }
}

/// `scripts/golden-blocks` made the file with ggml's own Python package.
#[test]
fn blocks_have_ggmls_values() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/blocks.safetensors");
    let golden = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    for ggml_type in GgmlType::ALL {
        let get = |what| golden[&format!("{}.{what}", ggml_type.name())].flatten_all().unwrap();
        let (bytes, values) = (get("blocks").to_vec1::<u8>().unwrap(), get("values").to_vec1::<f32>().unwrap());
        assert!(bytes.len() >= 4 * ggml_type.block_bytes());
        assert_eq!(dequantise(ggml_type, &bytes), values, "{}", ggml_type.name());
    }
}

#[test]
fn wrong_sizes_are_errors() {
    let compute = compute(1, None);
    let pack = |ggml_type, rows, columns, len: usize| {
        PackedMatrix::pack(&compute, ggml_type, rows, columns, &vec![0; len]).map_err(|e| e.to_string())
    };
    assert!(pack(GgmlType::Q4_0, 2, 64, 72).is_ok());
    assert!(pack(GgmlType::Q4_0, 2, 64, 71).unwrap_err().contains("71 bytes for (2, 64) of Q4_0"));
    assert!(pack(GgmlType::Q4_0, 2, 48, 54).unwrap_err().contains("multiples of 32"));
    assert!(pack(GgmlType::Q6_K, 0, 256, 0).is_err());
    assert!(pack(GgmlType::F32, usize::MAX / 2, 4, 16).is_err());
    let [a, b] = [pack(GgmlType::F32, 1, 4, 16).unwrap(), pack(GgmlType::F32, 1, 5, 20).unwrap()];
    assert!(PackedMatrix::stack(vec![a, b]).is_err());
    assert!(PackedMatrix::stack(vec![]).is_err());
}
