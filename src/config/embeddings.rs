//! `[embeddings]`: the model that turns texts into vectors.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::check::{Origin, invalid};

/// The embedding model.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawEmbeddings {
    pub model: String,
    pub query_prefix: String,
}

/// `[embeddings]`, resolved.
#[derive(Debug, Clone)]
pub struct EmbeddingSettings {
    /// The folder as Hugging Face keeps it.
    pub model: PathBuf,
    /// Put before each text that asks; ends with a space unless it is empty.
    pub query_prefix: String,
}

impl RawEmbeddings {
    /// Judges the values; `None` where there is no model.
    pub(super) fn resolve(self, origin: Origin) -> Result<Option<EmbeddingSettings>, ConfigError> {
        if self.model.is_empty() {
            return Ok(None);
        }
        if self.query_prefix.len() > 256 {
            return Err(invalid("embeddings.query_prefix", origin, "must not be longer than 256 bytes".into()));
        }
        // A space at the end is easily lost on the way, and variables and flags are trimmed.
        let query_prefix = match self.query_prefix.trim() {
            "" => String::new(),
            prefix => format!("{prefix} "),
        };
        Ok(Some(EmbeddingSettings { model: self.model.into(), query_prefix }))
    }
}
