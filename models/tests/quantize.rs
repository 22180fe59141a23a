//! Quantising float weights into GGUF: from safetensors and from GGUF, with the vocabulary and the order of rows.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::Path;

use kernels::{GgmlType, dequantise};
use models::random::RandomModel;
use models::{Architecture, Error, ModelFile, Recipe, TokenizerSource, quantize};

/// Mean squared difference between the values of two tensors over the mean square of the first.
fn relative_error(a: &ModelFile, b: &ModelFile, name: &str) -> f64 {
    let (a, b) = (values(a, name), values(b, name));
    assert_eq!(a.len(), b.len());
    let difference: f64 = a.iter().zip(&b).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    difference / a.iter().map(|a| f64::from(*a).powi(2)).sum::<f64>()
}

fn values(file: &ModelFile, name: &str) -> Vec<f32> {
    let view = file.tensor(name).unwrap();
    dequantise(view.ggml_type, view.bytes)
}

/// The same random weights as F32 GGUF and as safetensors in two shards.
fn sources(directory: &Path, model: &RandomModel) -> [ModelFile; 2] {
    let (gguf, safetensors) = (directory.join("f32.gguf"), directory.join("safetensors"));
    model.write_gguf(&gguf, &mut |_| {}).unwrap();
    model.write_safetensors(&safetensors, GgmlType::F16, 2).unwrap();
    [ModelFile::open(&gguf).unwrap(), ModelFile::open(&safetensors).unwrap()]
}

#[test]
fn quantised_weights_are_near_the_original_in_gguf_order() {
    let directory = tempfile::tempdir().unwrap();
    for architecture in [Architecture::Llama, Architecture::Qwen2] {
        let recipes = [
            (Recipe::Q4KM, 6e-3, false),
            (Recipe::Uniform(GgmlType::Q8_0), 1e-4, true),
            (Recipe::Uniform(GgmlType::IQ4_XS), 9e-3, true),
        ];
        for (recipe, most, tied) in recipes {
            let mut model = RandomModel::tiny(architecture, Recipe::Uniform(GgmlType::F32));
            model.config.tied_embeddings = tied;
            // Rows of 96 divide into Q8_0's blocks only.
            model.config.intermediate_size = 96;
            let [original, safetensors] = sources(directory.path(), &model);
            for source in [&original, &safetensors] {
                let output = directory.path().join("quantised.gguf");
                let mut heard = Vec::new();
                let size = quantize(source, recipe, &output, &mut |share| heard.push(share)).unwrap();
                assert_eq!(size, std::fs::metadata(&output).unwrap().len());
                assert!(heard.is_sorted() && (heard[heard.len() - 1] - 1.0).abs() < 1e-6);
                let quantised = ModelFile::open(&output).unwrap();
                let config = quantised.config().unwrap();
                assert_eq!(config, original.config().unwrap());
                for (name, ..) in config.matrices() {
                    let error = relative_error(&original, &quantised, &name);
                    assert!(error < most, "{name}: {error}");
                }
                for (name, _) in config.vectors() {
                    assert!(relative_error(&original, &quantised, &name) < 1e-6, "{name}");
                }
                let down = quantised.tensor("blk.0.ffn_down.weight").unwrap();
                assert_eq!(down.ggml_type, GgmlType::Q8_0);
                assert_eq!(quantised.tensor("blk.0.attn_q.weight").unwrap().ggml_type == GgmlType::Q4_K, !tied);
            }
        }
    }
}

#[test]
fn the_vocabulary_survives_tokenizer_json() {
    let directory = tempfile::tempdir().unwrap();
    let model = RandomModel::tiny(Architecture::Llama, Recipe::Uniform(GgmlType::F32));
    let [original, safetensors] = sources(directory.path(), &model);
    let output = directory.path().join("quantised.gguf");
    quantize(&safetensors, Recipe::Q4KM, &output, &mut |_| {}).unwrap();
    let vocabulary = |file: &ModelFile| match file.tokenizer().unwrap() {
        TokenizerSource::Gguf(vocabulary) => *vocabulary,
        TokenizerSource::HuggingFace { .. } => panic!("a GGUF carries its vocabulary"),
    };
    let quantised = ModelFile::open(&output).unwrap();
    let mut expected = vocabulary(&original);
    expected.add_eos = Some(false);
    assert_eq!(format!("{:?}", vocabulary(&quantised)), format!("{expected:?}"));
    assert_eq!(quantised.chat_template(), original.chat_template());
    assert_eq!(quantised.end_ids(), original.end_ids());
}

#[test]
fn a_quantised_source_is_refused_and_leaves_no_file() {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("q4_0.gguf");
    let model = RandomModel::tiny(Architecture::Llama, Recipe::Uniform(GgmlType::Q4_0));
    model.write_gguf(&source, &mut |_| {}).unwrap();
    let output = directory.path().join("out.gguf");
    let error = quantize(&ModelFile::open(&source).unwrap(), Recipe::Q4KM, &output, &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("token_embd.weight: it is quantised already (Q4_0)"), "{error}");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn values_that_are_no_numbers_are_refused_by_the_name_of_their_tensor() {
    let directory = tempfile::tempdir().unwrap();
    let model = RandomModel::tiny(Architecture::Llama, Recipe::Uniform(GgmlType::F32));
    model.write_safetensors(directory.path(), GgmlType::F32, 1).unwrap();
    let path = directory.path().join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.len() - 4;
    bytes[at..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    let output = directory.path().join("out.gguf");
    let error = quantize(&ModelFile::open(directory.path()).unwrap(), Recipe::Q4KM, &output, &mut |_| {});
    assert!(matches!(error, Err(Error::Invalid { message, .. }) if message.contains("_norm.weight: a value is not a")));
    assert!(!output.exists());
}

#[test]
fn awq_and_gptq_are_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let model = RandomModel::tiny(Architecture::Llama, Recipe::Uniform(GgmlType::F32));
    model.write_safetensors(directory.path(), GgmlType::F16, 1).unwrap();
    let config = directory.path().join("config.json");
    let original = std::fs::read_to_string(&config).unwrap();
    for method in ["awq", "gptq"] {
        let mut json: serde_json::Value = serde_json::from_str(&original).unwrap();
        json["quantization_config"] = serde_json::json!({ "quant_method": method, "bits": 4 });
        std::fs::write(&config, json.to_string()).unwrap();
        let error = ModelFile::open(directory.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("quantised by {}", method.to_uppercase())), "{error}");
    }
    std::fs::write(&config, original).unwrap();
    std::fs::write(directory.path().join("quantize_config.json"), "{}").unwrap();
    assert!(ModelFile::open(directory.path()).unwrap_err().to_string().contains("GPTQ"));
}
