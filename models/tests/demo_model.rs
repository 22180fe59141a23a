//! The reader on a real file: SmolLM2-135M-Instruct Q4_1, at `STEPPE_DEMO_MODEL` or where `scripts/test` puts it.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::PathBuf;

use kernels::{GgmlType, RopeStyle};
use models::{Architecture, ModelConfig, ModelFile, RopeScaling, TokenKind, TokenizerSource};

fn demo_model() -> ModelFile {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../weights/SmolLM2-135M-Instruct.Q4_1.gguf");
    let path = std::env::var_os("STEPPE_DEMO_MODEL").map_or_else(|| PathBuf::from(beside), PathBuf::from);
    assert!(path.exists(), "{} is missing: scripts/serve or scripts/test brings it", path.display());
    ModelFile::open(&path).unwrap()
}

#[test]
fn config_is_smollm2s() {
    let file = demo_model();
    let expected = ModelConfig {
        architecture: Architecture::Llama,
        vocab_size: 49152,
        hidden_size: 576,
        intermediate_size: 1536,
        num_layers: 30,
        num_heads: 9,
        num_kv_heads: 3,
        head_dim: 64,
        rms_norm_eps: 1e-5,
        rope_theta: 100_000.0,
        rope_scaling: RopeScaling::None,
        rope_style: RopeStyle::Interleaved,
        max_context: 8192,
        sliding_window: None,
        tied_embeddings: true,
    };
    assert_eq!(file.config().unwrap(), expected);
}

#[test]
fn vocabulary_and_template_are_read() {
    let file = demo_model();
    let TokenizerSource::Gguf(vocabulary) = file.tokenizer().unwrap() else { panic!("a GGUF carries its vocabulary") };
    assert_eq!((vocabulary.model.as_str(), vocabulary.pre.as_str()), ("gpt2", "smollm"));
    assert_eq!((vocabulary.tokens.len(), vocabulary.merges.len()), (49152, 48900));
    assert_eq!(&vocabulary.tokens[..3], ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]);
    assert_eq!(vocabulary.kinds[2], TokenKind::Control);
    assert_eq!((vocabulary.bos_id, vocabulary.eos_id), (Some(1), Some(2)));
    assert_eq!(file.end_ids(), [0, 2]);
    assert!(file.chat_template().unwrap().contains("<|im_start|>"));
}

#[test]
fn tensors_are_found_with_their_shapes() {
    let file = demo_model();
    assert_eq!(file.tensors().len(), 272);
    let table = file.tensor("token_embd.weight").unwrap();
    assert_eq!(table.shape, [49152, 576]);
    let gate = file.tensor("blk.29.ffn_gate.weight").unwrap();
    assert_eq!((gate.ggml_type, &gate.shape[..]), (GgmlType::Q4_1, &[1536, 576][..]));
    assert_eq!(gate.bytes.len(), 1536 * 576 / 32 * 20);
    let before = gate.bytes.to_vec();
    file.release(gate.bytes);
    assert_eq!(gate.bytes, before, "released pages read the same again");
    assert!(!file.has_tensor("output.weight"));
    assert!(file.tensor("output.weight").unwrap_err().to_string().contains("output.weight is missing"));
}
