//! The only home of SIMD intrinsics (and later of CUDA sources). A safe API over Candle tensors: every operation writes
//! into a workspace tensor that the caller made once, so that a decode step allocates nothing worth the name.
//!
//! Knows nothing of models, requests or files. One operation is one file under `ops/`, with its plain reference.
//!
//! Promise to everyone above: the value of an output row depends only on that row's inputs. Which other rows are in
//! the batch, how a prompt was chunked and how many threads run change no bit of it.

mod compute;
mod error;
mod formats;
mod ggml_type;
mod gpu;
mod hadamard;
mod kv;
#[cfg(target_os = "linux")]
mod large_pages;
mod lines;
mod memory;
mod ops;
mod packed;
mod pool;
mod recordings;
mod rows;
pub mod sampling;
mod scratch;
mod shared;
mod simd;
mod step;
#[cfg(test)]
mod testing;

pub use compute::{Activations, Compute, ComputeOptions, Isa};
pub use error::{Error, Result};
pub use formats::block::IQ4_VALUES;
pub use formats::dequantise;
pub use ggml_type::GgmlType;
pub use gpu::{
    CARD_SUPPORT, CardInfo, CardSteps, CardSupport, KernelTime, LEAST_CAPABILITY, LEAST_DRIVER, NoCard, card_count,
};
pub use kv::{BLOCK_SIZE, KvCacheType, KvLayer, Span};
#[cfg(target_os = "linux")]
pub use large_pages::move_to_large_pages;
pub use ops::linear::Operand;
pub use ops::residual::{Norm, Residual};
pub use ops::rope::{RopeStyle, RopeTable};
pub use packed::PackedMatrix;
pub use recordings::Recordings;
pub use step::{AttentionShape, StepCapacity, StepMemory, StepRows};
