//! Bodies of the fuzz targets as plain functions, for the tests' mutation loops and for any fuzzer: each takes hostile
//! bytes and must come back, and what it accepts must be sound.

use std::path::Path;

use crate::gguf::GgufFile;
use crate::mapped::MappedFile;
use crate::safetensors::{config_from_bytes, header};
use crate::tokenizer_json;

/// Opens `bytes` as a GGUF file and asks it for everything.
///
/// # Panics
/// When a file was accepted whose tensors contradict their own sizes: a bug.
pub fn gguf(bytes: &[u8]) {
    let Ok(file) = MappedFile::from_bytes(Path::new("fuzz.gguf"), bytes).and_then(GgufFile::new) else { return };
    for tensor in file.tensors() {
        let elements: usize = tensor.shape.iter().product();
        let size = elements / tensor.ggml_type.block_len() * tensor.ggml_type.block_bytes();
        assert_eq!(file.tensor_view(&tensor.name).map(|view| view.bytes.len()), Some(size), "{}", tensor.name);
    }
    let vocabulary = file.vocabulary().ok();
    for id in file.end_ids() {
        assert!(vocabulary.as_ref().is_none_or(|vocabulary| (id as usize) < vocabulary.tokens.len()));
    }
    if let Ok(config) = file.config() {
        assert_eq!(config.check(), Ok(()));
    }
    let text: usize = file.metadata().iter().map(|(key, value)| key.len() + value.to_string().len()).sum();
    std::hint::black_box((text, file.chat_template()));
}

/// Reads `bytes` as a whole safetensors file.
///
/// # Panics
/// When a table was accepted whose tensors contradict their own sizes: a bug.
pub fn safetensors_header(bytes: &[u8]) {
    let Ok(entries) = header::parse(bytes) else { return };
    for entry in entries {
        let size = entry.shape.iter().product::<usize>() * entry.ggml_type.block_bytes();
        assert_eq!(bytes[entry.range.clone()].len(), size, "{}", entry.name);
    }
}

/// Reads `bytes` as a `config.json`.
///
/// # Panics
/// When a configuration was accepted that contradicts itself: a bug.
pub fn config_json(bytes: &[u8]) {
    if let Some(config) = config_from_bytes(bytes) {
        assert_eq!(config.check(), Ok(()));
    }
}

/// Reads `bytes` as a `tokenizer.json`.
///
/// # Panics
/// When a vocabulary was accepted whose parts disagree: a bug.
pub fn tokenizer_json(bytes: &[u8]) {
    if let Some(vocabulary) = tokenizer_json::parse(bytes) {
        assert_eq!(vocabulary.tokens.len(), vocabulary.kinds.len());
    }
}

/// `seed` with one to four random changes: bits, numbers of all widths set to values that break parsers, pieces cut
/// out, copied or cut off.
pub fn mutate(seed: &[u8], rng: &mut fastrand::Rng) -> Vec<u8> {
    const NUMBERS: [u64; 12] = [0, 1, 2, 3, 31, 255, 1 << 16, 1 << 31, 0xffff_ffff, 1 << 60, 1 << 63, u64::MAX];
    let mut bytes = seed.to_vec();
    for _ in 0..rng.usize(1..=4) {
        if bytes.is_empty() {
            break;
        }
        let at = rng.usize(..bytes.len());
        let end = rng.usize(at..=bytes.len().min(at + 64));
        match rng.u8(..6) {
            0 => bytes[at] ^= 1 << rng.u8(..8),
            1 => bytes[at] = rng.u8(..),
            2 => {
                let number = NUMBERS[rng.usize(..NUMBERS.len())].to_le_bytes();
                let width = [1, 2, 4, 8][rng.usize(..4)].min(bytes.len() - at);
                bytes[at..at + width].copy_from_slice(&number[..width]);
            }
            3 => drop(bytes.drain(at..end)),
            4 => {
                let piece = bytes[at..end].to_vec();
                let to = rng.usize(..=bytes.len());
                bytes.splice(to..to, piece);
            }
            _ => bytes.truncate(at),
        }
    }
    bytes
}
