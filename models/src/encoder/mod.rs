//! Encoders: the token ids of a text to one vector of length 1. Owns the folder as Hugging Face and sentence-transformers
//! keep it, the network (Candle's BERT and XLM-RoBERTa, f32 on the CPU) and pooling. Knows no tokenizer.

mod config;
mod weights;

use std::fmt;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::BertModel;
use candle_transformers::models::xlm_roberta::XLMRobertaModel;

use crate::{Error, Result};

use config::{Architecture, EncoderConfig, Pooling};
use weights::Weights;

/// A loaded encoder.
pub struct Encoder {
    network: Network,
    config: EncoderConfig,
    weight_bytes: usize,
    fingerprint: u64,
    /// Candle's matrix products run in the pool that calls them. With one of our own rayon's global one never starts;
    /// these threads sleep whenever no text is encoded.
    pool: rayon::ThreadPool,
}

enum Network {
    Bert(Box<BertModel>),
    XlmRoberta(Box<XLMRobertaModel>),
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoder").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Encoder {
    /// Reads the model in `folder` (`config.json`, `model.safetensors`, and where they are there `modules.json`, the
    /// pooling's `config.json` and `sentence_bert_config.json`), to be run by so many threads.
    ///
    /// # Errors
    /// When a file is missing, damaged, hostile, or of a model that does not run here.
    pub fn load(folder: &Path, threads: usize) -> Result<Self> {
        let config = EncoderConfig::read(folder)?;
        let weights = Weights::read(folder, &config)?;
        let (weight_bytes, fingerprint) = (weights.bytes(), weights.fingerprint);
        let invalid = |error: candle_core::Error| {
            // Candle's errors carry a trace of the stack where one is asked for.
            let message = error.to_string();
            Error::invalid(folder, message.lines().next().unwrap_or_default())
        };
        let source = VarBuilder::from_tensors(weights.tensors, DType::F32, &Device::Cpu);
        let network = match &config.architecture {
            Architecture::Bert(config) => Network::Bert(Box::new(BertModel::load(source, config).map_err(invalid)?)),
            Architecture::XlmRoberta(config) => {
                Network::XlmRoberta(Box::new(XLMRobertaModel::new(config, source).map_err(invalid)?))
            }
        };
        let name = |thread| format!("encode-{thread}");
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.max(1)).thread_name(name).build();
        let pool = pool.map_err(|error| Error::invalid(folder, error.to_string()))?;
        Ok(Self { network, config, weight_bytes, fingerprint, pool })
    }

    /// Numbers in a vector.
    pub fn dimensions(&self) -> usize {
        self.config.hidden_size
    }

    /// Tokens of a text at most, with those around it.
    pub fn max_tokens(&self) -> usize {
        self.config.max_tokens
    }

    /// Token ids lie below this.
    pub fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    /// What the weights take.
    pub fn weight_bytes(&self) -> usize {
        self.weight_bytes
    }

    /// What encoding `tokens` tokens at a time takes at most beside the weights, for texts as long as they may be.
    pub fn workspace_bytes(&self, tokens: usize) -> usize {
        let EncoderConfig { hidden_size, intermediate_size, num_heads, max_tokens, .. } = self.config;
        let tokens = tokens.max(max_tokens);
        // Some eight activations of the width of the network, three of its wide layer, and three tables of scores.
        let row = 8 * hidden_size + 3 * intermediate_size + 3 * num_heads * max_tokens;
        tokens.saturating_mul(row).saturating_mul(size_of::<f32>())
    }

    /// Differs where another model's vectors could: other weights, pooling or limits.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// One vector of [`Encoder::dimensions`] numbers and of length 1 for each text. What is beside a text in the batch
    /// changes its vector by rounding only.
    ///
    /// # Errors
    /// When a text is empty or too long or has a token outside the vocabulary, or when its vector is not finite.
    pub fn encode(&self, batch: &[&[u32]]) -> Result<Vec<Vec<f32>>> {
        batch.iter().try_for_each(|ids| self.check(ids))?;
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        self.pool.install(|| self.run(batch))
    }

    fn check(&self, ids: &[u32]) -> Result<()> {
        if ids.is_empty() {
            return Err(Error::Batch("a text without tokens has no vector".into()));
        }
        if ids.len() > self.max_tokens() {
            return Err(Error::Batch(format!("a text has {} tokens, at most {}", ids.len(), self.max_tokens())));
        }
        match ids.iter().find(|id| **id as usize >= self.vocab_size()) {
            Some(id) => Err(Error::Batch(format!("token {id} is outside the vocabulary of {}", self.vocab_size()))),
            None => Ok(()),
        }
    }

    fn run(&self, batch: &[&[u32]]) -> Result<Vec<Vec<f32>>> {
        let (rows, width) = (batch.len(), batch.iter().map(|ids| ids.len()).max().unwrap_or(0));
        let mut ids = Vec::with_capacity(rows * width);
        let mut mask = Vec::with_capacity(rows * width);
        for text in batch {
            let padding = width - text.len();
            ids.extend(text.iter().copied().chain(std::iter::repeat_n(self.config.pad_id, padding)));
            mask.extend(std::iter::repeat_n(1_f32, text.len()).chain(std::iter::repeat_n(0.0, padding)));
        }
        let ids = Tensor::from_vec(ids, (rows, width), &Device::Cpu)?;
        let mask = Tensor::from_vec(mask, (rows, width), &Device::Cpu)?;
        let types = ids.zeros_like()?;
        // (rows, width, hidden_size)
        let hidden = match &self.network {
            Network::Bert(model) => model.forward(&ids, &types, Some(&mask))?,
            Network::XlmRoberta(model) => model.forward(&ids, &mask, &types, None, None, None)?,
        };
        let hidden = hidden.flatten_all()?.to_vec1::<f32>()?;
        let stride = width * self.dimensions();
        let texts = hidden.chunks_exact(stride).zip(batch);
        texts.map(|(hidden, ids)| self.pool_rows(&hidden[..ids.len() * self.dimensions()])).collect()
    }

    /// The vector of a text from the last layer's rows of its tokens, `(num_tokens, hidden_size)`.
    fn pool_rows(&self, rows: &[f32]) -> Result<Vec<f32>> {
        let mut sum = vec![0_f64; self.dimensions()];
        let rows = rows.chunks_exact(self.dimensions());
        let pooled = match self.config.pooling {
            Pooling::Mean => rows.len(),
            Pooling::Cls => 1,
        };
        for row in rows.take(pooled) {
            sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
        }
        // The length of the sum takes the mean's divisor with it.
        let length = sum.iter().map(|value| value * value).sum::<f64>().sqrt();
        if !length.is_normal() {
            return Err(Error::Batch("the vector of a text is not finite: are the model's weights damaged?".into()));
        }
        Ok(sum.into_iter().map(|value| (value / length) as f32).collect())
    }
}
