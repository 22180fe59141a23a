//! The tokenizer of a GGUF file, from its `tokenizer.ggml.*` metadata: byte-level BPE (`gpt2`) with merges, or
//! SentencePiece (`llama`) with scores. The metadata is hostile until proved consistent here.

use std::collections::HashMap;

use models::{GgufVocabulary, TokenKind};
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::{Prepend, Replace, Sequence};
use tokenizers::{AddedToken, NormalizerWrapper};

use super::pipeline::{Added, Pipeline, WORDS_CACHED};
use super::pre_tokenizer::PreTokenizerKind;
use super::tokenizer::Ends;
use super::vocabulary::{MAX_TOKENS, Vocabulary, byte_level_bytes, byte_token, sentencepiece_bytes};
use super::{Result, TextError, Tokenizer};

/// Builds the tokenizer, or says in one sentence what is wrong with the metadata.
pub(super) fn tokenizer(source: &GgufVocabulary) -> Result<Tokenizer> {
    let tokens = Tokens::check(source)?;
    match source.model.as_str() {
        "gpt2" => byte_level(&tokens),
        "llama" => sentencepiece(&tokens),
        other => unusable(format!("tokenizer.ggml.model `{other}` is not supported; supported are gpt2 and llama")),
    }
}

fn unusable<T>(message: impl Into<String>) -> Result<T> {
    Err(TextError::Tokenizer(message.into()))
}

/// A vocabulary whose tokens are distinct and whose ids are in range.
struct Tokens<'a> {
    source: &'a GgufVocabulary,
    ids: HashMap<&'a str, u32>,
}

impl<'a> Tokens<'a> {
    fn check(source: &'a GgufVocabulary) -> Result<Self> {
        let count = source.tokens.len();
        if count == 0 {
            return unusable("tokenizer.ggml.tokens is missing or empty");
        }
        if count > MAX_TOKENS {
            return unusable(format!("tokenizer.ggml.tokens has {count} tokens; at most {MAX_TOKENS} are supported"));
        }
        if !source.kinds.is_empty() && source.kinds.len() != count {
            let kinds = source.kinds.len();
            return unusable(format!("tokenizer.ggml.token_type has {kinds} entries for {count} tokens"));
        }
        // Converters write ids outside the vocabulary for tokens that a model does not have, but never for these two.
        for (name, id) in [("bos", source.bos_id), ("eos", source.eos_id)] {
            if let Some(id) = id.filter(|&id| id as usize >= count) {
                return unusable(format!("tokenizer.ggml.{name}_token_id is {id}, but there are {count} tokens"));
            }
        }
        let mut ids = HashMap::with_capacity(count);
        for (id, token) in (0u32..).zip(&source.tokens) {
            if let Some(first) = ids.insert(token.as_str(), id)
                && !token.is_empty()
            {
                return unusable(format!("tokens {first} and {id} are both {token:?}"));
            }
        }
        Ok(Self { source, ids })
    }

    /// The kind that the file gives; in a file that gives none, control tokens are told by the bars in their text.
    fn kind(&self, id: u32) -> TokenKind {
        let text = &self.source.tokens[id as usize];
        match self.source.kinds.get(id as usize) {
            Some(kind) => *kind,
            None if text.len() > 4 && text.starts_with("<|") && text.ends_with("|>") => TokenKind::Control,
            None => TokenKind::Normal,
        }
    }

    /// Control tokens, and the unknown token (a normal token in the model, but never shown).
    fn is_special(&self, id: u32) -> bool {
        self.is_control(id) || self.kind(id) == TokenKind::Unknown
    }

    fn is_control(&self, id: u32) -> bool {
        self.kind(id) == TokenKind::Control
            || self.source.bos_id == Some(id)
            || self.source.eos_id == Some(id)
            || self.source.eot_id == Some(id)
    }

    /// Tokens matched in the text as a whole.
    fn is_added(&self, id: u32) -> bool {
        self.is_special(id) || self.kind(id) == TokenKind::UserDefined
    }

    fn each(&self) -> impl Iterator<Item = (u32, &'a str)> {
        (0u32..).zip(self.source.tokens.iter().map(String::as_str))
    }

    fn added(&self) -> Vec<Added> {
        let added = self.each().filter(|&(id, text)| self.is_added(id) && !text.is_empty());
        let token = |(id, text): (u32, &str)| {
            let token = AddedToken::from(text, self.is_special(id)).normalized(false);
            Added { id, token }
        };
        added.map(token).collect()
    }

    fn vocabulary(&self, bytes: impl Fn(&str) -> Vec<u8>) -> Vocabulary {
        let mut vocabulary = Vocabulary::default();
        for (id, text) in self.each() {
            if self.is_added(id) {
                vocabulary.push(text.as_bytes(), self.is_special(id));
            } else {
                vocabulary.push(&bytes(text), false);
            }
        }
        vocabulary
    }

    /// What the BPE model may produce: everything but control tokens and, unless it is `unknown`, the unknown one.
    fn model_vocabulary(&self, unknown: Option<u32>) -> Vocab {
        let produced = self.each().filter(|&(id, text)| {
            !text.is_empty() && (unknown == Some(id) || !(self.is_special(id) || self.kind(id) == TokenKind::Unused))
        });
        produced.map(|(id, text)| (text.to_owned(), id)).collect()
    }

    fn ends(&self, add_bos: bool) -> Ends {
        Ends {
            bos_id: self.source.bos_id,
            eos_id: self.source.eos_id,
            add_bos: self.source.add_bos.unwrap_or(add_bos),
            add_eos: self.source.add_eos.unwrap_or(false),
        }
    }
}

/// Byte-level BPE as GPT-2 introduced it.
fn byte_level(tokens: &Tokens) -> Result<Tokenizer> {
    if tokens.source.merges.is_empty() {
        return unusable("tokenizer.ggml.merges is missing or empty");
    }
    let vocab = tokens.model_vocabulary(None);
    let merges = merges(tokens, &vocab)?;
    let kind = PreTokenizerKind::named(&tokens.source.pre, |name| tokens.ids.contains_key(name))?;
    let model = BPE::builder().vocab_and_merges(vocab, merges).ignore_merges(kind.ignores_merges());
    let model = model.cache_capacity(WORDS_CACHED).build().map_err(|error| TextError::Tokenizer(error.to_string()))?;
    Ok(Tokenizer {
        pipeline: Pipeline::new(model, kind.normalizer(), Some(kind.build()?), tokens.added())?,
        vocabulary: tokens.vocabulary(byte_level_bytes),
        ends: tokens.ends(kind.adds_bos()),
        drops_leading_space: false,
    })
}

/// `tokenizer.ggml.merges`: each entry is two tokens with a space between, best first. A merge of tokens that text
/// may not produce is left out; one that names a token that does not exist is an error.
fn merges(tokens: &Tokens, vocab: &Vocab) -> Result<Merges> {
    let mut merges = Vec::with_capacity(tokens.source.merges.len());
    let mut merged = String::new();
    for (rank, entry) in tokens.source.merges.iter().enumerate() {
        let parts = entry.split_once(' ').filter(|(left, right)| !left.is_empty() && !right.is_empty());
        let Some((left, right)) = parts else {
            return unusable(format!("tokenizer.ggml.merges entry {rank} is {entry:?}, not two tokens"));
        };
        merged.clear();
        merged.extend([left, right]);
        let parts = [left, right, &merged];
        if parts.into_iter().all(|token| vocab.contains_key(token)) {
            merges.push((left.to_owned(), right.to_owned()));
        } else if let Some(absent) = parts.into_iter().find(|token| !tokens.ids.contains_key(token)) {
            return unusable(format!("tokenizer.ggml.merges entry {rank} needs {absent:?}, which is not a token"));
        }
    }
    Ok(merges)
}

/// SentencePiece BPE: the same algorithm with the merges implied by the scores.
fn sentencepiece(tokens: &Tokens) -> Result<Tokenizer> {
    let (scores, count) = (tokens.source.scores.len(), tokens.source.tokens.len());
    if scores != count {
        return unusable(format!("tokenizer.ggml.scores has {scores} entries for {count} tokens"));
    }
    let unknown = tokens.source.unknown_id.filter(|&id| (id as usize) < count);
    let unknown = unknown.or_else(|| tokens.each().map(|(id, _)| id).find(|&id| tokens.kind(id) == TokenKind::Unknown));
    // What no token can spell becomes the unknown token; a control token must not be that one.
    let unknown = unknown.filter(|&id| !tokens.source.tokens[id as usize].is_empty() && !tokens.is_control(id));
    let vocab = tokens.model_vocabulary(unknown);
    let merges = merges_by_score(tokens, &vocab, unknown);
    let mut model = BPE::builder().vocab_and_merges(vocab, merges).fuse_unk(true).byte_fallback(true);
    if let Some(id) = unknown {
        model = model.unk_token(tokens.source.tokens[id as usize].clone());
    }
    let model = model.cache_capacity(WORDS_CACHED).build().map_err(|error| TextError::Tokenizer(error.to_string()))?;
    let prefix = tokens.source.add_space_prefix.unwrap_or(true);
    Ok(Tokenizer {
        pipeline: Pipeline::new(model, Some(spaces(prefix)?), None, tokens.added())?,
        vocabulary: tokens.vocabulary(sentencepiece_bytes),
        ends: tokens.ends(true),
        drops_leading_space: prefix,
    })
}

/// Spaces become U+2581; `prefix` puts one more before every stretch of text.
fn spaces(prefix: bool) -> Result<NormalizerWrapper> {
    let replace =
        Replace::new(" ", "\u{2581}").map_err(|error| TextError::Tokenizer(format!("its normalizer: {error}")))?;
    let replace = NormalizerWrapper::Replace(replace);
    if !prefix {
        return Ok(replace);
    }
    let prepend = NormalizerWrapper::Prepend(Prepend::new("\u{2581}".into()));
    Ok(NormalizerWrapper::Sequence(Sequence::new(vec![prepend, replace])))
}

/// All ways to make a token of two others, best score first; ways of equal score (all ways to make one token among
/// them) in the order of the token, then of its parts.
fn merges_by_score(tokens: &Tokens, vocab: &Vocab, unknown: Option<u32>) -> Merges {
    let producible = |text: &str| vocab.get(text).copied().filter(|&id| Some(id) != unknown);
    let mut ways = Vec::new();
    for (id, text) in tokens.each() {
        if producible(text) != Some(id) || byte_token(text).is_some() {
            continue;
        }
        for (middle, _) in text.char_indices().skip(1) {
            let (left, right) = text.split_at(middle);
            if let (Some(left_id), Some(right_id)) = (producible(left), producible(right)) {
                ways.push(((id, left_id, right_id), (left, right)));
            }
        }
    }
    let score = |id: u32| tokens.source.scores[id as usize];
    ways.sort_by(|(a, _), (b, _)| score(b.0).total_cmp(&score(a.0)).then_with(|| a.cmp(b)));
    ways.into_iter().map(|(_, (left, right))| (left.to_owned(), right.to_owned())).collect()
}
