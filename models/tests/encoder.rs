//! Encoders: tiny networks against Hugging Face's, neighbours and limits, and folders that are hostile or of something else.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use candle_core::{Device, Tensor};
use models::Encoder;
use serde_json::{Value, json};
use tempfile::TempDir;

const HIDDEN: usize = 16;
const WIDE: usize = 32;
const LAYERS: usize = 2;
const VOCABULARY: usize = 40;
const POSITIONS: usize = 20;

/// `scripts/golden-embeddings` has the same lines.
fn weight(name: &str, shape: &[usize]) -> Tensor {
    let start = name.bytes().map(usize::from).sum::<usize>() * 104_729;
    let value = |place: usize| {
        let value = ((start + place * 7919) % 1000) as f64 / 1000.0 - 0.5;
        (if name.ends_with("LayerNorm.weight") { value + 1.0 } else { value * 0.6 }) as f32
    };
    let count = shape.iter().product();
    Tensor::from_vec((0..count).map(value).collect(), shape, &Device::Cpu).unwrap()
}

fn weights(kind: &str) -> HashMap<String, Tensor> {
    let mut shapes: Vec<(String, Vec<usize>)> = vec![
        ("embeddings.word_embeddings.weight".into(), vec![VOCABULARY, HIDDEN]),
        ("embeddings.position_embeddings.weight".into(), vec![POSITIONS, HIDDEN]),
        ("embeddings.token_type_embeddings.weight".into(), vec![if kind == "bert" { 2 } else { 1 }, HIDDEN]),
        ("embeddings.LayerNorm.weight".into(), vec![HIDDEN]),
        ("embeddings.LayerNorm.bias".into(), vec![HIDDEN]),
    ];
    for layer in 0..LAYERS {
        let mut linear = |name: &str, rows: usize, columns: usize| {
            let name = format!("encoder.layer.{layer}.{name}");
            shapes.push((format!("{name}.weight"), vec![rows, columns]));
            shapes.push((format!("{name}.bias"), vec![rows]));
        };
        for name in ["self.query", "self.key", "self.value", "output.dense"] {
            linear(&format!("attention.{name}"), HIDDEN, HIDDEN);
        }
        linear("intermediate.dense", WIDE, HIDDEN);
        linear("output.dense", HIDDEN, WIDE);
        for name in ["attention.output", "output"] {
            for part in ["weight", "bias"] {
                shapes.push((format!("encoder.layer.{layer}.{name}.LayerNorm.{part}"), vec![HIDDEN]));
            }
        }
    }
    shapes.into_iter().map(|(name, shape)| (name.clone(), weight(&name, &shape))).collect()
}

fn config(kind: &str) -> Value {
    let is_bert = kind == "bert";
    json!({
        "model_type": kind, "vocab_size": VOCABULARY, "hidden_size": HIDDEN, "num_hidden_layers": LAYERS,
        "num_attention_heads": 4, "intermediate_size": WIDE, "max_position_embeddings": POSITIONS,
        "hidden_act": "gelu", "type_vocab_size": if is_bert { 2 } else { 1 },
        "pad_token_id": i32::from(!is_bert), "layer_norm_eps": if is_bert { 1e-12 } else { 1e-5 },
    })
}

fn write(folder: &Path, name: &str, json: &Value) {
    fs::create_dir_all(folder.join(name).parent().unwrap()).unwrap();
    fs::write(folder.join(name), json.to_string()).unwrap();
}

fn write_weights(folder: &Path, weights: &HashMap<String, Tensor>) {
    candle_core::safetensors::save(weights, folder.join("model.safetensors")).unwrap();
}

fn folder(kind: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "config.json", &config(kind));
    write_weights(folder.path(), &weights(kind));
    folder
}

fn load(folder: &TempDir) -> Encoder {
    Encoder::load(folder.path(), 2).unwrap()
}

/// The refusal of a folder: one line that names the place.
fn refusal(folder: &TempDir) -> String {
    let text = Encoder::load(folder.path(), 1).unwrap_err().to_string();
    assert!(text.contains(folder.path().to_str().unwrap()) && !text.contains('\n') && text.len() < 500, "{text}");
    text
}

fn assert_near(vector: &[f32], expected: &[f32], most: f32) {
    assert_eq!(vector.len(), expected.len());
    let far = vector.iter().zip(expected).map(|(one, other)| (one - other).abs()).fold(0.0, f32::max);
    assert!(far <= most, "{far} apart");
}

#[test]
fn tiny_networks_say_what_transformers_says() {
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/embeddings.json");
    let fixture: Value = serde_json::from_str(&fs::read_to_string(fixture).unwrap()).unwrap();
    for kind in ["bert", "xlm-roberta"] {
        let folder = folder(kind);
        for pooling in ["mean", "cls"] {
            write(
                folder.path(),
                "1_Pooling/config.json",
                &json!({
                    "pooling_mode_cls_token": pooling == "cls", "pooling_mode_mean_tokens": pooling == "mean",
                }),
            );
            let encoder = load(&folder);
            for row in fixture["tiny"][kind].as_array().unwrap() {
                let ids: Vec<u32> = serde_json::from_value(row["ids"].clone()).unwrap();
                let expected: Vec<f32> = serde_json::from_value(row[pooling].clone()).unwrap();
                assert_near(&encoder.encode(&[&ids]).unwrap()[0], &expected, 2e-5);
            }
        }
    }
}

#[test]
fn a_text_has_the_same_vector_alone_and_in_a_batch() {
    for kind in ["bert", "xlm-roberta"] {
        let encoder = load(&folder(kind));
        let mut random = fastrand::Rng::with_seed(9);
        let texts: Vec<Vec<u32>> = (0..12)
            .map(|_| (0..random.usize(1..=encoder.max_tokens())).map(|_| random.u32(2..VOCABULARY as u32)).collect())
            .collect();
        let batch: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
        for (text, together) in batch.iter().zip(encoder.encode(&batch).unwrap()) {
            let length = together.iter().map(|value| value * value).sum::<f32>();
            assert!((length - 1.0).abs() < 1e-5);
            assert_near(&together, &encoder.encode(&[text]).unwrap()[0], 1e-5);
        }
    }
}

#[test]
fn limits_are_the_networks_and_the_files() {
    let bert = folder("bert");
    let encoder = load(&bert);
    assert_eq!((encoder.dimensions(), encoder.max_tokens(), encoder.vocab_size()), (HIDDEN, POSITIONS, VOCABULARY));
    assert!(encoder.encode(&[&[0; POSITIONS]]).is_ok());
    assert!(encoder.encode(&[]).unwrap().is_empty());
    for (text, word) in [(vec![], "without tokens"), (vec![0; POSITIONS + 1], "21 tokens"), (vec![40], "vocabulary")] {
        let refusal = encoder.encode(&[&[1, 2], &text]).unwrap_err().to_string();
        assert!(refusal.contains(word), "{refusal}");
    }
    // Positions of RoBERTa begin behind the padding's.
    let xlm_roberta = load(&folder("xlm-roberta"));
    assert_eq!(xlm_roberta.max_tokens(), POSITIONS - 2);
    assert!(xlm_roberta.encode(&[&[5; POSITIONS - 2]]).is_ok());
    write(bert.path(), "sentence_bert_config.json", &json!({"max_seq_length": 7, "do_lower_case": false}));
    assert_eq!(load(&bert).max_tokens(), 7);
    assert_ne!(load(&bert).fingerprint(), encoder.fingerprint());
    // However many positions there are, nobody waits for more than so many tokens.
    let long = folder("bert");
    let positions = weight("x", &[600, HIDDEN]);
    let weights = weights("bert").into_iter().chain([("embeddings.position_embeddings.weight".into(), positions)]);
    write_weights(long.path(), &weights.collect());
    let mut config = config("bert");
    config["max_position_embeddings"] = json!(600);
    write(long.path(), "config.json", &config);
    assert_eq!(load(&long).max_tokens(), 512);
}

#[test]
fn names_with_the_prefix_of_the_training_and_half_precision_are_read() {
    let plain = folder("bert");
    let encoder = load(&plain);
    let old = weights("bert").into_iter().map(|(name, tensor)| (format!("bert.{name}"), tensor));
    let positions = Tensor::arange(0_i64, 20, &Device::Cpu).unwrap();
    let head = weight("cls.predictions.bias", &[VOCABULARY]);
    let further = [("bert.embeddings.position_ids".to_owned(), positions), ("cls.predictions.bias".to_owned(), head)];
    write_weights(plain.path(), &old.chain(further).collect());
    assert_eq!(load(&plain).encode(&[&[3, 4]]).unwrap(), encoder.encode(&[&[3, 4]]).unwrap());
    let half = |tensor: Tensor| tensor.to_dtype(candle_core::DType::F16).unwrap();
    write_weights(plain.path(), &weights("bert").into_iter().map(|(name, tensor)| (name, half(tensor))).collect());
    assert_near(&load(&plain).encode(&[&[3, 4]]).unwrap()[0], &encoder.encode(&[&[3, 4]]).unwrap()[0], 5e-3);
}

#[test]
fn a_folder_that_is_no_encoder_is_refused_by_name() {
    let empty = tempfile::tempdir().unwrap();
    assert!(refusal(&empty).contains("an embedding model is a folder with"));
    for (key, value, word) in [
        ("model_type", json!("llama"), "model_type"),
        ("model_type", json!(null), "model_type"),
        ("hidden_size", json!(0), "hidden_size"),
        ("hidden_size", json!(18), "num_attention_heads"),
        ("hidden_size", json!(-1), "config.json"),
        ("hidden_size", json!(u64::MAX), "hidden_size"),
        ("hidden_size", json!(64), "shape mismatch"),
        ("num_attention_heads", json!(0), "num_attention_heads"),
        ("num_hidden_layers", json!(1_000_000_000), "num_hidden_layers"),
        ("num_hidden_layers", json!(3), "encoder.layer.2"),
        ("num_hidden_layers", json!(1), "1 layers only"),
        ("vocab_size", json!(1_u64 << 40), "vocab_size"),
        ("vocab_size", json!(41), "shape mismatch"),
        ("max_position_embeddings", json!(512), "shape mismatch"),
        ("max_position_embeddings", json!(2), "does not fit"),
        ("type_vocab_size", json!(0), "type_vocab_size"),
        ("pad_token_id", json!(40), "pad_token_id"),
        ("layer_norm_eps", json!(-1.0), "layer_norm_eps"),
        ("hidden_act", json!("silu"), "hidden_act"),
        ("position_embedding_type", json!("relative_key"), "position_embedding_type"),
        ("is_decoder", json!(true), "is_decoder"),
        ("quantization_config", json!({"quant_method": "gptq"}), "quantization_config"),
    ] {
        let folder = folder("bert");
        let mut config = config("bert");
        config[key] = value.clone();
        if key == "max_position_embeddings" && value == 2 {
            let mut weights = weights("bert");
            weights.insert("embeddings.position_embeddings.weight".into(), weight("x", &[2, HIDDEN]));
            write_weights(folder.path(), &weights);
        }
        write(folder.path(), "config.json", &config);
        let text = refusal(&folder);
        assert!(text.contains(word), "{key} = {value}: {text}");
    }
}

#[test]
fn modules_and_pooling_that_do_not_run_here_are_refused() {
    let folder = folder("bert");
    let module = |kind: &str, path: &str| json!({"idx": 0, "name": "0", "path": path, "type": kind});
    let transformer = module("sentence_transformers.models.Transformer", "");
    for hostile in [
        module("sentence_transformers.models.Dense", "2_Dense"),
        module("sentence_transformers.models.Pooling", "../1_Pooling"),
        module("sentence_transformers.models.Pooling", "/etc"),
        module("sentence_transformers.models.Transformer", "0_Transformer"),
    ] {
        write(folder.path(), "modules.json", &json!([transformer, hostile]));
        assert!(refusal(&folder).contains("modules.json"));
    }
    let pooling = module("sentence_transformers.models.Pooling", "1_Pooling");
    let normalize = module("sentence_transformers.models.Normalize", "2_Normalize");
    write(folder.path(), "modules.json", &json!([transformer, pooling, normalize]));
    load(&folder);
    for modes in [json!({"pooling_mode_max_tokens": true}), json!({"pooling_mode": "lasttoken"})] {
        write(folder.path(), "1_Pooling/config.json", &modes);
        assert!(refusal(&folder).contains("the pooling"));
    }
    let both = json!({"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": true});
    write(folder.path(), "1_Pooling/config.json", &both);
    assert!(refusal(&folder).contains("the pooling"));
}

#[test]
fn weights_that_are_cut_short_changed_or_of_another_type_are_refused() {
    let folder = folder("xlm-roberta");
    let path = folder.path().join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    let mut random = fastrand::Rng::with_seed(3);
    for _ in 0..200 {
        fs::write(&path, &whole[..random.usize(..whole.len())]).unwrap();
        refusal(&folder);
    }
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    for _ in 0..500 {
        let mut changed = whole.clone();
        for _ in 0..random.usize(1..4) {
            changed[random.usize(..header)] = random.u8(..);
        }
        fs::write(&path, changed).unwrap();
        // Either refused in one line, or the change was of no weight.
        if let Err(error) = Encoder::load(folder.path(), 1) {
            assert!(!error.to_string().contains('\n'), "{error}");
        }
    }
    let mut integers = weights("xlm-roberta");
    let table = Tensor::zeros((VOCABULARY, HIDDEN), candle_core::DType::U32, &Device::Cpu).unwrap();
    integers.insert("embeddings.word_embeddings.weight".into(), table);
    write_weights(folder.path(), &integers);
    assert!(refusal(&folder).contains("U32"));
    let mut infinite = weights("xlm-roberta");
    infinite
        .insert("encoder.layer.1.output.LayerNorm.bias".into(), Tensor::full(f32::NAN, HIDDEN, &Device::Cpu).unwrap());
    write_weights(folder.path(), &infinite);
    assert!(load(&folder).encode(&[&[2]]).unwrap_err().to_string().contains("not finite"));
}
