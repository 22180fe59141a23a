//! Files that the random maker writes, read back: every architecture, every type, tied and untied.
#![expect(clippy::unwrap_used, reason = "tests")]

use candle_core::Device;
use kernels::{GgmlType, RopeStyle};
use models::random::RandomModel;
use models::{Architecture, ModelConfig, ModelFile, Recipe, RopeScaling, TensorView, TokenizerSource};

const ARCHITECTURES: [Architecture; 4] =
    [Architecture::Llama, Architecture::Mistral, Architecture::Qwen2, Architecture::Qwen3];

#[test]
fn gguf_of_every_architecture_and_type_reads_as_it_was_made() {
    let directory = tempfile::tempdir().unwrap();
    for architecture in ARCHITECTURES {
        for ggml_type in GgmlType::ALL {
            for tied_embeddings in [false, true] {
                let mut model = RandomModel::tiny(architecture, Recipe::Uniform(ggml_type));
                model.config.tied_embeddings = tied_embeddings;
                let path = directory.path().join("tiny.gguf");
                let size = model.write_gguf(&path, &mut |_| {}).unwrap();
                assert_eq!(size, std::fs::metadata(&path).unwrap().len());
                let file = ModelFile::open(&path).unwrap();
                let mut config = file.config().unwrap();
                for (name, rows, columns) in config.matrices() {
                    let view = file.tensor(&name).unwrap();
                    assert_eq!((view.ggml_type, view.shape), (ggml_type, vec![rows, columns]), "{name}");
                }
                for (name, len) in config.vectors() {
                    assert_eq!(file.tensor(&name).unwrap().shape, [len], "{name}");
                }
                // GGUF knows Mistral as a llama, and the style is the file's.
                config.architecture = architecture;
                config.rope_style = model.config.rope_style;
                assert_eq!(config, model.config);
            }
        }
    }
}

#[test]
fn vocabulary_is_filled_up_and_ends_answers() {
    let directory = tempfile::tempdir().unwrap();
    let model = RandomModel::tiny(Architecture::Llama, Recipe::Q4KM);
    let path = directory.path().join("tiny.gguf");
    model.write_gguf(&path, &mut |_| {}).unwrap();
    let file = ModelFile::open(&path).unwrap();
    let TokenizerSource::Gguf(vocabulary) = file.tokenizer().unwrap() else { panic!("a GGUF carries its vocabulary") };
    assert_eq!(vocabulary.tokens.len(), 288);
    assert_eq!(vocabulary.merges, model.vocabulary.merges);
    assert_eq!(file.end_ids(), [269, 272], "<|end_of_text|> and <|eot_id|>");
    assert!(file.chat_template().unwrap().contains("<|start_header_id|>"));
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_seed_others() {
    let directory = tempfile::tempdir().unwrap();
    let bytes = |seed| {
        let model = RandomModel { seed, ..RandomModel::tiny(Architecture::Qwen3, Recipe::Uniform(GgmlType::Q4_0)) };
        let path = directory.path().join("tiny.gguf");
        model.write_gguf(&path, &mut |_| {}).unwrap();
        std::fs::read(&path).unwrap()
    };
    assert_eq!(bytes(1), bytes(1));
    assert_ne!(bytes(1), bytes(2));
}

/// The values of a tensor, by Candle's arithmetic.
fn values(view: &TensorView) -> Vec<f32> {
    use candle_core::quantized::{QStorage, QTensor};
    let storage =
        QStorage::from_data(view.bytes.to_vec().into(), &Device::Cpu, view.ggml_type.candle().unwrap()).unwrap();
    let tensor = QTensor::new(storage, view.shape.clone()).unwrap().dequantize(&Device::Cpu).unwrap();
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn safetensors_hold_the_values_of_the_gguf_file() {
    let directory = tempfile::tempdir().unwrap();
    for architecture in ARCHITECTURES {
        for (recipe, tied_embeddings, shards) in [(Recipe::Q4KM, false, 3), (Recipe::Uniform(GgmlType::Q5_1), true, 1)]
        {
            let mut model = RandomModel::tiny(architecture, recipe);
            model.config.tied_embeddings = tied_embeddings;
            let (gguf, safetensors) = (directory.path().join("m.gguf"), tempfile::tempdir().unwrap());
            model.write_gguf(&gguf, &mut |_| {}).unwrap();
            model.write_safetensors(safetensors.path(), GgmlType::F32, shards).unwrap();
            let (gguf, safetensors) = (ModelFile::open(&gguf).unwrap(), ModelFile::open(safetensors.path()).unwrap());
            let (a, b) = (gguf.config().unwrap(), safetensors.config().unwrap());
            assert_eq!(b, ModelConfig { architecture, rope_style: RopeStyle::Neox, ..a.clone() });
            let (head_dim, columns) = (a.head_dim, a.hidden_size);
            for name in a.matrices().into_iter().map(|m| m.0).chain(a.vectors().into_iter().map(|v| v.0)) {
                let (x, y) = (gguf.tensor(&name).unwrap(), safetensors.tensor(&name).unwrap());
                assert_eq!(x.shape, y.shape, "{name}");
                let (x, y) = (values(&x), values(&y));
                let rotated = name.contains("attn_q.weight") || name.contains("attn_k.weight");
                if !rotated || a.rope_style == RopeStyle::Neox {
                    assert_eq!(x, y, "{name}");
                    continue;
                }
                // Pair j of a head: rows 2j and 2j + 1 in GGUF, rows j and j + head_dim / 2 in safetensors.
                for row in 0..y.len() / columns {
                    let (head, within) = (row / head_dim, row % head_dim);
                    let theirs = head * head_dim + within / 2 + within % 2 * (head_dim / 2);
                    assert_eq!(x[row * columns..][..columns], y[theirs * columns..][..columns], "{name} row {row}");
                }
            }
            assert_eq!(safetensors.end_ids(), [272]);
            assert!(safetensors.chat_template().unwrap().contains("<|start_header_id|>"));
            assert!(matches!(safetensors.tokenizer().unwrap(), TokenizerSource::HuggingFace { config: Some(_), .. }));
        }
    }
}

#[test]
fn llama_3_scaling_reaches_gguf_as_factors_and_safetensors_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let mut model = RandomModel::tiny(Architecture::Llama, Recipe::Uniform(GgmlType::F32));
    let llama3 = RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 64 };
    model.config.rope_scaling = llama3.clone();
    let gguf = directory.path().join("m.gguf");
    model.write_gguf(&gguf, &mut |_| {}).unwrap();
    model.write_safetensors(directory.path(), GgmlType::BF16, 1).unwrap();
    assert_eq!(ModelFile::open(directory.path()).unwrap().config().unwrap().rope_scaling, llama3);
    let RopeScaling::Factors(factors) = ModelFile::open(&gguf).unwrap().config().unwrap().rope_scaling else {
        panic!("GGUF has this scaling as factors only");
    };
    // 16 pairs: pair 0 turns 64 / 2π = 10 times over the original context and is kept, the last ones are divided.
    assert_eq!((factors.len(), factors[0], factors[15]), (16, 1.0, 8.0));
    assert!(factors.is_sorted() && factors.iter().any(|f| *f > 1.0 && *f < 8.0), "a smooth band between: {factors:?}");
}
