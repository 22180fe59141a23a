//! Hostile tokenizer metadata and templates: one clear error each, and mutations of seeds never panic.
//! The seeds here are sound ones; tests/fuzz.rs goes on from there for as long as it is told.

use std::time::{Duration, Instant};

use models::TokenizerSource;
use serde_json::{Value, json};
use steppe::text::{TextError, Tokenizer, fuzz};

const BYTE_LEVEL: &str = "model gpt2\npre llama-bpe\ntoken 1 a\ntoken 1 b\ntoken 1 c\ntoken 1 ab\ntoken 1 abc\n\
                          token 1 Ġ\ntoken 1 Ġa\ntoken 3 <|eot_id|>\ntoken 4 <think>\nmerge a b\nmerge ab c\n\
                          merge Ġ a\nbos 7\neos 7\nadd_bos 1\n";
const SENTENCEPIECE: &str = "model llama\npre default\ntoken 2 <unk>\ntoken 3 <s>\ntoken 3 </s>\ntoken 6 <0x0A>\n\
                             token 1 ▁\ntoken 1 a\ntoken 1 b\ntoken 1 ▁a\ntoken 1 ▁ab\nscore 0\nscore 0\nscore 0\n\
                             score 0\nscore -3\nscore -4\nscore -5\nscore -1\nscore -2\nunknown 0\nbos 1\neos 2\n";

fn gguf(text: &str) -> Result<Tokenizer, TextError> {
    Tokenizer::from_source(&TokenizerSource::Gguf(Box::new(fuzz::parse(text))))
}

fn small_json() -> Value {
    json!({
        "added_tokens": [{"id": 3, "content": "<|end|>", "single_word": false, "lstrip": false, "rstrip": false,
                          "normalized": false, "special": true}],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]},
    })
}

#[test]
fn sound_metadata_is_accepted() {
    let tokenizer = gguf(BYTE_LEVEL).unwrap();
    assert_eq!(tokenizer.encode("abc ab<|eot_id|>", true).unwrap()[..2], [7, 4]);
    assert_eq!(tokenizer.encode("ab<think>", false).unwrap(), [3, 8]);
    let tokenizer = gguf(SENTENCEPIECE).unwrap();
    assert_eq!(tokenizer.encode("ab\n", true).unwrap(), [1, 8, 3]);
    assert_eq!(tokenizer.encode("z", false).unwrap(), [4, 0]);
    let tokenizer = Tokenizer::from_json(small_json().to_string().as_bytes()).unwrap();
    assert_eq!(tokenizer.encode("ab<|end|>a", false).unwrap(), [2, 0]);
}

#[test]
fn unsound_metadata_is_one_error_that_names_the_fault() {
    let faults = [
        ("model gpt2", "model t5", "t5"),
        ("pre llama-bpe", "pre klingon", "klingon"),
        ("merge ab c", "merge ab q", "\"q\""),
        ("merge ab c", "merge c ab", "\"cab\""),
        ("merge ab c", "merge abc", "not two tokens"),
        ("merge ab c", "merge  ", "not two tokens"),
        ("merge ab c", "merge a b c", "entry 1"),
        ("token 1 b", "token 1 a", "tokens 0 and 1"),
        ("bos 7", "bos 9", "bos_token_id is 9"),
        ("eos 7", "eos 4294967295", "eos_token_id"),
        ("merge a b\nmerge ab c\nmerge Ġ a\n", "", "merges is missing"),
        (BYTE_LEVEL, "model gpt2\n", "tokens is missing"),
        (BYTE_LEVEL, "", "tokens is missing"),
    ];
    for (from, to, expected) in faults {
        assert!(BYTE_LEVEL.contains(from));
        let error = gguf(&BYTE_LEVEL.replace(from, to)).unwrap_err().to_string();
        assert!(error.contains(expected) && !error.contains('\n'), "{to:?}: {error}");
    }
    let error = gguf(&SENTENCEPIECE.replace("score -2\n", "")).unwrap_err().to_string();
    assert!(error.contains("scores has 8 entries for 9 tokens"), "{error}");
    let mut kinds = fuzz::parse(BYTE_LEVEL);
    kinds.kinds.pop();
    let error = Tokenizer::from_source(&TokenizerSource::Gguf(Box::new(kinds))).unwrap_err().to_string();
    assert!(error.contains("token_type has 8 entries for 9 tokens"), "{error}");
}

#[test]
fn odd_scores_and_ids_do_no_harm() {
    for score in ["NaN", "inf", "-inf", "0", "-0", "1e38"] {
        let tokenizer = gguf(&SENTENCEPIECE.replace("score -2", &format!("score {score}"))).unwrap();
        assert_eq!(tokenizer.decode(&tokenizer.encode("ab a", false).unwrap()), "ab a", "{score}");
    }
    let tokenizer = gguf(&SENTENCEPIECE.replace("unknown 0", "unknown 4000000000")).unwrap();
    assert_eq!(tokenizer.encode("z", false).unwrap(), [4, 0]);
    assert_eq!(tokenizer.token_bytes(u32::MAX), b"");
    assert_eq!(tokenizer.decode(&[u32::MAX, 9, 5]), "a");
}

#[test]
fn unsound_json_is_one_error_that_names_the_fault() {
    let faults = [
        ("/model/type", json!("Unigram"), "Unigram"),
        ("/model/merges", json!(["a q"]), "\"q\""),
        ("/model/merges", json!(["b a"]), "\"ba\""),
        ("/model/merges", json!(["ab"]), "not two tokens"),
        ("/model/merges", json!([["a", "b", "c"]]), "tokenizer.json"),
        ("/model/vocab", json!({"a": 0, "b": 0, "ab": 1}), "both have id 0"),
        ("/model/vocab", json!({"a": 4_000_000_000_u32, "b": 1, "ab": 2}), "4000000000"),
        ("/model/vocab", json!({"a": -1, "b": 1, "ab": 2}), "tokenizer.json"),
        ("/added_tokens/0/id", json!(1), "both have id 1"),
        (
            "/pre_tokenizer",
            json!({"type": "Split", "pattern": {"Regex": "(("}, "behavior": "Isolated", "invert": false}),
            "tokenizer.json",
        ),
        ("/model/unk_token", json!("<unk>"), "<unk>"),
    ];
    for (pointer, value, expected) in faults {
        let mut json = small_json();
        json["model"]["unk_token"] = Value::Null;
        *json.pointer_mut(pointer).unwrap() = value.clone();
        let error = Tokenizer::from_json(json.to_string().as_bytes()).unwrap_err().to_string();
        assert!(error.contains(expected) && !error.contains('\n'), "{pointer} {value}: {error}");
    }
    assert!(Tokenizer::from_json(b"").is_err() && Tokenizer::from_json(b"[]").is_err());
}

/// Changes a seed in one to four places: bytes flipped, stretches removed, doubled or put elsewhere, words swapped in.
fn mutated(seed: &[u8], words: &[&str], random: &mut fastrand::Rng) -> Vec<u8> {
    let mut data = seed.to_vec();
    for _ in 0..random.usize(1..=4) {
        let at = random.usize(0..=data.len());
        let end = (at + random.usize(0..40)).min(data.len());
        match random.u8(0..6) {
            0 if at < data.len() => data[at] ^= 1 << random.u8(0..8),
            1 => drop(data.drain(at..end)),
            2 => {
                let stretch = data[at..end].to_vec();
                let to = random.usize(0..=data.len());
                data.splice(to..to, stretch);
            }
            3 => data.truncate(at),
            4 => data.insert(at, random.u8(..)),
            _ => drop(data.splice(at..at, words[random.usize(0..words.len())].bytes())),
        }
    }
    data
}

/// Runs `target` on the seeds, then on mutations of them for a while; prints the case at hand when it panics.
fn fuzz(target: fn(&[u8]), seeds: &[Vec<u8>], words: &[&str]) {
    let end = Instant::now() + Duration::from_secs(2);
    let mut random = fastrand::Rng::with_seed(23);
    let run = |data: &[u8]| {
        let result = std::panic::catch_unwind(|| target(data));
        assert!(result.is_ok(), "a panic on {:?}", String::from_utf8_lossy(data));
    };
    for seed in seeds {
        run(seed);
    }
    let mut runs = 0;
    while runs < 50 || Instant::now() < end {
        run(&mutated(&seeds[random.usize(0..seeds.len())], words, &mut random));
        runs += 1;
    }
}

#[test]
fn mutated_metadata_never_panics() {
    let digits = BYTE_LEVEL.replace("llama-bpe", "smollm");
    let seeds = [BYTE_LEVEL.into(), SENTENCEPIECE.into(), digits.into_bytes(), small_json().to_string().into_bytes()];
    let words =
        ["token 1 ", "token 3 ", "merge ", "a", "ab", "▁", "Ġ", "\n", " ", "<0x41>", "score NaN\n", "\"", "{", "null"];
    fuzz(fuzz::tokenizer_metadata, &seeds, &words);
}

#[test]
fn mutated_templates_never_panic() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/templates");
    let mut seeds: Vec<Vec<u8>> = ["llama2", "mistral", "odds"]
        .map(|name| std::fs::read(folder.join(name).with_extension("jinja")).unwrap())
        .into();
    seeds.push(crate::fixtures::demo_model().chat_template().unwrap().into());
    let words = [
        "{{", "}}", "{%", "%}", "-", "messages", "loop", "|tojson", "for ", "if ", "endif", "(", ")", "[", "~", "'",
        "9",
    ];
    fuzz(fuzz::chat_template, &seeds, &words);
}
