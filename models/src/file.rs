//! A model on disk: one GGUF file or a directory of safetensors. Everything that is not weights is read at `open`.

use std::path::{Path, PathBuf};

use kernels::GgmlType;

use crate::gguf::GgufFile;
use crate::mapped::Stamp;
use crate::safetensors::SafetensorsDir;
use crate::{Error, ModelConfig, PackedFile, Result};

/// Where the tokenizer comes from.
#[derive(Debug, Clone)]
pub enum TokenizerSource {
    /// A Hugging Face `tokenizer.json`, with the `tokenizer_config.json` beside it where there is one.
    HuggingFace {
        /// Path of `tokenizer.json`.
        tokenizer: PathBuf,
        /// Path of `tokenizer_config.json`.
        config: Option<PathBuf>,
    },
    /// The vocabulary in a GGUF file's metadata.
    Gguf(Box<GgufVocabulary>),
}

/// What a token of a GGUF vocabulary is (`tokenizer.ggml.token_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the specification's")]
pub enum TokenKind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

/// The `tokenizer.ggml.*` keys of a GGUF file.
#[derive(Debug, Clone, Default)]
#[expect(missing_docs, reason = "fields are named after their keys")]
pub struct GgufVocabulary {
    /// `gpt2` (byte-level BPE) or `llama` (SentencePiece).
    pub model: String,
    /// Pre-tokenizer: `llama-bpe`, `smollm`, `qwen2`, `gpt-2`, `default`…; empty when absent.
    pub pre: String,
    pub tokens: Vec<String>,
    pub scores: Vec<f32>,
    pub kinds: Vec<TokenKind>,
    pub merges: Vec<String>,
    pub bos_id: Option<u32>,
    pub eos_id: Option<u32>,
    pub eot_id: Option<u32>,
    pub unknown_id: Option<u32>,
    pub padding_id: Option<u32>,
    pub add_bos: Option<bool>,
    pub add_eos: Option<bool>,
    pub add_space_prefix: Option<bool>,
}

impl GgufVocabulary {
    /// Fills the vocabulary up to `size` tokens with reserved control tokens, for models whose embedding table has more
    /// rows than the tokenizer has tokens.
    pub(crate) fn pad(&mut self, size: usize) {
        for number in self.tokens.len()..size {
            self.tokens.push(format!("<|extra_{number}|>"));
        }
        self.kinds.resize(self.tokens.len(), TokenKind::Control);
        if !self.scores.is_empty() {
            self.scores.resize(self.tokens.len(), 0.0);
        }
    }
}

/// One weight as it lies in the file.
#[derive(Debug, Clone)]
pub struct TensorView<'a> {
    /// Element type; safetensors give F32, F16 or BF16.
    pub ggml_type: GgmlType,
    /// Row-major shape, outputs first: `[rows, columns]` of a matrix, `[n]` of a vector.
    pub shape: Vec<usize>,
    /// Exactly the tensor's bytes: blocks of `ggml_type`, or little-endian values.
    pub bytes: &'a [u8],
}

/// A row of a model's table of tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name in the file.
    pub name: String,
    /// Element type.
    pub ggml_type: GgmlType,
    /// Row-major shape, outputs first.
    pub shape: Vec<usize>,
    /// Size of its data.
    pub bytes: usize,
}

/// An opened model, weights not yet read.
#[derive(Debug)]
pub struct ModelFile {
    path: PathBuf,
    source: Source,
    packed: Option<PackedFile>,
}

#[derive(Debug)]
enum Source {
    Gguf(GgufFile),
    Safetensors(Box<SafetensorsDir>),
}

impl ModelFile {
    /// Opens a GGUF file or a safetensors directory and proves its table sound: afterwards no tensor can reach outside
    /// its file.
    pub fn open(path: &Path) -> Result<Self> {
        let source = if path.is_dir() {
            Source::Safetensors(Box::new(SafetensorsDir::open(path)?))
        } else {
            Source::Gguf(GgufFile::open(path)?)
        };
        Ok(Self { path: path.to_owned(), source, packed: None })
    }

    /// The file or directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The kind of file, for people: `GGUF v3` or `safetensors`.
    pub fn format(&self) -> String {
        match &self.source {
            Source::Gguf(file) => format!("GGUF v{}", file.version()),
            Source::Safetensors(_) => "safetensors".into(),
        }
    }

    /// The model's hyperparameters.
    pub fn config(&self) -> Result<ModelConfig> {
        match &self.source {
            Source::Gguf(file) => file.config(),
            Source::Safetensors(directory) => directory.config(),
        }
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> Result<TokenizerSource> {
        match &self.source {
            Source::Gguf(file) => Ok(TokenizerSource::Gguf(Box::new(file.vocabulary()?))),
            Source::Safetensors(directory) => directory.tokenizer(),
        }
    }

    /// The Jinja chat template (GGUF `tokenizer.chat_template`, `tokenizer_config.json` or `chat_template.jinja`).
    pub fn chat_template(&self) -> Option<&str> {
        match &self.source {
            Source::Gguf(file) => file.chat_template(),
            Source::Safetensors(directory) => directory.chat_template(),
        }
    }

    /// Token ids that end an answer, of all places that a file may name them (GGUF eos, eot and eom and the control
    /// tokens known to end a turn, `generation_config.json`, `config.json`), ascending.
    pub fn end_ids(&self) -> Vec<u32> {
        match &self.source {
            Source::Gguf(file) => file.end_ids(),
            Source::Safetensors(directory) => directory.end_ids(),
        }
    }

    /// Everything that the file says about itself, as keys and text for people; of an array the first elements.
    pub fn metadata(&self) -> Vec<(String, String)> {
        match &self.source {
            Source::Gguf(file) => file.metadata().iter().map(|(key, v)| (key.to_owned(), v.to_string())).collect(),
            Source::Safetensors(directory) => directory.metadata(),
        }
    }

    /// The table of tensors, in the file's order and under the file's own names.
    pub fn tensors(&self) -> Vec<TensorInfo> {
        match &self.source {
            Source::Gguf(file) => file.tensors().collect(),
            Source::Safetensors(directory) => directory.tensors().collect(),
        }
    }

    /// The weight with GGUF's name `name` (`token_embd.weight`, `blk.0.attn_q.weight`, `output_norm.weight`…), from
    /// either kind of file. Rows of q and k are as the file has them; [`ModelConfig::rope_style`] says which way.
    ///
    /// # Errors
    /// When the file has no such tensor.
    pub fn tensor(&self, name: &str) -> Result<TensorView<'_>> {
        self.find(name).ok_or_else(|| Error::invalid(&self.path, format!("tensor {name} is missing")))
    }

    /// Whether the file has the weight with GGUF's name `name`.
    pub fn has_tensor(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    fn find(&self, name: &str) -> Option<TensorView<'_>> {
        match &self.source {
            Source::Gguf(file) => file.tensor_view(name),
            Source::Safetensors(directory) => directory.tensor_view(name),
        }
    }

    /// Sizes and times of change of the files that the weights are in, as they were opened.
    pub(crate) fn stamps(&self) -> Vec<Stamp> {
        match &self.source {
            Source::Gguf(file) => vec![file.stamp()],
            Source::Safetensors(directory) => directory.stamps().collect(),
        }
    }

    /// The bytes of all tensors, in the order of [`ModelFile::tensors`].
    pub(crate) fn contents(&self) -> Vec<&[u8]> {
        match &self.source {
            Source::Gguf(file) => file.contents().collect(),
            Source::Safetensors(directory) => directory.contents().collect(),
        }
    }

    /// Lets [`Model::load`](crate::Model::load) take what `packed` has from there.
    #[must_use]
    pub fn with_packed(self, packed: Option<PackedFile>) -> Self {
        Self { packed, ..self }
    }

    /// Where packed weights are taken from.
    pub fn packed(&self) -> Option<&PackedFile> {
        self.packed.as_ref()
    }

    /// Tells the system that the pages under `bytes`, a part of a tensor, will not be read again soon, so that a
    /// reader's memory does not grow by the file. They stay valid: pages are read from the file anew when touched.
    pub fn release(&self, bytes: &[u8]) {
        match &self.source {
            Source::Gguf(file) => file.release(bytes),
            Source::Safetensors(directory) => directory.release(bytes),
        }
    }
}
