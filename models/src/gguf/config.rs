//! Hyperparameters from a GGUF file's `{architecture}.*` keys and the shapes of its tensors.

use kernels::GgmlType;

use super::metadata::Metadata;
use super::table::TensorEntry;
use super::value::Value;
use super::{GgufFile, Parsed, vocabulary};
use crate::{Architecture, ModelConfig, RopeScaling};

pub(super) fn read(file: &GgufFile) -> Parsed<ModelConfig> {
    let metadata = file.metadata();
    let name = metadata.str("general.architecture")?.ok_or("metadata key general.architecture is missing")?;
    let architecture = match name {
        "llama" => Architecture::Llama,
        "mistral" => Architecture::Mistral,
        "qwen2" => Architecture::Qwen2,
        "qwen3" => Architecture::Qwen3,
        other => return Err(format!("architecture {other:?} does not run here; llama, mistral, qwen2 and qwen3 do")),
    };
    let keys = Keys { metadata, architecture: name };
    if keys.size("expert_count")?.is_some_and(|experts| experts > 0) {
        return Err(format!("metadata key {name}.expert_count: mixtures of experts do not run here"));
    }
    let hidden_size = keys.needed("embedding_length")?;
    let num_heads = keys.needed("attention.head_count")?;
    let head_dim = match keys.size("attention.key_length")? {
        Some(size) => size,
        None => keys.size("rope.dimension_count")?.unwrap_or(hidden_size / num_heads.max(1)),
    };
    for key in ["attention.value_length", "rope.dimension_count"] {
        if let Some(size) = keys.size(key)?.filter(|size| *size != head_dim) {
            return Err(format!("metadata key {name}.{key}: {size}, but heads of {head_dim} are the only ones run"));
        }
    }
    let mut config = ModelConfig {
        architecture,
        vocab_size: vocab_size(file, hidden_size)?,
        hidden_size,
        intermediate_size: keys.needed("feed_forward_length")?,
        num_layers: keys.needed("block_count")?,
        num_heads,
        num_kv_heads: keys.size("attention.head_count_kv")?.unwrap_or(num_heads),
        head_dim,
        rms_norm_eps: keys.f32("attention.layer_norm_rms_epsilon")?.unwrap_or(1e-5),
        rope_theta: keys.f32("rope.freq_base")?.unwrap_or(10_000.0),
        rope_scaling: RopeScaling::None,
        rope_style: architecture.gguf_rope_style(),
        max_context: keys.needed("context_length")?,
        sliding_window: keys.size("attention.sliding_window")?.filter(|window| *window > 0),
        tied_embeddings: file.tensor("output.weight").is_none(),
    };
    config.check()?;
    config.rope_scaling = rope_scaling(file, &keys, head_dim)?;
    let (known, layers) = (config.weight_names(), config.num_layers);
    let is_unknown = |weight: &&TensorEntry| weight.name != "rope_freqs.weight" && !known.contains(&weight.name);
    match file.table.tensors.iter().find(is_unknown) {
        Some(TensorEntry { name: weight, .. }) => {
            Err(format!("tensor {weight}: a {name} model of {layers} layers has no such weight"))
        }
        None => Ok(config),
    }
}

/// The keys that begin with the architecture's name.
struct Keys<'a> {
    metadata: Metadata<'a>,
    architecture: &'a str,
}

impl Keys<'_> {
    /// A size; where a file gives one per layer, all must agree.
    fn size(&self, key: &str) -> Parsed<Option<usize>> {
        let key = format!("{}.{key}", self.architecture);
        let unlike = || format!("metadata key {key}: layers of different sizes do not run here");
        let size = match self.metadata.get(&key)? {
            Some(Value::Array(sizes)) => {
                let mut sizes = sizes.iter().map(|size| size.map(Value::as_u64));
                let first = sizes.next().transpose()?.flatten().ok_or_else(unlike)?;
                for size in sizes {
                    if size? != Some(first) {
                        return Err(unlike());
                    }
                }
                Some(first)
            }
            _ => self.metadata.u64(&key)?,
        };
        // Limits of each size are ModelConfig::check's affair; here only that it fits the type.
        let narrowed = size.map(u32::try_from).transpose().map_err(|_| format!("metadata key {key}: it is too large"));
        Ok(narrowed?.map(|size| size as usize))
    }

    fn needed(&self, key: &str) -> Parsed<usize> {
        self.size(key)?.ok_or_else(|| format!("metadata key {}.{key} is missing", self.architecture))
    }

    fn f32(&self, key: &str) -> Parsed<Option<f32>> {
        self.metadata.f32(&format!("{}.{key}", self.architecture))
    }

    fn str(&self, key: &str) -> Parsed<Option<&str>> {
        self.metadata.str(&format!("{}.{key}", self.architecture))
    }
}

/// Rows of the embedding table, which decide whatever other keys say.
fn vocab_size(file: &GgufFile, hidden_size: usize) -> Parsed<usize> {
    let table = file.tensor("token_embd.weight").ok_or("tensor token_embd.weight is missing")?;
    let [rows, columns] = table.shape[..] else {
        return Err(format!("tensor token_embd.weight: a matrix is expected, its shape is {:?}", table.shape));
    };
    if columns != hidden_size {
        return Err(format!("tensor token_embd.weight: rows of {columns}, but embedding_length is {hidden_size}"));
    }
    match vocabulary::num_tokens(file.metadata())? {
        Some(tokens) if tokens > rows => {
            Err(format!("metadata key tokenizer.ggml.tokens: {tokens} tokens, but token_embd.weight has {rows} rows"))
        }
        _ => Ok(rows),
    }
}

fn rope_scaling(file: &GgufFile, keys: &Keys, head_dim: usize) -> Parsed<RopeScaling> {
    if let Some(factors) = file.tensor("rope_freqs.weight") {
        if factors.ggml_type != GgmlType::F32 || factors.shape != [head_dim / 2] {
            return Err(format!("tensor rope_freqs.weight: {} f32 values are expected", head_dim / 2));
        }
        let bytes = &file.bytes()[factors.range.clone()];
        let values: Vec<f32> = bytes.as_chunks().0.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect();
        if values.iter().any(|factor| !factor.is_finite() || *factor <= 0.0) {
            return Err("tensor rope_freqs.weight: a factor is not a positive number".into());
        }
        return Ok(RopeScaling::Factors(values));
    }
    let factor = match keys.f32("rope.scaling.factor")? {
        Some(factor) => Some(factor),
        None => keys.f32("rope.scale_linear")?,
    };
    match (keys.str("rope.scaling.type")?.unwrap_or("linear"), factor.filter(|factor| *factor != 0.0)) {
        ("none", _) | ("linear", None | Some(1.0)) => Ok(RopeScaling::None),
        ("linear", Some(factor)) => Ok(RopeScaling::Linear { factor }),
        (other, _) => Err(format!("metadata key rope.scaling.type: {other:?} does not run here; linear does")),
    }
}
