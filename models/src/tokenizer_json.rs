//! A Hugging Face `tokenizer.json` in GGUF's terms, for converting models: byte-level BPE as `gpt2`, BPE with byte
//! fallback as SentencePiece's `llama`.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::gguf::MAX_TOKENS;
use crate::safetensors::{TokenizerConfig, read_json};
use crate::{Error, GgufVocabulary, Result, TokenKind};

/// Tokenizers of large vocabularies take some tens of MB.
const MAX_TOKENIZER_BYTES: u64 = 128 << 20;

/// Division of text into words by Llama 3's expression.
pub(crate) const LLAMA3_PATTERN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen2's, which differs in taking digits one by one.
const QWEN2_PATTERN: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The vocabulary of a `tokenizer.json`, with what the `tokenizer_config.json` beside it adds.
///
/// # Errors
/// When a file cannot be read, or the tokenizer is of a kind that GGUF has no name for.
pub fn read_tokenizer_json(tokenizer: &Path, config: Option<&Path>) -> Result<GgufVocabulary> {
    let invalid = |message: String| Error::invalid(tokenizer, message);
    let json: Option<TokenizerJson> = read_json(tokenizer, MAX_TOKENIZER_BYTES)?;
    let json = json.ok_or_else(|| invalid("the file is missing".into()))?;
    let config = config.map(TokenizerConfig::read).transpose()?.flatten().unwrap_or_default();
    json.into_vocabulary(&config).map_err(invalid)
}

/// The vocabulary of a `tokenizer.json` of these bytes, with nothing beside it.
pub(crate) fn parse(bytes: &[u8]) -> Option<GgufVocabulary> {
    serde_json::from_slice::<TokenizerJson>(bytes).ok()?.into_vocabulary(&TokenizerConfig::default()).ok()
}

#[derive(Deserialize)]
struct TokenizerJson {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    post_processor: Option<Value>,
    model: Bpe,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
struct Bpe {
    vocab: HashMap<String, u32>,
    merges: Vec<Merge>,
    #[serde(default)]
    byte_fallback: bool,
    unk_token: Option<String>,
}

/// A merge as one string with a space, or as a pair.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Joined(String),
    Pair(String, String),
}

impl Merge {
    fn into_text(self) -> String {
        match self {
            Self::Joined(text) => text,
            Self::Pair(left, right) => format!("{left} {right}"),
        }
    }
}

impl TokenizerJson {
    fn into_vocabulary(self, config: &TokenizerConfig) -> std::result::Result<GgufVocabulary, String> {
        let Self { added_tokens, normalizer, pre_tokenizer, post_processor, model } = self;
        let Bpe { vocab, merges, byte_fallback, unk_token } = model;
        let merges: Vec<String> = merges.into_iter().map(Merge::into_text).collect();
        let (tokens, kinds) = tokens(vocab, added_tokens, byte_fallback, unk_token.as_deref())?;
        let pre = if byte_fallback { "default" } else { pre_tokenizer_name(pre_tokenizer.as_ref())? };
        let around = post_processor.as_ref().map(Around::read).unwrap_or_default();
        let id = |text: &str| tokens.iter().position(|token| token == text).map(|id| id as u32);
        let named = |token: Option<&str>| token.and_then(id);
        let eot = ["<|eot_id|>", "<|im_end|>"].into_iter().find_map(id);
        Ok(GgufVocabulary {
            model: if byte_fallback { "llama" } else { "gpt2" }.into(),
            pre: pre.into(),
            scores: if byte_fallback { scores(&tokens, &merges) } else { Vec::new() },
            bos_id: named(config.bos_token().or(around.first)),
            eos_id: named(config.eos_token().or(around.last)).or(eot),
            eot_id: eot,
            unknown_id: named(unk_token.as_deref()),
            padding_id: named(config.pad_token()),
            add_bos: around.has_template.then_some(around.first.is_some()).or(config.add_bos_token),
            add_eos: around.has_template.then_some(around.last.is_some()),
            add_space_prefix: byte_fallback.then(|| adds_space(normalizer.as_ref(), pre_tokenizer.as_ref())),
            merges: if byte_fallback { Vec::new() } else { merges },
            kinds,
            tokens,
        })
    }
}

/// Tokens by id with their kinds; ids that nothing uses get a reserved name.
fn tokens(
    vocab: HashMap<String, u32>,
    added: Vec<AddedToken>,
    byte_fallback: bool,
    unknown: Option<&str>,
) -> std::result::Result<(Vec<String>, Vec<TokenKind>), String> {
    let last = vocab.values().copied().chain(added.iter().map(|token| token.id)).max().unwrap_or(0) as usize;
    if last >= MAX_TOKENS {
        return Err(format!("token id {last} is too large; at most {MAX_TOKENS} tokens are read"));
    }
    let mut slots: Vec<Option<(String, TokenKind)>> = vec![None; last + 1];
    for (token, id) in vocab {
        let kind = match token.as_str() {
            text if unknown == Some(text) => TokenKind::Unknown,
            text if byte_fallback && is_byte(text) => TokenKind::Byte,
            _ => TokenKind::Normal,
        };
        if let Some((other, _)) = slots[id as usize].replace((token, kind)) {
            return Err(format!("two tokens have the id {id}; one is {other:?}"));
        }
    }
    for AddedToken { id, content, special } in added {
        let slot = &mut slots[id as usize];
        let is_unknown = slot.as_ref().is_some_and(|(_, kind)| *kind == TokenKind::Unknown);
        let kind = match special {
            _ if is_unknown => TokenKind::Unknown,
            true => TokenKind::Control,
            false => TokenKind::UserDefined,
        };
        *slot = Some((content, kind));
    }
    let filled =
        |(id, slot): (usize, Option<_>)| slot.unwrap_or_else(|| (format!("<|unused_{id}|>"), TokenKind::Unused));
    Ok(slots.into_iter().enumerate().map(filled).unzip())
}

/// SentencePiece's name of a single byte, `<0x0A>`.
fn is_byte(token: &str) -> bool {
    let digits = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && u8::from_str_radix(digits, 16).is_ok())
}

/// SentencePiece's scores: the earlier a token is merged, the higher, which gives the order of the merges again.
fn scores(tokens: &[String], merges: &[String]) -> Vec<f32> {
    let mut ranks: HashMap<String, f32> = HashMap::new();
    for merge in merges {
        let next = -(ranks.len() as f32);
        ranks.entry(merge.replacen(' ', "", 1)).or_insert(next);
    }
    let lowest = -(ranks.len() as f32);
    tokens.iter().map(|token| ranks.get(token).copied().unwrap_or(lowest)).collect()
}

/// GGUF's name of a byte-level pre-tokenizer.
fn pre_tokenizer_name(pre_tokenizer: Option<&Value>) -> std::result::Result<&'static str, String> {
    let unnamed = || "the pre-tokenizer is none that is known here: llama-bpe, qwen2, smollm and gpt-2 are".to_owned();
    let steps = match pre_tokenizer {
        Some(step) => {
            step.get("pretokenizers").and_then(Value::as_array).map_or_else(|| vec![step], |s| s.iter().collect())
        }
        None => Vec::new(),
    };
    let kind = |step: &Value| step.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    let kinds: Vec<String> = steps.iter().map(|step| kind(step)).collect();
    let pattern = || steps[0].pointer("/pattern/Regex").and_then(Value::as_str);
    let flag = |step: &Value, key: &str| step.get(key).and_then(Value::as_bool);
    match kinds.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["Split", "ByteLevel"] if pattern() == Some(LLAMA3_PATTERN) => Ok("llama-bpe"),
        ["Split", "ByteLevel"] if pattern() == Some(QWEN2_PATTERN) => Ok("qwen2"),
        ["Digits", "ByteLevel"] if flag(steps[0], "individual_digits") == Some(true) => Ok("smollm"),
        ["ByteLevel"] if flag(steps[0], "use_regex") != Some(false) => Ok("gpt-2"),
        _ => Err(unnamed()),
    }
}

/// Special tokens that the post-processor puts around a text.
#[derive(Default)]
struct Around<'a> {
    /// There is a template; without one the tokenizer says nothing about them.
    has_template: bool,
    first: Option<&'a str>,
    last: Option<&'a str>,
}

impl<'a> Around<'a> {
    /// The template is the processor itself or a step of a sequence.
    fn read(processor: &'a Value) -> Self {
        let steps = processor.get("processors").and_then(Value::as_array);
        let mut templates = steps.into_iter().flatten().chain([processor]);
        let Some(items) = templates.find_map(|step| step.get("single")?.as_array()) else {
            return Self::default();
        };
        let special = |item: Option<&'a Value>| item?.pointer("/SpecialToken/id")?.as_str();
        Self { has_template: true, first: special(items.first()), last: special(items.last()) }
    }
}

/// Whether a space is put before the text, as SentencePiece does unless told otherwise.
fn adds_space(normalizer: Option<&Value>, pre_tokenizer: Option<&Value>) -> bool {
    let prepends = |step: &Value| step.get("type").and_then(Value::as_str) == Some("Prepend");
    let in_normalizer = normalizer.is_some_and(|normalizer| {
        let steps = normalizer.get("normalizers").and_then(Value::as_array);
        prepends(normalizer) || steps.into_iter().flatten().any(prepends)
    });
    let scheme = pre_tokenizer.and_then(|step| step.get("prepend_scheme")).and_then(Value::as_str);
    in_normalizer || scheme.is_some_and(|scheme| scheme != "never")
}
