//! Text in, token ids out, and back: the tokenizer, the chat template, the incremental detokenizer, stop strings.
//! Pure functions over what a model file says; no HTTP, no tokio, no engine.

mod detokenizer;
mod encoder;
mod error;
pub mod fuzz;
mod gguf;
mod guard;
mod huggingface;
mod json;
mod pipeline;
mod pre_tokenizer;
mod python;
mod stop;
mod strftime;
mod template;
mod tokenizer;
mod vocabulary;

pub use detokenizer::Detokenizer;
pub use encoder::EncoderTokenizer;
pub use error::{Result, TextError};
pub use stop::{MAX_STOP_STRINGS, StopStep, StopStrings};
pub use template::{ChatTemplate, Conversation, RenderedPrompt};
pub use tokenizer::Tokenizer;
