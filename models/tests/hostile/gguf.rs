//! Hostile GGUF files: each ends in one clear error that names the file and the tensor or key, never in a panic.

use std::path::Path;

use crate::raw::{ARRAY, Raw, RawGguf, STRING, U32, array, entry, number, tensor};
use models::{Error, ModelFile, Result, TokenizerSource};

/// Opens the bytes as a file and asks it for everything a server asks.
fn open(bytes: &[u8], directory: &Path) -> Result<ModelFile> {
    let path = directory.join("hostile.gguf");
    std::fs::write(&path, bytes).unwrap();
    let file = ModelFile::open(&path)?;
    file.config()?;
    file.tokenizer()?;
    Ok(file)
}

/// The error's text, which must be one line and begin with the file's name.
fn refusal(bytes: &[u8]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let error = open(bytes, directory.path()).unwrap_err();
    let Error::Invalid { message, .. } = &error else { panic!("another kind of error: {error}") };
    let text = error.to_string();
    assert!(text.contains("hostile.gguf") && !text.contains('\n') && text.len() < 400, "{text}");
    message.clone()
}

#[test]
fn a_sound_file_of_either_version_is_read() {
    let directory = tempfile::tempdir().unwrap();
    for version in [2, 3] {
        let file = open(&RawGguf { version, ..RawGguf::sound() }.bytes(), directory.path()).unwrap();
        assert_eq!(file.tensors().len(), 3);
        assert_eq!(file.end_ids(), [0]);
        assert_eq!(file.format(), format!("GGUF v{version}"));
    }
}

#[test]
fn a_file_cut_short_at_any_byte_is_refused() {
    let bytes = RawGguf::sound().bytes();
    for len in 0..bytes.len() {
        let message = refusal(&bytes[..len]);
        let names = ["header", "metadata key", "tensor ", "name of tensor", "is empty"];
        assert!(names.iter().any(|name| message.contains(name)), "at {len}: {message}");
    }
}

#[test]
fn counts_beyond_the_file_are_refused_before_anything_is_allocated() {
    for count in [1 << 31, 1 << 60, u64::MAX] {
        let sound = RawGguf::sound;
        assert!(refusal(&RawGguf { num_tensors: Some(count), ..sound() }.bytes()).contains("tensors are claimed"));
        assert!(refusal(&RawGguf { num_entries: Some(count), ..sound() }.bytes()).contains("keys are claimed"));
        for element in [0, U32, STRING, ARRAY] {
            let key = entry("tokenizer.ggml.tokens", ARRAY, array(element, count));
            let message = refusal(&sound().with_entry("tokenizer.ggml.tokens", key).bytes());
            assert!(message.starts_with("metadata key tokenizer.ggml.tokens: an array claims"), "{message}");
        }
        let key = entry("general.name", STRING, Raw::default().u64(count));
        let message = refusal(&sound().with_entry("general.name", key).bytes());
        assert!(message.starts_with("metadata key general.name: "), "{message}");
        let long_key = Raw::default().u64(count).0;
        assert!(refusal(&sound().with_entry("?", long_key).bytes()).starts_with("metadata key 15: "));
        let long_name = Raw::default().u64(count).0;
        assert!(refusal(&sound().with_tensor(long_name).bytes()).starts_with("name of tensor 3: "));
        let offset = refusal(&sound().with_tensor(tensor("x", &[32], 0, count & !31)).bytes());
        assert!(offset.starts_with("tensor x: "), "{offset}");
    }
}

#[test]
fn alignments_that_are_none_are_refused() {
    for alignment in [0, 3, 4, 24, 1 << 17, u32::MAX] {
        let message = refusal(&RawGguf::sound().with_entry("?", number("general.alignment", alignment)).bytes());
        assert!(message.starts_with("metadata key general.alignment: "), "{message}");
    }
    let wide = entry("general.alignment", 10, Raw::default().u64(1 << 40));
    assert!(refusal(&RawGguf::sound().with_entry("?", wide).bytes()).contains("general.alignment"));
}

#[test]
fn shapes_that_lie_are_refused() {
    for dimensions in [&[1 << 62][..], &[1 << 32, 1 << 32], &[u64::MAX], &[32, u64::MAX, u64::MAX], &[1 << 31; 4]] {
        let message = refusal(&RawGguf::sound().with_tensor(tensor("x", dimensions, 0, 320)).bytes());
        assert!(message.starts_with("tensor x: "), "{message}");
    }
    for dimensions in [&[0][..], &[32, 0], &[0, 1 << 62]] {
        let message = refusal(&RawGguf::sound().with_tensor(tensor("x", dimensions, 8, 320)).bytes());
        assert!(message.starts_with("tensor x: ") && message.contains("is zero"), "{message}");
    }
    for dimensions in [&[][..], &[1; 5]] {
        let message = refusal(&RawGguf::sound().with_tensor(tensor("x", dimensions, 0, 320)).bytes());
        assert!(message.contains("dimensions"), "{message}");
    }
    let message = refusal(&RawGguf::sound().with_tensor(tensor("x", &[33], 8, 320)).bytes());
    assert!(message.contains("tensor x: rows of 33 elements do not divide into Q8_0's blocks of 32"), "{message}");
}

#[test]
fn types_that_do_not_run_are_named() {
    for (id, name) in [(21, "IQ3_S"), (9, "Q8_1"), (39, "MXFP4"), (4, "Q4_2"), (77, "number 77")] {
        let message = refusal(&RawGguf::sound().with_tensor(tensor("blk.0.x", &[256], id, 320)).bytes());
        assert_eq!(message, format!("tensor blk.0.x: type {name} does not run here"));
    }
    let message = refusal(&RawGguf::sound().with_entry("?", entry("a", 13, Raw::default())).bytes());
    assert_eq!(message, "metadata key a: 13 is no type of a metadata value");
}

#[test]
fn places_that_lie_are_refused() {
    let sound = RawGguf::sound;
    let overlapping = refusal(&sound().with_tensor(tensor("x", &[8], 0, 128)).bytes());
    assert_eq!(overlapping, "tensors token_embd.weight and x overlap");
    let same = refusal(&sound().with_tensor(tensor("x", &[8], 0, 288)).bytes());
    assert!(same.contains("overlap"), "{same}");
    let beyond = refusal(&sound().with_tensor(tensor("x", &[8], 0, 320)).bytes());
    assert!(beyond.starts_with("tensor x: its 32 bytes reach beyond the end of the file"), "{beyond}");
    let unaligned = refusal(&sound().with_tensor(tensor("x", &[8], 0, 321)).bytes());
    assert!(unaligned.starts_with("tensor x: its offset 321 is no multiple"), "{unaligned}");
}

#[test]
fn names_that_repeat_or_are_no_text_are_refused() {
    let sound = RawGguf::sound;
    let twice = refusal(&sound().with_tensor(tensor("token_embd.weight", &[8], 0, 320)).bytes());
    assert_eq!(twice, "tensor token_embd.weight is listed twice");
    let mut repeated = sound();
    repeated.entries.push(number("llama.block_count", 2));
    assert_eq!(refusal(&repeated.bytes()), "metadata key llama.block_count appears twice");
    for name in ["", &"x".repeat(65)] {
        assert!(refusal(&sound().with_tensor(tensor(name, &[8], 0, 320)).bytes()).starts_with("name of tensor 3: "));
    }
    let bad = Raw::default().u64(2).bytes(&[0xc3, 0x28]);
    assert!(refusal(&sound().with_entry("?", bad.clone().0).bytes()).contains("is not valid UTF-8"));
    assert!(refusal(&sound().with_tensor(bad.clone().0).bytes()).contains("name of tensor 3: "));
    let message = refusal(&sound().with_entry("?", entry("a\nb", STRING, bad)).bytes());
    assert!(message.starts_with("metadata key a\\nb: the text at offset"), "{message}");
}

#[test]
fn arrays_nested_too_deep_are_refused() {
    let deep = (0..100_000).fold(Raw::default(), |raw, _| raw.u32(ARRAY).u64(1)).u32(U32).u64(0);
    let message = refusal(&RawGguf::sound().with_entry("?", entry("a", ARRAY, deep)).bytes());
    assert_eq!(message, "metadata key a: arrays are nested more than 4 deep");
}

#[test]
fn what_is_no_gguf_is_told_apart() {
    let mut other = RawGguf::sound().bytes();
    other[0] = b'X';
    assert!(refusal(&other).contains("not a GGUF file"));
    assert!(refusal(&RawGguf { version: 3u32.swap_bytes(), ..RawGguf::sound() }.bytes()).contains("big-endian"));
    assert!(refusal(&RawGguf { version: 1, ..RawGguf::sound() }.bytes()).contains("version 1"));
    assert!(refusal(&RawGguf { version: 4, ..RawGguf::sound() }.bytes()).contains("version 4"));
}

#[test]
fn configurations_that_cannot_run_are_refused_by_key() {
    let with = |key: &str, value: u32| refusal(&RawGguf::sound().with_entry(key, number(key, value)).bytes());
    assert!(with("llama.block_count", 0).contains("number of layers is 0"));
    assert!(with("llama.block_count", u32::MAX).contains("number of layers"));
    assert!(with("llama.attention.head_count", 0).contains("head"));
    assert!(with("llama.attention.head_count_kv", 3).contains("cannot share 3"));
    assert!(with("llama.embedding_length", 64).contains("token_embd.weight: rows of 32"));
    assert!(with("llama.context_length", u32::MAX).contains("context length"));
    assert!(with("llama.expert_count", 8).contains("llama.expert_count"));
    assert!(with("tokenizer.ggml.eos_token_id", 4).contains("tokenizer.ggml.eos_token_id: token 4 is outside"));
    let not_finite = entry("llama.rope.freq_base", 6, Raw::default().u32(f32::NAN.to_bits()));
    assert!(refusal(&RawGguf::sound().with_entry("?", not_finite).bytes()).contains("llama.rope.freq_base"));
    let text = |key: &str, value: &str| entry(key, STRING, Raw::default().string(value));
    let other = RawGguf::sound().with_entry("general.architecture", text("general.architecture", "mamba"));
    assert!(refusal(&other.bytes()).contains("architecture \"mamba\" does not run here"));
    let wrong_type = RawGguf::sound().with_entry("llama.block_count", text("llama.block_count", "1"));
    assert_eq!(refusal(&wrong_type.bytes()), "metadata key llama.block_count: a whole number is expected");
    let scaled = RawGguf::sound();
    let mut without_factors = scaled.with_entry("?", text("llama.rope.scaling.type", "yarn"));
    without_factors.tensors.pop();
    assert!(refusal(&without_factors.bytes()).contains("rope.scaling.type: \"yarn\" does not run here"));
}

#[test]
fn a_padding_token_that_the_model_does_not_have_is_left_out() {
    let directory = tempfile::tempdir().unwrap();
    let file = RawGguf::sound().with_entry("?", number("tokenizer.ggml.padding_token_id", u32::MAX));
    let file = open(&file.bytes(), directory.path()).unwrap();
    let TokenizerSource::Gguf(vocabulary) = file.tokenizer().unwrap() else { panic!("a GGUF carries its vocabulary") };
    assert_eq!(vocabulary.padding_id, None);
}

#[test]
fn weights_that_would_be_left_unread_are_refused() {
    for name in ["blk.0.attn_q.bias", "blk.1.attn_q.weight", "blk.0.ffn_gate_inp.weight"] {
        let mut file = RawGguf::sound().with_tensor(tensor(name, &[8], 0, 320));
        file.data_len += 32;
        let message = refusal(&file.bytes());
        assert_eq!(message, format!("tensor {name}: a llama model of 1 layers has no such weight"));
    }
}
