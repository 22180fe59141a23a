//! From a text to its vector: prefix, tokens, the engine's encoder.

use std::sync::Arc;

use super::TextError;
use crate::engine::{EncodeError, EngineHandle};
use crate::text::EncoderTokenizer;

/// Longer texts are tokenised on a blocking thread, bytes.
const SHORT: usize = 2048;

/// What is known of an embedding model besides its weights.
#[derive(Debug)]
pub struct EmbeddingModel {
    /// Name of its folder.
    pub name: String,
    /// Differs where another model's vectors could, the prefix counted; vectors of different models must not be compared.
    pub fingerprint: String,
    /// Put before each text that asks, as it stands.
    pub query_prefix: String,
    /// Text to ids.
    pub tokenizer: EncoderTokenizer,
}

/// Makes vectors. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Embedder {
    model: Arc<EmbeddingModel>,
    engine: EngineHandle,
}

/// Why there is no vector.
#[derive(Debug, thiserror::Error)]
pub enum EmbedError {
    /// The text cannot be tokenised.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The engine refused or failed.
    #[error(transparent)]
    Engine(#[from] EncodeError),
    /// A bug: a task ended without a word.
    #[error("the text was lost")]
    Lost,
}

impl Embedder {
    /// Over an engine with this model's encoder.
    pub fn new(model: EmbeddingModel, engine: EngineHandle) -> Self {
        Self { model: Arc::new(model), engine }
    }

    /// The model.
    pub fn model(&self) -> &EmbeddingModel {
        &self.model
    }

    /// Numbers in a vector.
    pub fn dimensions(&self) -> usize {
        self.engine.encoder().map_or(0, |encoder| encoder.dimensions)
    }

    /// The vector of a text that asks, of length 1: the product of two is their cosine. The end of a text that is too long
    /// for the model is left out.
    ///
    /// # Errors
    /// When the text cannot be tokenised, when too many texts wait ([`EncodeError::Busy`]), or when the engine ends.
    pub async fn embed(&self, text: &str) -> Result<Vec<f32>, EmbedError> {
        let ids = self.ids(text).await?;
        self.engine.encode(vec![ids]).await?.pop().ok_or(EmbedError::Lost)
    }

    /// The same of a text that the model takes as a whole; none of a longer one.
    ///
    /// # Errors
    /// As for [`Embedder::embed`].
    pub async fn embed_whole(&self, text: &str) -> Result<Option<Vec<f32>>, EmbedError> {
        let ids = self.ids(text).await?;
        if self.engine.encoder().is_none_or(|encoder| ids.len() >= encoder.max_tokens) {
            return Ok(None);
        }
        self.engine.encode(vec![ids]).await.map(|mut vectors| vectors.pop()).map_err(EmbedError::Engine)
    }

    async fn ids(&self, text: &str) -> Result<Vec<u32>, EmbedError> {
        let text = format!("{}{text}", self.model.query_prefix);
        if text.len() <= SHORT {
            return Ok(self.model.tokenizer.encode(&text)?);
        }
        let model = Arc::clone(&self.model);
        let encode = move || model.tokenizer.encode(&text);
        Ok(tokio::task::spawn_blocking(encode).await.map_err(|_| EmbedError::Lost)??)
    }
}
