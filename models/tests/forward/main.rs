//! The proof that a step's logits are right: against a plain transformer on tiny models, against Hugging Face on the
//! demo model, and the same bits whatever the batch, the chunks and the blocks.
#![expect(clippy::unwrap_used, reason = "tests")]
#![expect(clippy::print_stdout, reason = "the figures of parity are for the reader of a test's output")]

mod architectures;
#[cfg(any(feature = "cuda", feature = "cuda-emulation"))]
mod card;
mod golden;
mod invariance;
mod naive;
mod runner;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;
