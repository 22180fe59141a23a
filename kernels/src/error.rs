//! What can go wrong in this crate: a caller's shape mistake, or Candle's own error.

/// A kernel was called with shapes or types it does not take, or Candle failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A tensor's shape, type or layout is not what the operation documents.
    #[error("{op}: {message}")]
    Shape {
        /// The operation that was called.
        op: &'static str,
        /// What was wrong, with the numbers.
        message: String,
    },
    /// An instruction set was asked for that this machine does not have.
    #[error("this machine has no {asked}; the best it has is {best}, leave the instruction set open to take it")]
    Isa {
        /// What was asked for.
        asked: crate::Isa,
        /// What there is.
        best: crate::Isa,
    },
    /// The operating system refused a thread.
    #[error("could not start a compute thread: {0}; lower the number of threads or raise the process limit")]
    Threads(#[source] std::io::Error),
    /// The operating system refused memory.
    #[error("no memory for packed weights: {0}")]
    Memory(#[source] std::io::Error),
    /// There is no card that can be used.
    #[error(transparent)]
    NoCard(#[from] crate::NoCard),
    /// The card cannot do what was asked.
    #[error("{0}")]
    Card(String),
    /// The card has failed while it worked: nothing more can come from it before the process starts again.
    #[error("the card has failed: {0}")]
    CardFailed(String),
    /// Candle's own error.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// The result of a kernel call.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn shape(op: &'static str, message: impl Into<String>) -> Self {
        Self::Shape { op, message: message.into() }
    }
}
