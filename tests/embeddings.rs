//! A real embedding model, all-MiniLM-L6-v2, from text to vector: against Hugging Face transformers, and through the engine
//! beside the demo model. `scripts/test` brings both.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

use std::path::{Path, PathBuf};
use std::time::Instant;

use models::Encoder;
use serde::Deserialize;
use serde_json::json;
use steppe::config::{Config, Sources, load};
use steppe::engine::EncodeError;
use steppe::generate::EmbedError;
use steppe::startup::{self, Machine, Report};
use steppe::telemetry::Metrics;
use steppe::text::EncoderTokenizer;

#[derive(Deserialize)]
struct Fixture {
    texts: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    text: String,
    repeat: usize,
    tokens: usize,
    vector: Vec<f32>,
}

fn rows() -> Vec<Row> {
    serde_json::from_str::<Fixture>(include_str!("fixtures/embeddings.json")).unwrap().texts
}

fn weights(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("weights").join(name);
    assert!(path.exists(), "{} is missing: run scripts/test, which brings it", path.display());
    path
}

fn cosine(one: &[f32], other: &[f32]) -> f32 {
    assert_eq!(one.len(), other.len());
    one.iter().zip(other).map(|(one, other)| one * other).sum()
}

#[test]
fn vectors_are_those_of_transformers() {
    let folder = weights("embeddings/all-MiniLM-L6-v2");
    let encoder = Encoder::load(&folder, 2).unwrap();
    assert_eq!((encoder.dimensions(), encoder.max_tokens(), encoder.vocab_size()), (384, 256, 30522));
    let tokenizer = EncoderTokenizer::open(&folder, encoder.vocab_size(), encoder.max_tokens()).unwrap();
    let rows = rows();
    let texts: Vec<Vec<u32>> = rows.iter().map(|row| tokenizer.encode(&row.text.repeat(row.repeat)).unwrap()).collect();
    let batch: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
    let together = encoder.encode(&batch).unwrap();
    for ((row, text), together) in rows.iter().zip(&batch).zip(&together) {
        assert_eq!(text.len(), row.tokens, "{}", row.text);
        let alone = &encoder.encode(&[text]).unwrap()[0];
        assert!(cosine(alone, &row.vector) >= 0.9999, "{}: {}", row.text, cosine(alone, &row.vector));
        let far = alone.iter().zip(together).map(|(one, other)| (one - other).abs()).fold(0.0, f32::max);
        assert!(far <= 1e-5, "{}: {far} from its vector alone", row.text);
    }
    let started = Instant::now();
    for _ in 0..20 {
        encoder.encode(&[batch[1]]).unwrap();
    }
    println!("{} tokens alone: {:.2} ms", batch[1].len(), started.elapsed().as_secs_f64() * 50.0);
}

#[test]
fn what_looks_like_a_control_token_is_text_and_a_foreign_tokenizer_is_refused() {
    let folder = weights("embeddings/all-MiniLM-L6-v2");
    let tokenizer = EncoderTokenizer::open(&folder, 30522, 256).unwrap();
    let (separator, ids) = (102, tokenizer.encode("a [SEP] b").unwrap());
    assert_eq!(ids.iter().filter(|id| **id == separator).count(), 1);
    assert_eq!(tokenizer.encode("").unwrap().len(), 2);
    assert_eq!(tokenizer.encode(&"word ".repeat(1 << 20)).unwrap().len(), 256);
    assert_eq!(tokenizer.encode(&"字".repeat(1 << 20)).unwrap().len(), 256);
    let foreign = EncoderTokenizer::open(&folder, 30000, 256).unwrap_err().to_string();
    assert!(foreign.contains("30521") && foreign.contains("30000"), "{foreign}");
    for json in ["", "{}", "[]", r#"{"version":"1.0","model":{"type":"WordPiece"}}"#] {
        assert!(EncoderTokenizer::from_json(json.as_bytes(), 10, 10).is_err());
    }
}

/// The way of XLM-RoBERTa: pieces with scores, among them the control tokens.
#[test]
fn a_piece_that_is_a_control_token_is_left_out_of_a_text() {
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "special": true, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false})
    };
    let metaspace = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true});
    let json = json!({
        "version": "1.0", "truncation": null, "padding": {"strategy": {"Fixed": 9}, "direction": "Right",
            "pad_to_multiple_of": null, "pad_id": 1, "pad_type_id": 0, "pad_token": "<pad>"},
        "added_tokens": [special(0, "<s>"), special(1, "<pad>"), special(2, "</s>"), special(3, "<unk>")],
        "normalizer": {"type": "NFKC"}, "pre_tokenizer": metaspace, "decoder": metaspace,
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                       {"SpecialToken": {"id": "</s>", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]},
                               "</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]}}},
        "model": {"type": "Unigram", "unk_id": 3, "byte_fallback": false, "vocab": [
            ["<s>", 0.0], ["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], ["▁", -3.0], ["▁a", -2.0], ["b", -4.0]]},
    });
    let tokenizer = EncoderTokenizer::from_json(json.to_string().as_bytes(), 7, 6).unwrap();
    assert_eq!(tokenizer.encode("a b").unwrap(), [0, 5, 4, 6, 2]);
    for text in ["a</s> b", "a＜／s＞ b", "a<s> b"] {
        assert_eq!(tokenizer.encode(text).unwrap(), [0, 5, 4, 6, 2], "{text}");
    }
    assert_eq!(tokenizer.encode("a ж").unwrap(), [0, 5, 4, 3, 2]);
    assert_eq!(tokenizer.encode("a a a a a a a").unwrap(), [0, 5, 5, 5, 5, 2]);
}

fn config(folder: &Path, settings: &[(&str, &str)]) -> Config {
    let model = weights("SmolLM2-135M-Instruct.Q4_1.gguf");
    let own = [
        ("data.dir", folder.to_str().unwrap()),
        ("model.path", model.to_str().unwrap()),
        ("model.context", "256"),
        ("engine.kv_cache_mib", "64"),
        ("engine.max_sequences", "4"),
    ];
    let flag = |&(key, value): &(&str, &str)| (format!("--set {key}"), key.to_owned(), value.to_owned());
    load(&Sources { flags: own.iter().chain(settings).map(flag).collect(), ..Sources::default() }).unwrap().config
}

#[tokio::test]
async fn the_engine_encodes_beside_the_model() {
    let data = tempfile::tempdir().unwrap();
    let folder = weights("embeddings/all-MiniLM-L6-v2");
    let settings = [("embeddings.model", folder.to_str().unwrap()), ("embeddings.query_prefix", "How do I ")];
    let config = config(data.path(), &settings);
    let metrics = Metrics::new().unwrap();
    let generator = startup::load(&config, Machine::detect(), metrics, Report::default()).await.unwrap();
    let embedder = generator.embedder().unwrap();
    assert_eq!((embedder.dimensions(), &*embedder.model().name), (384, "all-MiniLM-L6-v2"));
    let rows = rows();
    let row = &rows[1];
    let vector = embedder.embed(row.text.strip_prefix("How do I ").unwrap()).await.unwrap();
    assert!(cosine(&vector, &row.vector) >= 0.9999);
    // Ways to ask the same are nearer than questions about something else; longer texts go another way.
    let near = embedder.embed("change my password?").await.unwrap();
    let far = embedder.embed(&"cook a soup of beetroot? ".repeat(200)).await.unwrap();
    assert!(cosine(&vector, &near) > cosine(&vector, &far) + 0.3);
    generator.engine().drain();
    let stopped = embedder.embed("x").await.unwrap_err();
    assert!(matches!(stopped, EmbedError::Engine(EncodeError::Stopped)));
}

#[tokio::test]
async fn a_model_that_cannot_be_loaded_ends_the_start_in_one_sentence() {
    let data = tempfile::tempdir().unwrap();
    let config = config(data.path(), &[("embeddings.model", "/no/such/folder")]);
    let error =
        startup::load(&config, Machine::detect(), Metrics::new().unwrap(), Report::default()).await.unwrap_err();
    let text = format!("{error:#}");
    assert!(text.contains("embeddings.model") && text.contains("/no/such/folder"), "{text}");
}
