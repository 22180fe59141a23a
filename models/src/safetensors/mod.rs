//! A directory of safetensors as Hugging Face keeps them: `config.json`, weights in one file or in shards with an
//! index, tokenizer files. Hostile input like GGUF: bounded JSON, proved tables, no path that leaves the directory.

mod config;
pub(crate) mod header;
pub(crate) mod names;
mod tokenizer_config;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::file::{TensorInfo, TensorView, TokenizerSource};
use crate::mapped::{MappedFile, Stamp};
use crate::{Error, ModelConfig, Result};

use config::HfConfig;
use header::HeaderEntry;
pub(crate) use tokenizer_config::TokenizerConfig;

/// Largest JSON file that is read whole, and the most shards: well beyond any real model's, and small enough that
/// what hostile JSON grows to in memory stays within some tens of MiB.
const MAX_JSON_BYTES: u64 = 2 << 20;
/// The same for `config.json`, every key of which is kept: a value in memory takes up to a hundred times its text.
const MAX_CONFIG_BYTES: u64 = 256 << 10;
const MAX_SHARDS: usize = 1024;

/// A number or a list of them.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum OneOrMany {
    One(u32),
    Many(Vec<u32>),
}

impl OneOrMany {
    fn as_slice(&self) -> &[u32] {
        match self {
            Self::One(id) => std::slice::from_ref(id),
            Self::Many(ids) => ids,
        }
    }
}

/// An opened directory.
#[derive(Debug)]
pub(crate) struct SafetensorsDir {
    path: PathBuf,
    config: HfConfig,
    /// `config.json` as it is, for people.
    config_json: Value,
    tokenizer_config: TokenizerConfig,
    chat_template: Option<String>,
    generation_end_ids: Option<OneOrMany>,
    shards: Vec<Shard>,
    index: TensorIndex,
}

/// Shard and row of every tensor, by Hugging Face's name.
type TensorIndex = HashMap<String, (usize, usize)>;

#[derive(Debug)]
struct Shard {
    file: MappedFile,
    entries: Vec<HeaderEntry>,
}

#[derive(Deserialize)]
struct GenerationConfig {
    eos_token_id: Option<OneOrMany>,
}

#[derive(Deserialize)]
struct ShardIndex {
    weight_map: HashMap<String, String>,
}

impl SafetensorsDir {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let config_path = path.join("config.json");
        let config_json: Value = required_json(&config_path, MAX_CONFIG_BYTES)?;
        config::refuse_quantized(&config_json).map_err(|message| Error::invalid(path, message))?;
        for (file, method) in [("quantize_config.json", "GPTQ"), ("quant_config.json", "AWQ")] {
            if path.join(file).exists() {
                return Err(Error::invalid(path, config::quantized_by(method)));
            }
        }
        let config = HfConfig::deserialize(&config_json).map_err(|e| Error::invalid(&config_path, e.to_string()))?;
        let generation: Option<GenerationConfig> = read_json(&path.join("generation_config.json"), MAX_JSON_BYTES)?;
        let tokenizer_config = TokenizerConfig::read(&path.join("tokenizer_config.json"))?;
        let (shards, index) = open_weights(path)?;
        Ok(Self {
            path: path.to_owned(),
            config,
            config_json,
            tokenizer_config: tokenizer_config.unwrap_or_default(),
            chat_template: read_text(&path.join("chat_template.jinja"), MAX_JSON_BYTES)?,
            generation_end_ids: generation.and_then(|generation| generation.eos_token_id),
            shards,
            index,
        })
    }

    pub(crate) fn config(&self) -> Result<ModelConfig> {
        let has_head = self.index.contains_key("lm_head.weight");
        let config = self.config.model_config(has_head);
        let config = config.map_err(|message| Error::invalid(&self.path.join("config.json"), message))?;
        let known: HashSet<String> = config.weight_names().iter().filter_map(|n| names::hugging_face_name(n)).collect();
        // Old checkpoints also keep what follows from the configuration, and some a head that is tied all the same.
        let follows =
            |name: &str| name.ends_with(".rotary_emb.inv_freq") || (config.tied_embeddings && name == "lm_head.weight");
        match self.index.keys().filter(|name| !known.contains(*name) && !follows(name)).min() {
            Some(name) => {
                let message = format!("tensor {name}: a model of this config.json has no such weight");
                Err(Error::invalid(&self.path, message))
            }
            None => Ok(config),
        }
    }

    pub(crate) fn tokenizer(&self) -> Result<TokenizerSource> {
        let tokenizer = self.path.join("tokenizer.json");
        if !tokenizer.is_file() {
            return Err(Error::invalid(&tokenizer, "the file is missing; a model's directory must hold its tokenizer"));
        }
        let config = Some(self.path.join("tokenizer_config.json")).filter(|path| path.is_file());
        Ok(TokenizerSource::HuggingFace { tokenizer, config })
    }

    pub(crate) fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref().or_else(|| self.tokenizer_config.chat_template())
    }

    pub(crate) fn end_ids(&self) -> Vec<u32> {
        let stated = [&self.generation_end_ids, &self.config.eos_token_id].into_iter().flatten();
        let stated = stated.flat_map(|ids| ids.as_slice().iter().copied());
        stated.chain(self.tokenizer_config.end_ids()).collect::<BTreeSet<u32>>().into_iter().collect()
    }

    pub(crate) fn metadata(&self) -> Vec<(String, String)> {
        let shown = |(key, value): (&String, &Value)| {
            (key.clone(), value.as_str().map_or_else(|| value.to_string(), str::to_owned))
        };
        self.config_json.as_object().into_iter().flatten().map(shown).collect()
    }

    pub(crate) fn tensors(&self) -> impl Iterator<Item = TensorInfo> {
        self.shards.iter().flat_map(|shard| &shard.entries).map(|entry| TensorInfo {
            name: entry.name.clone(),
            ggml_type: entry.ggml_type,
            shape: entry.shape.clone(),
            bytes: entry.range.len(),
        })
    }

    /// The weight with GGUF's name `name`.
    pub(crate) fn tensor_view(&self, name: &str) -> Option<TensorView<'_>> {
        let (shard, row) = *self.index.get(&names::hugging_face_name(name)?)?;
        let Shard { file, entries } = &self.shards[shard];
        let entry = &entries[row];
        Some(TensorView {
            ggml_type: entry.ggml_type,
            shape: entry.shape.clone(),
            bytes: &file.bytes()[entry.range.clone()],
        })
    }

    pub(crate) fn contents(&self) -> impl Iterator<Item = &[u8]> {
        self.shards
            .iter()
            .flat_map(|Shard { file, entries }| entries.iter().map(|entry| &file.bytes()[entry.range.clone()]))
    }

    pub(crate) fn stamps(&self) -> impl Iterator<Item = Stamp> {
        self.shards.iter().map(|shard| shard.file.stamp())
    }

    pub(crate) fn release(&self, bytes: &[u8]) {
        self.shards.iter().any(|shard| shard.file.release(bytes));
    }
}

/// The tensors of all shards, which one index names in full.
fn open_weights(directory: &Path) -> Result<(Vec<Shard>, TensorIndex)> {
    let index_path = directory.join("model.safetensors.index.json");
    let shard_index: Option<ShardIndex> = read_json(&index_path, MAX_JSON_BYTES)?;
    let weight_map = shard_index.map(|index| index.weight_map);
    let files: BTreeSet<&str> = match &weight_map {
        Some(map) => map.values().map(String::as_str).collect(),
        None => BTreeSet::from(["model.safetensors"]),
    };
    if files.len() > MAX_SHARDS {
        return Err(Error::invalid(&index_path, format!("{} shards; at most {MAX_SHARDS} are read", files.len())));
    }
    let mut shards = Vec::new();
    let mut index = TensorIndex::new();
    for name in files {
        // A name with a directory in it could lead anywhere.
        if Path::new(name).file_name().is_none_or(|file| file != name) || !name.ends_with(".safetensors") {
            let message = format!("key weight_map: {} is no name of a shard", name.escape_debug());
            return Err(Error::invalid(&index_path, message));
        }
        let file = MappedFile::open(&directory.join(name))?;
        let entries = header::parse(file.bytes()).map_err(|message| Error::invalid(file.path(), message))?;
        for (row, entry) in entries.iter().enumerate() {
            if weight_map.as_ref().is_some_and(|map| map.get(&entry.name).is_none_or(|shard| shard != name)) {
                let message = format!("tensor {}: the index does not place it in this shard", entry.name);
                return Err(Error::invalid(file.path(), message));
            }
            index.insert(entry.name.clone(), (shards.len(), row));
        }
        shards.push(Shard { file, entries });
    }
    if let Some(missing) = weight_map.iter().flatten().find(|(name, _)| !index.contains_key(*name)) {
        return Err(Error::invalid(&index_path, format!("tensor {} is not in {}", missing.0, missing.1)));
    }
    Ok((shards, index))
}

fn required_json<T: DeserializeOwned>(path: &Path, max_bytes: u64) -> Result<T> {
    read_json(path, max_bytes)?.ok_or_else(|| {
        Error::invalid(
            path,
            "the file is missing; a model is a GGUF file or a directory with config.json and safetensors",
        )
    })
}

/// The JSON file at `path`, or `None` where there is none.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path, max_bytes: u64) -> Result<Option<T>> {
    let Some(text) = read_text(path, max_bytes)? else { return Ok(None) };
    serde_json::from_str(&text).map(Some).map_err(|e| Error::invalid(path, e.to_string()))
}

/// The text file at `path`, or `None` where there is none.
fn read_text(path: &Path, max_bytes: u64) -> Result<Option<String>> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
    };
    let mut text = Vec::new();
    file.take(max_bytes + 1).read_to_end(&mut text).map_err(io)?;
    if text.len() as u64 > max_bytes {
        return Err(Error::invalid(path, format!("the file is larger than {max_bytes} bytes")));
    }
    let text = String::from_utf8(text).map_err(|_| Error::invalid(path, "the file is not valid UTF-8"))?;
    Ok(Some(text))
}

/// What [`SafetensorsDir::config`] makes of a `config.json` of these bytes.
pub(crate) fn config_from_bytes(bytes: &[u8]) -> Option<ModelConfig> {
    let json: Value = serde_json::from_slice(bytes).ok()?;
    config::refuse_quantized(&json).ok()?;
    HfConfig::deserialize(&json).ok()?.model_config(true).ok()
}
