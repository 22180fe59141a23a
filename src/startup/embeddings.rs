//! Opens the embedding model that the configuration names: its encoder for the engine, the rest for who asks.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use anyhow::Context as _;
use models::Encoder;

use crate::config::EmbeddingSettings;
use crate::generate::EmbeddingModel;
use crate::manifest::Manifest;
use crate::text::EncoderTokenizer;

/// An encoder that so many threads run, and what is known of it besides.
///
/// # Errors
/// When the folder cannot be read or its model does not run here.
pub fn open(settings: &EmbeddingSettings, threads: usize) -> anyhow::Result<(Encoder, EmbeddingModel)> {
    let EmbeddingSettings { model: folder, query_prefix } = settings;
    let open = || {
        let encoder = Encoder::load(folder, threads)?;
        let tokenizer = EncoderTokenizer::open(folder, encoder.vocab_size(), encoder.max_tokens())?;
        // What cannot give a single vector is better known now.
        encoder.encode(&[&tokenizer.encode("a")?])?;
        let name = Manifest::name_of(folder);
        let mut hasher = DefaultHasher::new();
        (encoder.fingerprint(), &name, query_prefix, env!("CARGO_PKG_VERSION")).hash(&mut hasher);
        let fingerprint = format!("{:012x}", hasher.finish() >> 16);
        let model = EmbeddingModel { name, fingerprint, query_prefix: query_prefix.clone(), tokenizer };
        anyhow::Ok((encoder, model))
    };
    open().context("the embedding model (embeddings.model) cannot be loaded")
}
