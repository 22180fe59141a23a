//! Text to ids: the stages of a Hugging Face tokenizer (added tokens, normalizer, pre-tokenizer, BPE model), run with
//! or without recognising control tokens. Knows no file formats.

use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::{
    AddedToken, AddedVocabulary, Model, NormalizerWrapper, OffsetReferential, OffsetType, PreTokenizer,
    PreTokenizerWrapper,
};

use super::error::contained;
use super::{Result, TextError};

/// Words whose ids each thread remembers; a word takes some 200 bytes.
pub(super) const WORDS_CACHED: usize = 4096;

/// A token matched in the text before the BPE model sees it.
#[derive(Debug, Clone)]
pub(super) struct Added {
    pub(super) id: u32,
    pub(super) token: AddedToken,
}

/// The stages in order. Built once, shared by all threads.
pub(super) struct Pipeline {
    normalizer: Option<NormalizerWrapper>,
    pre_tokenizer: Option<PreTokenizerWrapper>,
    model: BPE,
    // Invariant: the same tokens; only `in_prompt` matches control tokens.
    in_text: AddedVocabulary,
    in_prompt: AddedVocabulary,
}

/// Which added tokens count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Recognise {
    /// Ordinary text: tokens that are not control tokens.
    OrdinaryTokens,
    /// A rendered prompt: all of them.
    AllTokens,
}

impl Pipeline {
    /// `model` must not hold the control tokens, or text could yield them. Control tokens match the text as it was
    /// written only, since normalisation could make one of what is none; those of a single character, which no guard
    /// can keep apart, never match.
    pub(super) fn new(
        model: BPE,
        normalizer: Option<NormalizerWrapper>,
        pre_tokenizer: Option<PreTokenizerWrapper>,
        added: Vec<Added>,
    ) -> Result<Self> {
        let unusable = |error: tokenizers::Error| TextError::Tokenizer(format!("its added tokens: {error}"));
        let matched = |added: &Added| !added.token.special || added.token.content.chars().nth(1).is_some();
        let added: Vec<Added> = added.into_iter().filter(matched).collect();
        // `add_tokens` asks a model for the ids of the tokens; this one knows nothing else.
        let ids: Vocab = added.iter().map(|added| (added.token.content.clone(), added.id)).collect();
        let ids = BPE::builder().vocab_and_merges(ids, vec![]).build().map_err(unusable)?;
        let mut in_prompt = AddedVocabulary::new();
        let tokens = added.into_iter().map(|Added { token, .. }| {
            let normalized = token.normalized && !token.special;
            token.normalized(normalized)
        });
        in_prompt.add_tokens(tokens, &ids, normalizer.as_ref()).map_err(unusable)?;
        let mut in_text = in_prompt.clone();
        in_text.set_encode_special_tokens(true);
        Ok(Self { normalizer, pre_tokenizer, model, in_text, in_prompt })
    }

    /// The ids of `text`. `guard` is a character that keeps the two halves of a control token's text apart: it takes
    /// part in the search for added tokens and is removed before anything else sees it.
    pub(super) fn encode(&self, text: &str, recognise: Recognise, guard: Option<char>) -> Result<Vec<u32>> {
        contained(TextError::Encode, || self.run(text, recognise, guard))
    }

    fn run(&self, text: &str, recognise: Recognise, guard: Option<char>) -> Result<Vec<u32>> {
        let failed = |error: tokenizers::Error| TextError::Encode(error.to_string());
        let added = match recognise {
            Recognise::OrdinaryTokens => &self.in_text,
            Recognise::AllTokens => &self.in_prompt,
        };
        let mut pieces = added.extract_and_normalize(self.normalizer.as_ref(), text);
        if let Some(guard) = guard {
            pieces.normalize(|piece| piece.replace(guard, "")).map_err(failed)?;
        }
        if let Some(pre_tokenizer) = &self.pre_tokenizer {
            pre_tokenizer.pre_tokenize(&mut pieces).map_err(failed)?;
        }
        pieces.tokenize(|piece| self.model.tokenize(piece.get())).map_err(failed)?;
        let splits = pieces.get_splits(OffsetReferential::Normalized, OffsetType::None);
        Ok(splits.into_iter().flat_map(|(_, _, tokens)| tokens.iter().flatten()).map(|token| token.id).collect())
    }
}
