//! Hostile safetensors directories: each ends in one clear error that names the file and the tensor or key.

use std::path::Path;

use kernels::GgmlType;
use models::random::RandomModel;
use models::{Architecture, ModelFile, Recipe};
use tempfile::TempDir;

/// A sound directory of a tiny model in `shards` files.
fn directory(shards: usize) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let model = RandomModel::tiny(Architecture::Llama, Recipe::Uniform(GgmlType::F16));
    model.write_safetensors(directory.path(), GgmlType::F16, shards).unwrap();
    directory
}

fn refusal(directory: &Path) -> String {
    let text = ModelFile::open(directory).and_then(|file| file.config()).unwrap_err().to_string();
    assert!(text.contains(&directory.display().to_string()) && !text.contains('\n') && text.len() < 500, "{text}");
    text
}

/// The refusal of a directory whose only weights are these bytes.
fn refused_weights(bytes: &[u8]) -> String {
    refused_weights_in(&directory(1), bytes)
}

fn refused_weights_in(directory: &TempDir, bytes: &[u8]) -> String {
    std::fs::write(directory.path().join("model.safetensors"), bytes).unwrap();
    let text = refusal(directory.path());
    assert!(text.contains("model.safetensors"), "{text}");
    text
}

/// A file of this header and so many bytes of data.
fn file(header: &str, data_len: usize) -> Vec<u8> {
    let len = (header.len() as u64).to_le_bytes();
    [&len[..], header.as_bytes(), &vec![0; data_len]].concat()
}

#[test]
fn a_file_cut_short_at_any_byte_is_refused() {
    let header = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},
        "b":{"dtype":"BF16","shape":[3],"data_offsets":[16,22]}}"#;
    let (bytes, directory) = (file(header, 22), directory(1));
    for len in 0..bytes.len() {
        let text = refused_weights_in(&directory, &bytes[..len]);
        assert!(["header", "tensor ", "is empty"].iter().any(|name| text.contains(name)), "at {len}: {text}");
    }
}

#[test]
fn header_lengths_that_lie_are_refused() {
    for len in [1 << 31, 1 << 60, u64::MAX, (8 << 20) + 1] {
        assert!(refused_weights(&len.to_le_bytes()).contains("header: "));
    }
}

#[test]
fn rows_that_lie_are_refused_by_the_name_of_their_tensor() {
    let row = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"w":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    for (dtype, shape, offsets) in [
        ("F32", "[2]", "[0,4]"),
        ("F32", "[2]", "[8,0]"),
        ("F32", "[4611686018427387904]", "[0,0]"),
        ("F32", "[4294967296,4294967296]", "[0,0]"),
        ("F32", "[0]", "[0,0]"),
        ("F32", "[-1]", "[0,4]"),
        ("F32", "[18446744073709551616]", "[0,4]"),
        ("F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]"),
        ("F32", "[2]", "[18446744073709551608,18446744073709551615]"),
        ("F32", "[4]", "[0,16]"),
        ("I64", "[1]", "[0,8]"),
        ("F8_E4M3", "[8]", "[0,8]"),
    ] {
        let text = refused_weights(&file(&row(dtype, shape, offsets), 8));
        assert!(text.contains("tensor w: "), "{dtype} {shape} {offsets}: {text}");
    }
    assert!(refused_weights(&file(&row("I64", "[1]", "[0,8]"), 8)).contains("type I64 does not run here"));
}

#[test]
fn data_that_overlaps_or_belongs_to_nobody_is_refused() {
    let rows = |a: &str, b: &str| {
        format!(
            r#"{{"a":{{"dtype":"F32","shape":[2],"data_offsets":{a}}},
                "b":{{"dtype":"F32","shape":[2],"data_offsets":{b}}}}}"#
        )
    };
    assert!(refused_weights(&file(&rows("[0,8]", "[4,12]"), 12)).contains("tensors a and b overlap"));
    assert!(refused_weights(&file(&rows("[0,8]", "[12,20]"), 20)).contains("tensor b: 4 bytes before it"));
    assert!(refused_weights(&file(&rows("[0,8]", "[8,16]"), 20)).contains("4 bytes at the end of the file"));
    let twice =
        r#"{"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[],"data_offsets":[4,8]}}"#;
    assert!(refused_weights(&file(twice, 8)).contains("a is listed twice"));
    assert!(refused_weights(&file(&"[".repeat(1000), 0)).contains("header: "));
    assert!(refused_weights(&file(&format!(r#"{{"__metadata__":{}"#, "[".repeat(100_000)), 0)).contains("header: "));
}

#[test]
fn an_index_cannot_lead_out_of_the_directory_or_lie_about_its_shards() {
    let directory = directory(2);
    let path = directory.path().join("model.safetensors.index.json");
    let sound = std::fs::read_to_string(&path).unwrap();
    assert!(ModelFile::open(directory.path()).is_ok());
    for name in ["../model-00001-of-00002.safetensors", "/etc/passwd", "", "..", "sub/x.safetensors", "config.json"] {
        std::fs::write(&path, sound.replace("model-00001-of-00002.safetensors", name)).unwrap();
        assert!(refusal(directory.path()).contains("is no name of a shard"), "{name}");
    }
    std::fs::write(&path, sound.replace("model.norm.weight", "model.norm.elsewhere")).unwrap();
    assert!(refusal(directory.path()).contains("tensor model.norm.weight"));
    std::fs::write(&path, sound.replace("00001-of-00002", "00003-of-00002")).unwrap();
    assert!(refusal(directory.path()).contains("model-00003-of-00002.safetensors"));
}

#[test]
fn configurations_that_cannot_run_are_refused_by_key() {
    let directory = directory(1);
    let path = directory.path().join("config.json");
    let sound: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    for (key, value, expected) in [
        ("architectures", r#"["MixtralForCausalLM"]"#, "MixtralForCausalLM"),
        ("hidden_act", r#""gelu""#, "hidden_act"),
        ("attention_bias", "true", "attention_bias"),
        ("rope_scaling", r#"{"rope_type":"yarn","factor":4.0}"#, "yarn"),
        ("rope_scaling", r#"{"rope_type":"llama3","factor":0}"#, "rope_scaling.factor"),
        ("num_hidden_layers", "-1", "config.json"),
        ("num_attention_heads", "0", "number of heads"),
        ("num_key_value_heads", "3", "cannot share 3"),
        ("head_dim", "1152921504606846976", "head size"),
        ("rms_norm_eps", "1e999", "config.json"),
    ] {
        let mut json = sound.clone();
        if expected == "MixtralForCausalLM" {
            json["model_type"] = "mixtral".into();
        }
        json[key] = serde_json::from_str(value).unwrap_or(serde_json::Value::Null);
        std::fs::write(&path, json.to_string()).unwrap();
        let text = refusal(directory.path());
        assert!(text.contains(expected), "{key}: {text}");
    }
    std::fs::write(&path, "[".repeat(100_000)).unwrap();
    assert!(refusal(directory.path()).contains("config.json"));
    std::fs::write(&path, vec![b' '; 3 << 20]).unwrap();
    assert!(refusal(directory.path()).contains("larger than"));
    std::fs::remove_file(&path).unwrap();
    assert!(refusal(directory.path()).contains("config.json: the file is missing"));
}

#[test]
fn weights_that_would_be_left_unread_are_refused() {
    let directory = directory(1);
    let path = directory.path().join("model.safetensors");
    let sound = std::fs::read(&path).unwrap();
    let at = sound.windows(16).position(|bytes| bytes == b"model.norm.weigh").unwrap();
    for name in [b"model.norm.other".as_slice(), b"model.nprm.weigh"] {
        let mut bytes = sound.clone();
        bytes[at..at + 16].copy_from_slice(name);
        std::fs::write(&path, bytes).unwrap();
        let text = refusal(directory.path());
        assert!(text.contains(std::str::from_utf8(name).unwrap()), "{text}");
    }
}
