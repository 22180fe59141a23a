//! The tokenizer of a safetensors directory, from Hugging Face's `tokenizer.json` (BPE models: every Llama, Mistral and
//! Qwen) and the `tokenizer_config.json` beside it. The files are hostile until proved consistent here.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::{AddedToken, NormalizerWrapper, PreTokenizerWrapper};

use super::pipeline::{Added, Pipeline, WORDS_CACHED};
use super::tokenizer::Ends;
use super::vocabulary::{MAX_TOKENS, Vocabulary, byte_level_bytes, sentencepiece_bytes};
use super::{Result, TextError, Tokenizer};

/// Largest `tokenizer.json` read; the largest published ones have some 30 MB.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// `tokenizer.json`, as far as it is used.
#[derive(Deserialize)]
struct TokenizerFile {
    #[serde(default)]
    added_tokens: Vec<AddedEntry>,
    normalizer: Option<NormalizerWrapper>,
    pre_tokenizer: Option<PreTokenizerWrapper>,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
    model: BpeModel,
}

#[derive(Deserialize)]
struct AddedEntry {
    id: u32,
    #[serde(flatten)]
    token: AddedToken,
}

#[derive(Deserialize)]
struct BpeModel {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    vocab: HashMap<String, u32>,
    #[serde(default)]
    merges: Vec<MergeEntry>,
    unk_token: Option<String>,
    #[serde(default)]
    fuse_unk: bool,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum MergeEntry {
    Pair(String, String),
    Joined(String),
}

/// `tokenizer_config.json`, as far as it is used.
#[derive(Deserialize, Default)]
#[expect(clippy::struct_field_names, reason = "the names are the file's")]
struct ConfigFile {
    bos_token: Option<NamedToken>,
    eos_token: Option<NamedToken>,
    add_bos_token: Option<bool>,
    add_eos_token: Option<bool>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum NamedToken {
    Text(String),
    Entry { content: String },
}

impl NamedToken {
    fn text(&self) -> &str {
        match self {
            Self::Text(text) | Self::Entry { content: text } => text,
        }
    }
}

/// Reads the two files and builds the tokenizer.
pub(super) fn tokenizer(tokenizer: &Path, config: Option<&Path>) -> Result<Tokenizer> {
    let config = config.map(read::<ConfigFile>).transpose()?.unwrap_or_default();
    build(read(tokenizer)?, &config)
}

/// Builds a tokenizer from the contents of `tokenizer.json` alone.
pub(super) fn from_bytes(json: &[u8]) -> Result<Tokenizer> {
    let file =
        serde_json::from_slice(json).map_err(|error| TextError::Tokenizer(format!("tokenizer.json: {error}")))?;
    build(file, &ConfigFile::default())
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let unreadable = |error: &dyn std::fmt::Display| TextError::Tokenizer(format!("{}: {error}", path.display()));
    let length = std::fs::metadata(path).map_err(|error| unreadable(&error))?.len();
    if length > MAX_FILE_BYTES {
        return Err(unreadable(&format!("{length} bytes are more than any tokenizer needs")));
    }
    let bytes = std::fs::read(path).map_err(|error| unreadable(&error))?;
    serde_json::from_slice(&bytes).map_err(|error| unreadable(&error))
}

fn unusable<T>(message: impl Into<String>) -> Result<T> {
    Err(TextError::Tokenizer(message.into()))
}

fn build(file: TokenizerFile, config: &ConfigFile) -> Result<Tokenizer> {
    let ends = ends(&file, config);
    let drops_leading_space = strips_leading_space(&file.decoder);
    let vocabulary = vocabulary(&file)?;
    let added = file.added_tokens.into_iter().filter(|entry| !entry.token.content.is_empty());
    let added: Vec<Added> = added.map(|entry| Added { id: entry.id, token: entry.token }).collect();
    let model = model(file.model, &added)?;
    let pipeline = Pipeline::new(model, file.normalizer, file.pre_tokenizer, added)?;
    Ok(Tokenizer { pipeline, vocabulary, ends, drops_leading_space })
}

/// The BPE model without control tokens, every merge proved to name tokens of the vocabulary.
fn model(file: BpeModel, added: &[Added]) -> Result<BPE> {
    if let Some(kind) = file.kind.filter(|kind| kind != "BPE") {
        return unusable(format!("tokenizer.json has a model of type {kind}; only BPE is supported"));
    }
    let prefix = file.continuing_subword_prefix.unwrap_or_default();
    let all = file.vocab;
    let unknown = file.unk_token.as_deref();
    let control: HashSet<&str> = added
        .iter()
        .filter(|added| added.token.special && unknown != Some(added.token.content.as_str()))
        .map(|added| added.token.content.as_str())
        .collect();
    let mut merges = Merges::with_capacity(file.merges.len());
    for (rank, entry) in file.merges.into_iter().enumerate() {
        let (left, right) = match entry {
            MergeEntry::Pair(left, right) => (left, right),
            MergeEntry::Joined(both) => match both.split_once(' ') {
                Some((left, right)) if !right.contains(' ') => (left.to_owned(), right.to_owned()),
                _ => return unusable(format!("merge {rank} of tokenizer.json is {both:?}, not two tokens")),
            },
        };
        let merged = format!("{left}{}", right.strip_prefix(prefix.as_str()).unwrap_or(&right));
        if let Some(absent) = [&left, &right, &merged].into_iter().find(|&token| !all.contains_key(token)) {
            return unusable(format!("merge {rank} of tokenizer.json needs {absent:?}, which is not a token"));
        }
        if ![&left, &right, &merged].into_iter().any(|token| control.contains(token.as_str())) {
            merges.push((left, right));
        }
    }
    if let Some(unknown) = file.unk_token.as_ref().filter(|&token| !all.contains_key(token)) {
        return unusable(format!("unk_token {unknown:?} of tokenizer.json is not a token"));
    }
    let vocab: Vocab = all.into_iter().filter(|(token, _)| !control.contains(token.as_str())).collect();
    let mut model = BPE::builder().vocab_and_merges(vocab, merges);
    model = model.fuse_unk(file.fuse_unk).byte_fallback(file.byte_fallback).ignore_merges(file.ignore_merges);
    if let Some(unknown) = file.unk_token {
        model = model.unk_token(unknown);
    }
    if !prefix.is_empty() {
        model = model.continuing_subword_prefix(prefix);
    }
    if let Some(suffix) = file.end_of_word_suffix.filter(|suffix| !suffix.is_empty()) {
        model = model.end_of_word_suffix(suffix);
    }
    model.cache_capacity(WORDS_CACHED).build().map_err(|error| TextError::Tokenizer(format!("tokenizer.json: {error}")))
}

/// Ids to bytes, by the alphabet that the decoder names.
fn vocabulary(file: &TokenizerFile) -> Result<Vocabulary> {
    let model = file.model.vocab.iter().map(|(text, &id)| (id, text.as_str(), None));
    let added = file.added_tokens.iter().map(|entry| (entry.id, entry.token.content.as_str(), Some(&entry.token)));
    let count = file.model.vocab.len() + file.added_tokens.len();
    if count == 0 {
        return unusable("tokenizer.json has no tokens");
    }
    let mut table: Vec<Option<(&str, Option<&AddedToken>)>> = Vec::new();
    for (id, text, token) in model.chain(added) {
        let slot = id as usize;
        if slot >= MAX_TOKENS {
            return unusable(format!(
                "token {text:?} of tokenizer.json has id {id}; at most {MAX_TOKENS} are supported"
            ));
        }
        if slot >= table.len() {
            table.resize(slot + 1, None);
        }
        if let Some((first, _)) = table[slot].filter(|&(first, _)| first != text) {
            return unusable(format!("tokens {first:?} and {text:?} of tokenizer.json both have id {id}"));
        }
        table[slot] = Some((text, token));
    }
    let byte_level = names(&file.decoder, "ByteLevel");
    let mut vocabulary = Vocabulary::default();
    for slot in table {
        match slot {
            None => vocabulary.push(b"", false),
            Some((text, Some(token))) => vocabulary.push(text.as_bytes(), token.special),
            Some((text, None)) if byte_level => vocabulary.push(&byte_level_bytes(text), false),
            Some((text, None)) => vocabulary.push(&sentencepiece_bytes(text), false),
        }
    }
    Ok(vocabulary)
}

/// The ids around a text: `tokenizer_config.json` first, then what the post-processor's template puts there.
fn ends(file: &TokenizerFile, config: &ConfigFile) -> Ends {
    let id = |text: &str| {
        let added = file.added_tokens.iter().find(|entry| entry.token.content == text).map(|entry| entry.id);
        added.or_else(|| file.model.vocab.get(text).copied())
    };
    let (first, last) = template_ends(&file.post_processor);
    let (first, last) = (first.and_then(id), last.and_then(id));
    let bos_id = config.bos_token.as_ref().map(NamedToken::text).and_then(id).or(first);
    let eos_id = config.eos_token.as_ref().map(NamedToken::text).and_then(id).or(last);
    Ends {
        bos_id,
        eos_id,
        add_bos: config.add_bos_token.unwrap_or(first.is_some() && first == bos_id),
        add_eos: config.add_eos_token.unwrap_or(last.is_some() && last == eos_id),
    }
}

/// The tokens before and after the text in a `TemplateProcessing` post-processor.
fn template_ends(processor: &Value) -> (Option<&str>, Option<&str>) {
    if let Some(stages) = processor["processors"].as_array() {
        let found = stages.iter().map(template_ends);
        return found.fold((None, None), |ends, stage| (ends.0.or(stage.0), ends.1.or(stage.1)));
    }
    let Some(single) = processor["single"].as_array() else { return (None, None) };
    (single.first().and_then(special_name), single.last().and_then(special_name))
}

fn special_name(part: &Value) -> Option<&str> {
    part["SpecialToken"]["id"].as_str()
}

/// Whether a decoder (or one of its stages) is of this type.
fn names(decoder: &Value, kind: &str) -> bool {
    decoder["type"] == kind || decoder["decoders"].as_array().is_some_and(|all| all.iter().any(|one| names(one, kind)))
}

/// Whether the decoder takes one space off the beginning of a text.
fn strips_leading_space(decoder: &Value) -> bool {
    match decoder["type"].as_str() {
        Some("Strip") => decoder["content"] == " " && decoder["start"].as_u64().is_some_and(|count| count > 0),
        Some("Metaspace") => decoder["prepend_scheme"] != "never" && decoder["add_prefix_space"] != false,
        Some("Sequence") => decoder["decoders"].as_array().is_some_and(|all| all.iter().any(strips_leading_space)),
        _ => false,
    }
}
