//! The text side against independent references: the tokenizers crate on published `tokenizer.json` files, Python's
//! tokenizers and Jinja2 (goldens in tests/fixtures), and plain rules restated as properties.
#![expect(clippy::unwrap_used, reason = "tests")]

mod detokenizer;
mod fixtures;
mod hostile;
mod prompts;
mod stop;
mod templates;
mod tokenizers_parity;
