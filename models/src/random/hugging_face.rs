//! The same random weights as a safetensors directory: values of the quantised blocks, names and row order of Hugging
//! Face checkpoints, and the JSON files beside them.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use kernels::{GgmlType, RopeStyle, dequantise};
use serde_json::{Map, Value, json};

use super::{RandomModel, RandomTensor, vocabulary};
use crate::ggml_blocks::quantize;
use crate::partial::PartialFile;
use crate::rotary_rows::{are_rotated, interleaved_row};
use crate::safetensors::names::hugging_face_name;
use crate::tokenizer_json::LLAMA3_PATTERN;
use crate::{Architecture, Error, GgufVocabulary, ModelConfig, Result, RopeScaling, TokenKind};

impl RandomModel {
    /// Writes a directory as Hugging Face has it, the weights in `shards` files as `float_type` (F32, F16 or BF16) of
    /// the values that [`RandomModel::write_gguf`] writes as blocks.
    ///
    /// # Errors
    /// When the shape contradicts itself, the vocabulary does not fit it, or writing fails.
    pub fn write_safetensors(&self, directory: &Path, float_type: GgmlType, shards: usize) -> Result<()> {
        let invalid = |message| Error::invalid(directory, message);
        self.config.check().map_err(invalid)?;
        let vocabulary = self.padded_vocabulary().map_err(invalid)?;
        let io = |source| Error::Io { path: directory.to_owned(), source };
        fs::create_dir_all(directory).map_err(io)?;
        let write = |name: &str, value: &Value| {
            let path = directory.join(name);
            fs::write(&path, format!("{value:#}\n")).map_err(|source| Error::Io { path, source })
        };
        write("config.json", &config_json(&self.config, &vocabulary))?;
        write("tokenizer.json", &tokenizer_json(&vocabulary))?;
        write("tokenizer_config.json", &tokenizer_config_json(&vocabulary))?;
        write("generation_config.json", &json!({ "eos_token_id": [vocabulary.eos_id] }))?;
        let tensors = self.tensors();
        let per_shard = tensors.len().div_ceil(shards.max(1));
        let mut weight_map = Map::new();
        for (number, part) in tensors.chunks(per_shard).enumerate() {
            let name = match shards {
                0 | 1 => "model.safetensors".to_owned(),
                _ => format!("model-{:05}-of-{shards:05}.safetensors", number + 1),
            };
            for tensor in part {
                weight_map.insert(theirs(tensor), name.clone().into());
            }
            self.write_shard(&directory.join(&name), part, float_type)?;
        }
        if shards > 1 {
            write("model.safetensors.index.json", &json!({ "metadata": {}, "weight_map": weight_map }))?;
        }
        Ok(())
    }

    fn write_shard(&self, path: &Path, tensors: &[RandomTensor], float_type: GgmlType) -> Result<()> {
        let mut table = BTreeMap::new();
        let mut offset = 0;
        for tensor in tensors {
            let end = offset + tensor.elements() * float_type.block_bytes();
            let entry = json!({ "dtype": float_type.name(), "shape": tensor.shape, "data_offsets": [offset, end] });
            table.insert(theirs(tensor), entry);
            offset = end;
        }
        // Padded so that the data is aligned, as the format's own writer does.
        let mut header = json!(table).to_string();
        header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
        let mut file = PartialFile::create(path)?;
        let io = |source| Error::Io { path: path.to_owned(), source };
        file.write_all(&(header.len() as u64).to_le_bytes()).map_err(io)?;
        file.write_all(header.as_bytes()).map_err(io)?;
        for tensor in tensors {
            let mut write = |values: &[f32]| file.write_all(&quantize(float_type, values)?).map_err(io);
            if are_rotated(&tensor.name) && self.config.architecture.gguf_rope_style() == RopeStyle::Interleaved {
                let mut values = Vec::with_capacity(tensor.elements());
                tensor.generate(self.seed, &mut |bytes| {
                    values.extend(dequantise(tensor.ggml_type, bytes));
                    Ok(())
                })?;
                write(&halved(&values, tensor.shape[1], self.config.head_dim))?;
            } else {
                tensor.generate(self.seed, &mut |bytes| write(&dequantise(tensor.ggml_type, bytes)))?;
            }
        }
        file.finish().map(|_| ())
    }
}

/// Rows of `columns` elements, taken from the interleaved order to the halved one.
fn halved(values: &[f32], columns: usize, head_dim: usize) -> Vec<f32> {
    let row = |row| &values[interleaved_row(row, head_dim) * columns..][..columns];
    (0..values.len() / columns).flat_map(row).copied().collect()
}

/// Hugging Face's name; every weight made here has one.
fn theirs(tensor: &RandomTensor) -> String {
    hugging_face_name(&tensor.name).unwrap_or_else(|| tensor.name.clone())
}

fn config_json(config: &ModelConfig, vocabulary: &GgufVocabulary) -> Value {
    let (class, model_type) = match config.architecture {
        Architecture::Llama => ("LlamaForCausalLM", "llama"),
        Architecture::Mistral => ("MistralForCausalLM", "mistral"),
        Architecture::Qwen2 => ("Qwen2ForCausalLM", "qwen2"),
        Architecture::Qwen3 => ("Qwen3ForCausalLM", "qwen3"),
    };
    let scaling = match &config.rope_scaling {
        RopeScaling::Linear { factor } => json!({ "rope_type": "linear", "factor": factor }),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => json!({
            "rope_type": "llama3", "factor": factor, "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor, "original_max_position_embeddings": original_context,
        }),
        // Factors exist only in GGUF.
        RopeScaling::None | RopeScaling::Factors(_) => Value::Null,
    };
    json!({
        "architectures": [class],
        "model_type": model_type,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": scaling,
        "max_position_embeddings": config.max_context,
        "sliding_window": config.sliding_window,
        "use_sliding_window": config.sliding_window.is_some(),
        "tie_word_embeddings": config.tied_embeddings,
        "hidden_act": "silu",
        "bos_token_id": vocabulary.bos_id,
        "eos_token_id": vocabulary.eos_id,
    })
}

/// A byte-level BPE tokenizer as Llama 3's `tokenizer.json` describes one.
fn tokenizer_json(vocabulary: &GgufVocabulary) -> Value {
    let ids = || vocabulary.tokens.iter().zip(&vocabulary.kinds).zip(0u32..);
    let words: Map<String, Value> = ids()
        .filter(|((_, kind), _)| **kind == TokenKind::Normal)
        .map(|((token, _), id)| (token.clone(), id.into()))
        .collect();
    let added: Vec<Value> = ids()
        .filter(|((_, kind), _)| **kind != TokenKind::Normal)
        .map(|((token, kind), id)| {
            json!({ "id": id, "content": token, "special": *kind == TokenKind::Control, "single_word": false,
                    "lstrip": false, "rstrip": false, "normalized": false })
        })
        .collect();
    let byte_level =
        json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false });
    let bos = vocabulary.bos_id.and_then(|id| Some((id, vocabulary.tokens.get(id as usize)?)));
    let post_processor = bos.map(|(id, token)| {
        let first = json!({ "SpecialToken": { "id": token, "type_id": 0 } });
        let text = |name: &str, type_id: u32| json!({ "Sequence": { "id": name, "type_id": type_id } });
        json!({ "type": "TemplateProcessing", "single": [first, text("A", 0)],
                "pair": [first, text("A", 0), text("B", 1)],
                "special_tokens": { token: { "id": token, "ids": [id], "tokens": [token] } } })
    });
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": [
            { "type": "Split", "pattern": { "Regex": LLAMA3_PATTERN }, "behavior": "Isolated", "invert": false },
            byte_level,
        ] },
        "post_processor": post_processor,
        "decoder": byte_level,
        "model": { "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                   "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": true,
                   "vocab": words, "merges": vocabulary.merges },
    })
}

fn tokenizer_config_json(vocabulary: &GgufVocabulary) -> Value {
    let text = |id: Option<u32>| id.and_then(|id| vocabulary.tokens.get(id as usize));
    json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": text(vocabulary.bos_id),
        "eos_token": text(vocabulary.eos_id),
        "chat_template": vocabulary::CHAT_TEMPLATE,
    })
}
