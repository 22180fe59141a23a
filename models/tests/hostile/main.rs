//! Model files as an attacker would write them: every one must end in one clear error, within the memory promised.
#![expect(clippy::unwrap_used, reason = "tests")]

mod fuzz;
mod gguf;
mod memory;
mod raw;
mod safetensors;
