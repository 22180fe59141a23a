//! Finds the model that the configuration names and reads everything of it but the weights.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use anyhow::{Context as _, bail};
use models::ModelFile;

use super::recommended;
use crate::config::ModelSettings;
use crate::generate::ServedModel;
use crate::library::Library;
use crate::manifest::Manifest;
use crate::server::unix_time;
use crate::text::{ChatTemplate, Tokenizer};

/// The path of the configured model, or of the only one in the weights directory.
///
/// # Errors
/// When there is none, or more than one to choose from.
pub fn locate(settings: &ModelSettings) -> anyhow::Result<PathBuf> {
    let library = Library::new(&settings.directory);
    if let Some(wanted) = &settings.path {
        return Ok(library.find(wanted)?);
    }
    let directory = settings.directory.display();
    match library.models()?.as_slice() {
        [] => bail!(
            "there is no model in {directory}: put a GGUF file there, name one with --model, or fetch one with \
             `steppe pull`"
        ),
        [model] => Ok(model.clone()),
        several => {
            let names: Vec<_> = several.iter().map(|path| Manifest::name_of(path)).collect();
            bail!("there are several models in {directory}: choose one with --model ({})", names.join(", "))
        }
    }
}

/// Everything but the weights.
///
/// # Errors
/// When manifest or tokenizer cannot be read. A model without a usable chat template still serves completions.
pub fn describe(file: &ModelFile, settings: &ModelSettings, context: usize) -> anyhow::Result<ServedModel> {
    let path = file.path();
    let manifest = Manifest::of_model(path)?.unwrap_or_default();
    let tokenizer = Tokenizer::from_source(&file.tokenizer()?).with_context(|| path.display().to_string())?;
    let config = file.config()?;
    check_tokenizer(&tokenizer, config.vocab_size).with_context(|| path.display().to_string())?;
    let template = ChatTemplate::select(manifest.chat_template.as_deref(), file.chat_template(), &tokenizer);
    let template = template.map_err(|error| error.to_string());
    if let Err(error) = &template {
        tracing::warn!("chat is off: {error}");
    }
    let end_ids = match &template {
        Ok(template) => template.end_ids(&file.end_ids(), &tokenizer),
        Err(_) => file.end_ids(),
    };
    Ok(ServedModel {
        id: Manifest::name_of(path),
        aliases: settings.aliases.clone(),
        fingerprint: fingerprint(path, file, context),
        created: unix_time(),
        manifest,
        file_sampling: recommended::sampling(file),
        context,
        vocab_size: config.vocab_size,
        end_ids,
        tokenizer: Arc::new(tokenizer),
        shared_tokens: OnceLock::new(),
        template,
    })
}

/// Refuses a tokenizer that makes ordinary text into tokens for which the model has no row: it is another model's.
/// Control tokens beyond the rows are let pass, since fine-tunes add some that are never used; a prompt with one of
/// them is refused.
fn check_tokenizer(tokenizer: &Tokenizer, rows: usize) -> anyhow::Result<()> {
    let begins = |id: u32| tokenizer.add_bos() && tokenizer.bos_id() == Some(id);
    for id in rows as u32..tokenizer.vocab_size() as u32 {
        let piece = tokenizer.piece(id);
        if piece.is_empty() {
            continue;
        }
        if !tokenizer.is_special(id) || begins(id) {
            bail!(
                "the tokenizer is not this model's: its token {id} ({piece:?}) is beyond the {rows} that the model has"
            );
        }
        tracing::warn!("the model has {rows} tokens: prompts with the control token {id} ({piece:?}) are refused");
    }
    Ok(())
}

/// The same for the same tensors, size and context; cheap, so that starting stays quick.
fn fingerprint(path: &Path, file: &ModelFile, context: usize) -> String {
    let mut hasher = DefaultHasher::new();
    std::fs::metadata(path).map_or(0, |metadata| metadata.len()).hash(&mut hasher);
    for tensor in file.tensors() {
        format!("{tensor:?}").hash(&mut hasher);
    }
    (context, env!("CARGO_PKG_VERSION")).hash(&mut hasher);
    format!("fp_{:012x}", hasher.finish() >> 16)
}
