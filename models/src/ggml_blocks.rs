//! Values to ggml blocks and back, for converting files and reading vectors; Candle does the arithmetic. Not for
//! matrices that run: the kernels read blocks themselves.

use std::borrow::Cow;

use candle_core::quantized::{QStorage, QTensor};
use candle_core::{Device, Tensor};
use half::{bf16, f16};
use kernels::GgmlType;

use crate::Result;

/// The values of whole blocks.
pub(crate) fn dequantize(ggml_type: GgmlType, bytes: &[u8]) -> Result<Vec<f32>> {
    let pairs = || bytes.as_chunks().0.iter().copied();
    Ok(match ggml_type {
        GgmlType::F32 => bytes.as_chunks().0.iter().copied().map(f32::from_le_bytes).collect(),
        GgmlType::F16 => pairs().map(|b| f16::from_le_bytes(b).to_f32()).collect(),
        GgmlType::BF16 => pairs().map(|b| bf16::from_le_bytes(b).to_f32()).collect(),
        _ => {
            let len = bytes.len() / ggml_type.block_bytes() * ggml_type.block_len();
            let storage = QStorage::from_data(Cow::Borrowed(bytes), &Device::Cpu, ggml_type.into())?;
            QTensor::new(storage, len)?.dequantize(&Device::Cpu)?.to_vec1()?
        }
    })
}

/// The blocks nearest to `values`, whose number divides into blocks of `ggml_type`.
pub(crate) fn quantize(ggml_type: GgmlType, values: &[f32]) -> Result<Vec<u8>> {
    Ok(match ggml_type {
        GgmlType::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        GgmlType::F16 => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
        GgmlType::BF16 => values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
        _ => {
            let tensor = Tensor::from_slice(values, values.len(), &Device::Cpu)?;
            QTensor::quantize(&tensor, ggml_type.into())?.data()?.into_owned()
        }
    })
}
