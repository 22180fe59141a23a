//! What can go wrong between text and token ids. Every message is one sentence for the person who chose the model file.

use std::panic::AssertUnwindSafe;

/// Why a tokenizer or a chat template could not be built or used.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// The vocabulary contradicts itself or asks for something this program does not run.
    #[error("the model's tokenizer cannot be used: {0}")]
    Tokenizer(String),
    /// Text that this tokenizer cannot turn into ids.
    #[error("the text cannot be tokenised: {0}")]
    Encode(String),
    /// The chat template does not compile.
    #[error(
        "the model's chat template cannot be used: {0}; set chat_template to \"llama3\" or \"chatml\" in the model's \
         manifest instead"
    )]
    Template(String),
    /// The chat template failed or refused on these messages (`raise_exception`, too much work, too long an output).
    #[error("the chat template refused these messages: {0}")]
    Render(String),
    /// Stop strings outside the limits.
    #[error("{0}")]
    Stop(String),
}

/// Runs a library's code on hostile input: a panic in it (an index out of bounds in some corner) becomes an error like
/// any other instead of taking a thread of the server with it.
pub(super) fn contained<T>(error: fn(String) -> TextError, work: impl FnOnce() -> Result<T>) -> Result<T> {
    std::panic::catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(error("a library failed on it; the program's standard error has the details".into())))
}

/// Shorthand for this module's results.
pub type Result<T> = std::result::Result<T, TextError>;
