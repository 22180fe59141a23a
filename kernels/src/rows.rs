//! Views of tensors as plain slices: the checks an operation makes before it starts, and the slices its in-place op
//! sees. Must not know what any operation computes.

use candle_core::{CpuStorage, DType, Layout, Tensor};
use half::f16;

use crate::{Error, Result};

/// Rows and columns of a contiguous f32 matrix; a row may start anywhere in its storage.
pub(crate) fn matrix(op: &'static str, name: &str, tensor: &Tensor) -> Result<(usize, usize)> {
    contiguous(op, name, tensor, DType::F32)?;
    match tensor.dims() {
        &[rows, columns] => Ok((rows, columns)),
        dims => Err(Error::shape(op, format!("{name} has shape {dims:?}, not (rows, columns)"))),
    }
}

/// Checks that a tensor is contiguous f32 of exactly these dimensions.
pub(crate) fn expect(op: &'static str, name: &str, tensor: &Tensor, dims: &[usize]) -> Result<()> {
    contiguous(op, name, tensor, DType::F32)?;
    if tensor.dims() == dims {
        return Ok(());
    }
    Err(Error::shape(op, format!("{name} has shape {:?} where {dims:?} is needed", tensor.dims())))
}

/// Checks element type and layout.
pub(crate) fn contiguous(op: &'static str, name: &str, tensor: &Tensor, dtype: DType) -> Result<()> {
    if tensor.dtype() != dtype {
        return Err(Error::shape(op, format!("{name} is {:?}, not {dtype:?}", tensor.dtype())));
    }
    if !tensor.is_contiguous() {
        return Err(Error::shape(op, format!("{name} is not contiguous: strides {:?}", tensor.stride())));
    }
    Ok(())
}

/// The elements that a contiguous f32 view covers.
pub(crate) fn f32s<'a>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [f32]> {
    match storage {
        CpuStorage::F32(data) => Ok(&data[range(layout)?]),
        other => Err(other_type(other, DType::F32)),
    }
}

/// As [`f32s`], to be written.
pub(crate) fn f32s_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> candle_core::Result<&'a mut [f32]> {
    match storage {
        CpuStorage::F32(data) => Ok(&mut data[range(layout)?]),
        other => Err(other_type(other, DType::F32)),
    }
}

/// The elements that a contiguous f16 view covers.
pub(crate) fn f16s<'a>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [f16]> {
    match storage {
        CpuStorage::F16(data) => Ok(&data[range(layout)?]),
        other => Err(other_type(other, DType::F16)),
    }
}

/// As [`f16s`], to be written.
pub(crate) fn f16s_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> candle_core::Result<&'a mut [f16]> {
    match storage {
        CpuStorage::F16(data) => Ok(&mut data[range(layout)?]),
        other => Err(other_type(other, DType::F16)),
    }
}

/// The elements that a contiguous view of bytes covers.
pub(crate) fn u8s<'a>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [u8]> {
    match storage {
        CpuStorage::U8(data) => Ok(&data[range(layout)?]),
        other => Err(other_type(other, DType::U8)),
    }
}

/// As [`u8s`], to be written.
pub(crate) fn u8s_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> candle_core::Result<&'a mut [u8]> {
    match storage {
        CpuStorage::U8(data) => Ok(&mut data[range(layout)?]),
        other => Err(other_type(other, DType::U8)),
    }
}

fn range(layout: &Layout) -> candle_core::Result<std::ops::Range<usize>> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(start..end),
        None => Err(candle_core::Error::Msg(format!("a contiguous view is needed, got strides {:?}", layout.stride()))),
    }
}

fn other_type(storage: &CpuStorage, expected: DType) -> candle_core::Error {
    use candle_core::backend::BackendStorage;
    candle_core::Error::UnexpectedDType { msg: "in-place op", expected, got: storage.dtype() }
}
