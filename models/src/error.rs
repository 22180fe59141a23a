//! One error for everything about a model file; it always names the file and the tensor or key at fault.

use std::path::{Path, PathBuf};

/// Why a model cannot be read or run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be opened or mapped.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file is damaged, hostile, or of a kind that does not run here.
    #[error("{}: {message}", path.display())]
    Invalid {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong, naming the tensor or key.
        message: String,
    },
    /// A step that the model cannot run: too many rows, a token outside the vocabulary, a block outside the cache.
    #[error("the step cannot run: {0}")]
    Batch(String),
    /// A kernel failed.
    #[error(transparent)]
    Kernel(#[from] kernels::Error),
    /// Candle failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// The result of an operation on a model.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Whether the card has failed, and nothing more can come from it.
    pub fn is_card_failure(&self) -> bool {
        matches!(self, Self::Kernel(kernels::Error::CardFailed(_)))
    }

    pub(crate) fn invalid(path: &Path, message: impl Into<String>) -> Self {
        Self::Invalid { path: path.to_owned(), message: message.into() }
    }
}
