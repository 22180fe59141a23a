//! The tokenizer of a GGUF file: the `tokenizer.*` keys, proved to agree with each other.

use super::Parsed;
use super::metadata::Metadata;
use super::value::Value;
use crate::end_tokens::ends_answer;
use crate::{GgufVocabulary, TokenKind};

/// Twice the largest vocabularies in use; keeps what a hostile file can make us copy within some tens of MiB.
pub(crate) const MAX_TOKENS: usize = 1 << 19;

/// Keys that name a token which ends an answer.
const END_KEYS: [&str; 3] =
    ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];

pub(super) fn read(metadata: Metadata) -> Parsed<GgufVocabulary> {
    let missing = |key: &str| format!("metadata key {key} is missing: the file has no tokenizer");
    let model = metadata.str("tokenizer.ggml.model")?.ok_or_else(|| missing("tokenizer.ggml.model"))?;
    let tokens = strings(metadata, "tokenizer.ggml.tokens")?.ok_or_else(|| missing("tokenizer.ggml.tokens"))?;
    let id = |key| token_id(metadata, key, tokens.len());
    Ok(GgufVocabulary {
        model: model.to_owned(),
        pre: metadata.str("tokenizer.ggml.pre")?.unwrap_or_default().to_owned(),
        scores: per_token(metadata, "tokenizer.ggml.scores", tokens.len(), |v| v.as_f64().map(|v| v as f32))?,
        kinds: per_token(metadata, "tokenizer.ggml.token_type", tokens.len(), token_kind)?,
        merges: strings(metadata, "tokenizer.ggml.merges")?.unwrap_or_default(),
        bos_id: id("tokenizer.ggml.bos_token_id")?,
        eos_id: id("tokenizer.ggml.eos_token_id")?,
        eot_id: id("tokenizer.ggml.eot_token_id")?,
        // Converters write ids outside the vocabulary for these two where a model does not have them.
        unknown_id: id("tokenizer.ggml.unknown_token_id").unwrap_or(None),
        padding_id: id("tokenizer.ggml.padding_token_id").unwrap_or(None),
        add_bos: metadata.bool("tokenizer.ggml.add_bos_token")?,
        add_eos: metadata.bool("tokenizer.ggml.add_eos_token")?,
        add_space_prefix: metadata.bool("tokenizer.ggml.add_space_prefix")?,
        tokens,
    })
}

/// Ids that end an answer: those that keys name, and control tokens whose text is known to.
pub(super) fn end_ids(metadata: Metadata) -> Parsed<Vec<u32>> {
    let Some(tokens) = metadata.array("tokenizer.ggml.tokens")? else { return Ok(Vec::new()) };
    let mut ids = Vec::new();
    for key in END_KEYS {
        ids.extend(token_id(metadata, key, tokens.len())?);
    }
    let kinds = per_token(metadata, "tokenizer.ggml.token_type", tokens.len(), token_kind)?;
    for (id, token) in tokens.iter().enumerate() {
        let is_end = matches!(token?, Value::String(text) if ends_answer(text));
        let is_special = kinds.get(id).is_some_and(|k| matches!(k, TokenKind::Control | TokenKind::UserDefined));
        if is_end && is_special {
            ids.push(id as u32);
        }
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

/// The number of tokens in the vocabulary, if there is one.
pub(super) fn num_tokens(metadata: Metadata) -> Parsed<Option<usize>> {
    Ok(metadata.array("tokenizer.ggml.tokens")?.map(|tokens| tokens.len()))
}

fn strings(metadata: Metadata, key: &str) -> Parsed<Option<Vec<String>>> {
    let Some(array) = metadata.array(key)? else { return Ok(None) };
    if array.len() > MAX_TOKENS {
        return Err(format!("metadata key {key}: {} elements; at most {MAX_TOKENS} are read", array.len()));
    }
    let text = |value: Parsed<Value>| match value? {
        Value::String(text) => Ok(text.to_owned()),
        _ => Err(format!("metadata key {key}: an array of text is expected")),
    };
    array.iter().map(text).collect::<Parsed<_>>().map(Some)
}

/// An array with one element for every token; empty when absent.
fn per_token<T>(metadata: Metadata, key: &str, tokens: usize, read: impl Fn(Value) -> Option<T>) -> Parsed<Vec<T>> {
    let Some(array) = metadata.array(key)? else { return Ok(Vec::new()) };
    if array.len() != tokens || tokens > MAX_TOKENS {
        return Err(format!("metadata key {key}: {} elements for a vocabulary of {tokens}", array.len()));
    }
    let element = |(number, value): (usize, Parsed<Value>)| {
        read(value?).ok_or_else(|| format!("metadata key {key}: element {number} is of the wrong type or value"))
    };
    array.iter().enumerate().map(element).collect()
}

fn token_kind(value: Value) -> Option<TokenKind> {
    Some(match value.as_u64()? {
        0 | 1 => TokenKind::Normal,
        2 => TokenKind::Unknown,
        3 => TokenKind::Control,
        4 => TokenKind::UserDefined,
        5 => TokenKind::Unused,
        6 => TokenKind::Byte,
        _ => return None,
    })
}

fn token_id(metadata: Metadata, key: &str, tokens: usize) -> Parsed<Option<u32>> {
    match metadata.u64(key)? {
        Some(id) if id >= tokens as u64 => {
            Err(format!("metadata key {key}: token {id} is outside the vocabulary of {tokens}"))
        }
        id => Ok(id.map(|id| id as u32)),
    }
}
