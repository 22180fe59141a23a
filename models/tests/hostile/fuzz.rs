//! The fuzz targets over mutations of sound files, from a fixed seed, and over every case ever found.
//! `STEPPE_FUZZ_CASES` says how many mutations of each (default 4,000); a case that panics is put into
//! `tests/corpus/<target>/`.

use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use crate::raw::RawGguf;
use kernels::GgmlType;
use models::random::RandomModel;
use models::{Architecture, Recipe, fuzz};

fn run(target: fn(&[u8]), name: &str, seeds: &[Vec<u8>]) {
    let cases = std::env::var("STEPPE_FUZZ_CASES").map_or(4_000, |cases| cases.parse().unwrap());
    for seed in seeds {
        target(seed);
    }
    let mut rng = fastrand::Rng::with_seed(1);
    for number in 0..cases {
        let case = fuzz::mutate(&seeds[number % seeds.len()], &mut rng);
        if catch_unwind(|| target(&case)).is_err() {
            let directory = corpus_directory(name);
            std::fs::create_dir_all(&directory).unwrap();
            let path = directory.join(format!("found-{number}"));
            std::fs::write(&path, &case).unwrap();
            panic!("case {number} panicked: commit {} with its mend", path.display());
        }
    }
}

fn corpus_directory(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(target)
}

/// The files in `tests/corpus/<target>`.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let mut paths: Vec<_> =
        std::fs::read_dir(corpus_directory(target)).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty());
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// A file of a tiny model's directory, as safetensors.
fn directory_file(name: &str) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let mut model = RandomModel::tiny(Architecture::Qwen2, Recipe::Uniform(GgmlType::F16));
    model.config.num_layers = 1;
    model.write_safetensors(directory.path(), GgmlType::F16, 1).unwrap();
    std::fs::read(directory.path().join(name)).unwrap()
}

#[test]
fn gguf() {
    let mut seeds = corpus("gguf");
    seeds.extend([RawGguf::sound().bytes(), RawGguf { version: 2, ..RawGguf::sound() }.bytes()]);
    run(fuzz::gguf, "gguf", &seeds);
}

#[test]
fn safetensors_header() {
    let mut seeds = corpus("safetensors_header");
    let header = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},
        "b":{"dtype":"BF16","shape":[3],"data_offsets":[16,22]}}"#;
    seeds.push([&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 22]].concat());
    run(fuzz::safetensors_header, "safetensors_header", &seeds);
}

#[test]
fn config_json() {
    let mut seeds = corpus("config_json");
    seeds.push(directory_file("config.json"));
    run(fuzz::config_json, "config_json", &seeds);
}

#[test]
fn tokenizer_json() {
    let mut seeds = corpus("tokenizer_json");
    seeds.push(directory_file("tokenizer.json"));
    run(fuzz::tokenizer_json, "tokenizer_json", &seeds);
}
