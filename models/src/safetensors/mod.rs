//! Safetensors directories of Hugging Face.

pub(crate) mod names;
