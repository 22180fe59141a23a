//! What the tests compare with: the corpus, published tokenizers, GGUF-style metadata derived from them, the demo model.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use models::{GgufVocabulary, ModelFile, TokenKind, TokenizerSource};
use serde_json::Value;
use steppe::text::Tokenizer;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Texts in many scripts with odd white space, digits, code and emoji.
pub fn corpus() -> Vec<String> {
    serde_json::from_str(&std::fs::read_to_string(root().join("tests/fixtures/corpus.json")).unwrap()).unwrap()
}

/// A golden file of this repository.
pub fn golden(name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(root().join("tests/fixtures").join(name)).unwrap()).unwrap()
}

/// The path of a published tokenizer's file.
pub fn published(name: &str, file: &str) -> PathBuf {
    let path = root().join("tests/.fixtures").join(name).join(file);
    assert!(path.is_file(), "{} is missing: run scripts/fixtures, which brings it", path.display());
    path
}

/// Builds each value once for all tests; the published vocabularies take a while to read.
struct Shared<T>(Mutex<BTreeMap<String, Arc<T>>>);

impl<T> Shared<T> {
    const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    fn get(&self, name: &str, build: impl FnOnce() -> T) -> Arc<T> {
        let mut built = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        Arc::clone(built.entry(name.to_owned()).or_insert_with(|| Arc::new(build())))
    }
}

static REFERENCE: Shared<tokenizers::Tokenizer> = Shared::new();
static FROM_JSON: Shared<Tokenizer> = Shared::new();
static FROM_GGUF: Shared<Tokenizer> = Shared::new();

/// The published tokenizer as Hugging Face's own library reads it.
pub fn reference(name: &str) -> Arc<tokenizers::Tokenizer> {
    REFERENCE.get(name, || tokenizers::Tokenizer::from_file(published(name, "tokenizer.json")).unwrap())
}

/// The published tokenizer as ours reads `tokenizer.json`.
pub fn from_json(name: &str) -> Arc<Tokenizer> {
    let source = || TokenizerSource::HuggingFace {
        tokenizer: published(name, "tokenizer.json"),
        config: Some(published(name, "tokenizer_config.json")),
    };
    FROM_JSON.get(name, || Tokenizer::from_source(&source()).unwrap())
}

/// The published tokenizer as ours reads it from the metadata that a GGUF converter derives from it.
pub fn from_gguf(name: &str) -> Arc<Tokenizer> {
    FROM_GGUF.get(name, || Tokenizer::from_source(&TokenizerSource::Gguf(Box::new(gguf(name)))).unwrap())
}

/// The demo model's file.
pub fn demo_model() -> ModelFile {
    let path = root().join("weights/SmolLM2-135M-Instruct.Q4_1.gguf");
    assert!(path.is_file(), "{} is missing: run scripts/serve or scripts/test, which bring it", path.display());
    ModelFile::open(&path).unwrap()
}

/// The demo model's tokenizer.
pub fn demo_tokenizer() -> Arc<Tokenizer> {
    FROM_GGUF.get("smollm2", || Tokenizer::from_source(&demo_model().tokenizer().unwrap()).unwrap())
}

/// GGUF metadata for a published tokenizer: tokens in order of their ids with their kinds, merges or scores.
pub fn gguf(name: &str) -> GgufVocabulary {
    let file: Value = serde_json::from_slice(&std::fs::read(published(name, "tokenizer.json")).unwrap()).unwrap();
    let mut table: BTreeMap<u64, (String, TokenKind)> = BTreeMap::new();
    for (text, id) in file["model"]["vocab"].as_object().unwrap() {
        table.insert(id.as_u64().unwrap(), (text.clone(), TokenKind::Normal));
    }
    for added in file["added_tokens"].as_array().unwrap() {
        let kind = if added["special"] == true { TokenKind::Control } else { TokenKind::UserDefined };
        table.insert(added["id"].as_u64().unwrap(), (added["content"].as_str().unwrap().to_owned(), kind));
    }
    assert_eq!(table.keys().last().copied(), Some(table.len() as u64 - 1), "ids without holes");
    let (tokens, kinds): (Vec<_>, Vec<_>) = table.into_values().unzip();
    let id = |text: &str| tokens.iter().position(|token| token == text).map(|id| id as u32);
    let merge = |entry: &Value| match entry.as_str() {
        Some(joined) => joined.to_owned(),
        None => format!("{} {}", entry[0].as_str().unwrap(), entry[1].as_str().unwrap()),
    };
    let common = GgufVocabulary {
        merges: file["model"]["merges"].as_array().unwrap().iter().map(merge).collect(),
        ..GgufVocabulary::default()
    };
    match name {
        "llama2" => sentencepiece(&file, tokens, kinds),
        "llama3" => GgufVocabulary {
            model: "gpt2".into(),
            pre: "llama-bpe".into(),
            bos_id: id("<|begin_of_text|>"),
            eos_id: id("<|end_of_text|>"),
            tokens,
            kinds,
            ..common
        },
        "qwen3" => GgufVocabulary {
            model: "gpt2".into(),
            pre: "qwen2".into(),
            eos_id: id("<|im_end|>"),
            tokens,
            kinds,
            add_bos: Some(false),
            ..common
        },
        other => panic!("no metadata is described for {other}"),
    }
}

/// The score of a piece in a SentencePiece BPE model falls with the order in which training merged it; merges made from
/// such a model keep that order.
fn sentencepiece(file: &Value, tokens: Vec<String>, mut kinds: Vec<TokenKind>) -> GgufVocabulary {
    kinds[0] = TokenKind::Unknown;
    kinds[3..259].fill(TokenKind::Byte);
    assert_eq!(file["model"]["vocab"]["<0x00>"], 3);
    let mut score_of = HashMap::new();
    for merge in file["model"]["merges"].as_array().unwrap() {
        let rank = score_of.len() as f32;
        score_of.entry(merge.as_str().unwrap().replace(' ', "")).or_insert(-rank);
    }
    let scores = tokens.iter().map(|token| score_of.get(token).copied().unwrap_or(-1e9)).collect();
    GgufVocabulary {
        model: "llama".into(),
        pre: "default".into(),
        tokens,
        kinds,
        scores,
        bos_id: Some(1),
        eos_id: Some(2),
        unknown_id: Some(0),
        ..GgufVocabulary::default()
    }
}
