//! The weights directory: which models lie there, how one is found by name, how a new one is checked and installed.
//!
//! Must not know what runs a model. Downloads go through [`hub`]; nothing else here touches the network.

mod hash;
pub mod hub;
mod import;
mod summary;

use std::io;
use std::path::{Path, PathBuf};

use models::ModelFile;

pub use hash::sha256_of;
pub use import::{Import, Installed, import, install};
pub use summary::{MemoryRow, Summary, TokenizerSummary, TypeShare};

use crate::manifest::{Manifest, ManifestError};
use crate::text::{ChatTemplate, TextError, Tokenizer};

/// Why a model cannot be found or installed.
#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    /// A file cannot be read or written.
    #[error("{}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// No model of this name or path.
    #[error("{wanted}: no such file, and no model of this name in {}{known}", directory.display())]
    NotFound {
        /// What was asked for.
        wanted: String,
        /// The weights directory.
        directory: PathBuf,
        /// The names that are there, for people.
        known: String,
    },
    /// Something of this name is installed already.
    #[error("{} is there already: choose another name with --name, or replace it with --force", .0.display())]
    Occupied(PathBuf),
    /// The bytes are not those that were announced.
    #[error("{file}: its SHA-256 is {actual}, {expected} was expected; nothing was installed")]
    WrongHash {
        /// The file.
        file: String,
        /// The announced hash.
        expected: String,
        /// The hash of the bytes.
        actual: String,
    },
    /// The model cannot be opened.
    #[error(transparent)]
    Model(#[from] models::Error),
    /// Its tokenizer or template cannot be used.
    #[error("{}: {reason}", path.display())]
    Text {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong.
        reason: TextError,
    },
    /// Its manifest cannot be read or written.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The hub.
    #[error(transparent)]
    Hub(#[from] hub::HubError),
}

impl LibraryError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + use<'_> {
        |source| Self::Io { path: path.to_owned(), source }
    }
}

/// A directory with models: GGUF files and directories of safetensors, manifests beside them.
#[derive(Debug, Clone)]
pub struct Library {
    directory: PathBuf,
}

impl Library {
    /// The library in this directory, which need not exist yet.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Paths of the models that lie here, by name. Nothing is opened; hidden entries and anything else are left out.
    pub fn models(&self) -> Result<Vec<PathBuf>, LibraryError> {
        let entries = match std::fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(LibraryError::io(&self.directory)(e)),
        };
        let mut models = Vec::new();
        for entry in entries {
            let path = entry.map_err(LibraryError::io(&self.directory))?.path();
            let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
            let gguf = path.extension().is_some_and(|extension| extension == "gguf");
            if !hidden && (gguf && path.is_file() || path.join("config.json").is_file()) {
                models.push(path);
            }
        }
        models.sort();
        Ok(models)
    }

    /// A model by path (a GGUF file or a safetensors directory) or by its name here, with or without `.gguf`.
    pub fn find(&self, wanted: &str) -> Result<PathBuf, LibraryError> {
        let path = Path::new(wanted);
        if path.is_file() || path.join("config.json").is_file() {
            return Ok(path.to_owned());
        }
        let models = self.models()?;
        let named = |model: &&PathBuf| {
            model.file_name().is_some_and(|name| name == wanted) || Manifest::name_of(model) == wanted
        };
        models.iter().find(named).cloned().ok_or_else(|| LibraryError::NotFound {
            wanted: wanted.to_owned(),
            directory: self.directory.clone(),
            known: names(&models),
        })
    }

    /// Where a model of this name lies or will lie.
    pub fn place(&self, name: &str, is_gguf: bool) -> PathBuf {
        self.directory.join(if is_gguf { format!("{name}.gguf") } else { name.to_owned() })
    }
}

fn names(models: &[PathBuf]) -> String {
    if models.is_empty() {
        return " (it holds none)".into();
    }
    let names: Vec<_> = models.iter().map(|model| Manifest::name_of(model)).collect();
    format!(" (there are: {})", names.join(", "))
}

/// Whether a file is GGUF by its name.
pub fn is_gguf(file: &str) -> bool {
    has_extension(file, "gguf")
}

fn has_extension(file: &str, wanted: &str) -> bool {
    Path::new(file).extension().is_some_and(|extension| extension == wanted)
}

/// Opens a model and everything that serving it needs short of its weights: table, configuration, tokenizer, template.
pub fn check(path: &Path) -> Result<ModelFile, LibraryError> {
    let file = ModelFile::open(path)?;
    file.config()?;
    let source = file.tokenizer()?;
    let text = |reason| LibraryError::Text { path: path.to_owned(), reason };
    let tokenizer = Tokenizer::from_source(&source).map_err(text)?;
    if let Some(template) = file.chat_template() {
        ChatTemplate::new(template, &tokenizer).map_err(text)?;
    }
    Ok(file)
}
