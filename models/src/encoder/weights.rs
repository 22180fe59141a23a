//! The weights of an encoder from `model.safetensors`, as f32. The library's reader proves the table of the file; names
//! of old checkpoints lose the prefix of the model that they were trained in.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use candle_core::safetensors::SliceSafetensors;
use candle_core::{DType, Device, Tensor};

use super::config::EncoderConfig;
use crate::mapped::MappedFile;
use crate::{Error, Result};

/// Bytes of each tensor that tell models apart.
const SAMPLE: usize = 64;

/// Tensors by name without prefix: `embeddings.…` and `encoder.…`.
pub(super) struct Weights {
    pub tensors: HashMap<String, Tensor>,
    pub fingerprint: u64,
}

impl Weights {
    pub(super) fn read(folder: &Path, config: &EncoderConfig) -> Result<Self> {
        let file = MappedFile::open(&folder.join("model.safetensors"))?;
        let invalid = |message: String| Error::invalid(file.path(), message);
        let table = SliceSafetensors::new(file.bytes()).map_err(|error| invalid(error.to_string()))?;
        let mut views = table.tensors();
        views.sort_by(|one, other| one.0.cmp(&other.0));
        let mut hasher = DefaultHasher::new();
        (config.pooling, config.max_tokens, config.num_heads, config.pad_id).hash(&mut hasher);
        let mut tensors = HashMap::new();
        for (name, view) in views {
            // Others are heads of the training, which no vector depends on, and buffers with positions.
            let Some(short) = short_name(&name).filter(|short| !short.ends_with("position_ids")) else { continue };
            let at = |message: String| invalid(format!("tensor {}: {message}", name.escape_debug()));
            if layer(short).is_some_and(|layer| layer >= config.num_layers) {
                return Err(at(format!("config.json has {} layers only", config.num_layers)));
            }
            (short, view.shape(), &view.data()[..view.data().len().min(SAMPLE)]).hash(&mut hasher);
            let tensor = table.load(&name, &Device::Cpu).and_then(|tensor| match tensor.dtype() {
                DType::F32 | DType::F16 | DType::BF16 => tensor.to_dtype(DType::F32),
                other => candle_core::bail!("type {other:?} does not run here"),
            });
            let tensor = tensor.map_err(|error| at(error.to_string().lines().next().unwrap_or_default().to_owned()))?;
            if tensors.insert(short.to_owned(), tensor).is_some() {
                return Err(at("the file has it twice".into()));
            }
        }
        Ok(Self { tensors, fingerprint: hasher.finish() })
    }

    pub(super) fn bytes(&self) -> usize {
        self.tensors.values().map(|tensor| tensor.elem_count() * size_of::<f32>()).sum()
    }
}

/// A weight's name from `embeddings.` or `encoder.` on, if it is one of the network's.
fn short_name(name: &str) -> Option<&str> {
    let rest = ["bert.", "roberta.", "xlm-roberta."].iter().find_map(|prefix| name.strip_prefix(prefix));
    Some(rest.unwrap_or(name)).filter(|name| name.starts_with("embeddings.") || name.starts_with("encoder.layer."))
}

fn layer(name: &str) -> Option<usize> {
    name.strip_prefix("encoder.layer.")?.split('.').next()?.parse().ok()
}
