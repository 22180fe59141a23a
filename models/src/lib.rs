//! Model files and the architectures that run from them. Knows no tokio, no HTTP, no requests: a step arrives as a
//! [`ForwardBatch`], logits leave as a tensor.

mod arch;
mod batch;
mod config;
mod encoder;
mod end_tokens;
mod error;
mod file;
pub mod fuzz;
mod ggml_blocks;
mod gguf;
mod layers;
mod mapped;
mod model;
mod packed_file;
mod partial;
mod placement;
mod plan;
mod quantize;
pub mod random;
mod recipe;
mod rope;
mod rotary_rows;
mod safetensors;
mod stage;
mod tokenizer_json;
mod weights;

pub use batch::{ForwardBatch, KvCache};
pub use config::{Architecture, ModelConfig, RopeScaling};
pub use encoder::Encoder;
pub use error::{Error, Result};
pub use file::{GgufVocabulary, ModelFile, TensorInfo, TensorView, TokenKind, TokenizerSource};
pub use model::Model;
pub use packed_file::PackedFile;
pub use placement::Placement;
pub use plan::{DeviceBytes, MemoryPlan};
pub use quantize::quantize;
pub use recipe::Recipe;
pub use tokenizer_json::read_tokenizer_json;
