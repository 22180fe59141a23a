//! Models with random weights, of any architecture, type and size: for tests, and for benchmarks where the real file
//! cannot be had. What they say is noise, but they load, cost and pace like the real thing. The same options and seed
//! give the same bytes, and each tensor draws from its own stream.

mod blocks;
mod hugging_face;
mod vocabulary;

use std::path::Path;

use kernels::{GgmlType, RopeStyle};

use crate::gguf::writer::{GgufHeader, MetadataValue};
use crate::partial::PartialFile;
use crate::{Architecture, Error, GgufVocabulary, ModelConfig, Recipe, Result, RopeScaling};

pub use vocabulary::byte_vocabulary;

/// Elements made at a time.
const CHUNK: usize = 1 << 20;

/// What to make.
#[derive(Debug, Clone)]
pub struct RandomModel {
    /// `general.name`.
    pub name: String,
    /// Its shape. Rotary style and scaling are written as the kind of file has them.
    pub config: ModelConfig,
    /// Types of the matrices.
    pub recipe: Recipe,
    /// Its tokenizer; `config.vocab_size` beyond it is filled up with reserved tokens.
    pub vocabulary: GgufVocabulary,
    /// Where the numbers start.
    pub seed: u64,
}

impl RandomModel {
    /// The shape of Saiga Llama 3 8B in Q4_K_M: a GGUF of 4.9 GB.
    pub fn saiga_8b() -> Self {
        let config = ModelConfig {
            architecture: Architecture::Llama,
            vocab_size: 128_256,
            hidden_size: 4096,
            intermediate_size: 14_336,
            num_layers: 32,
            num_heads: 32,
            num_kv_heads: 8,
            head_dim: 128,
            rms_norm_eps: 1e-5,
            rope_theta: 500_000.0,
            rope_scaling: RopeScaling::None,
            rope_style: RopeStyle::Interleaved,
            max_context: 8192,
            sliding_window: None,
            tied_embeddings: false,
        };
        let vocabulary = byte_vocabulary();
        Self { name: "saiga-shaped-8b".into(), config, recipe: Recipe::Q4KM, vocabulary, seed: 1 }
    }

    /// Two layers small enough for tests, with rows of 256 elements so that every type fits them.
    pub fn tiny(architecture: Architecture, recipe: Recipe) -> Self {
        let config = ModelConfig {
            architecture,
            vocab_size: 288,
            hidden_size: 256,
            intermediate_size: 512,
            num_layers: 2,
            num_heads: 8,
            num_kv_heads: 2,
            head_dim: 32,
            rms_norm_eps: 1e-5,
            rope_theta: 10_000.0,
            rope_scaling: RopeScaling::None,
            rope_style: RopeStyle::Interleaved,
            max_context: 512,
            sliding_window: None,
            tied_embeddings: false,
        };
        Self { name: format!("tiny-{architecture:?}"), config, recipe, vocabulary: byte_vocabulary(), seed: 1 }
    }

    /// Writes a GGUF file and returns its size; `progress` hears the share done, 0 to 1. The file appears under its
    /// name only once it is complete.
    ///
    /// # Errors
    /// When the shape contradicts itself, the vocabulary does not fit it, or writing fails.
    pub fn write_gguf(&self, path: &Path, progress: &mut dyn FnMut(f32)) -> Result<u64> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        let mut header = self.gguf_header().map_err(|message| Error::invalid(path, message))?;
        let tensors = self.tensors();
        for tensor in &tensors {
            header.tensor(&tensor.name, tensor.ggml_type, &tensor.shape);
        }
        let divisors = header.rope_factors(&self.config);
        let (mut done, total) = (0, header.data_len());
        let mut file = PartialFile::create(path)?;
        let mut data = header.write(&mut file).map_err(io)?;
        for tensor in &tensors {
            tensor.generate(self.seed, &mut |bytes| {
                done += bytes.len();
                progress(done as f32 / total as f32);
                data.write(bytes).map_err(io)
            })?;
        }
        if let Some(divisors) = divisors {
            data.write(&divisors).map_err(io)?;
        }
        data.finish().map_err(io)?;
        file.finish()
    }

    fn gguf_header(&self) -> std::result::Result<GgufHeader, String> {
        self.config.check()?;
        let mut header = GgufHeader::default();
        header.describe_config(&self.config);
        header.set("general.name", MetadataValue::String(&self.name));
        header.set("general.file_type", MetadataValue::U32(self.recipe.file_type()));
        header.set("general.quantization_version", MetadataValue::U32(2));
        header.describe_vocabulary(&self.padded_vocabulary()?);
        header.set("tokenizer.chat_template", MetadataValue::String(vocabulary::CHAT_TEMPLATE));
        Ok(header)
    }

    fn padded_vocabulary(&self) -> std::result::Result<GgufVocabulary, String> {
        let (tokens, size) = (self.vocabulary.tokens.len(), self.config.vocab_size);
        if tokens > size {
            return Err(format!("a vocabulary of {size} is smaller than the tokenizer's {tokens}"));
        }
        let mut vocabulary = self.vocabulary.clone();
        vocabulary.pad(size);
        Ok(vocabulary)
    }

    /// All weights in the order of the file.
    fn tensors(&self) -> Vec<RandomTensor> {
        let mut tensors: Vec<RandomTensor> = Vec::new();
        for (name, rows, columns) in self.config.matrices() {
            let ggml_type = self.recipe.type_of(&name, columns, &self.config);
            let deviation = self.deviation(&name, columns);
            tensors.push(RandomTensor { name, ggml_type, shape: vec![rows, columns], mean: 0.0, deviation });
        }
        for (name, len) in self.config.vectors() {
            // Norms scale by about one, biases shift by little.
            let mean = if name.contains("norm") { 1.0 } else { 0.0 };
            tensors.push(RandomTensor { name, ggml_type: GgmlType::F32, shape: vec![len], mean, deviation: 0.1 });
        }
        tensors
    }

    /// Keeps activations and logits finite through any depth: one over the root of the inputs, less on the way back
    /// into the residual stream.
    fn deviation(&self, name: &str, columns: usize) -> f32 {
        let unit = (columns as f32).sqrt().recip();
        match name {
            "output.weight" => 3.0 * unit,
            "token_embd.weight" if self.config.tied_embeddings => 3.0 * unit,
            "token_embd.weight" => 1.0,
            _ if name.contains("attn_output") || name.contains("ffn_down") => {
                unit * (2.0 * self.config.num_layers as f32).sqrt().recip()
            }
            _ => unit,
        }
    }
}

/// One weight, made when it is asked for.
struct RandomTensor {
    /// GGUF's name.
    name: String,
    ggml_type: GgmlType,
    shape: Vec<usize>,
    mean: f32,
    deviation: f32,
}

impl RandomTensor {
    fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Hands out the tensor's bytes in chunks of whole blocks, rows in GGUF's order.
    fn generate(&self, seed: u64, emit: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut rng = fastrand::Rng::with_seed(seed ^ name_hash(&self.name));
        let mut left = self.elements() / self.ggml_type.block_len();
        let mut chunk = Vec::new();
        while left > 0 {
            let blocks = left.min(CHUNK / self.ggml_type.block_len());
            chunk.clear();
            if self.mean == 0.0 {
                blocks::append(&mut chunk, self.ggml_type, blocks, self.deviation, &mut rng);
            } else {
                let value = |_| self.mean + self.deviation * (rng.f32() - 0.5);
                chunk.extend((0..blocks).map(value).flat_map(f32::to_le_bytes));
            }
            emit(&chunk)?;
            left -= blocks;
        }
        Ok(())
    }
}

/// FNV-1a: a stream of its own for every name.
fn name_hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
