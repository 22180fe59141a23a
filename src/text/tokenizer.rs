//! The tokenizer of a loaded model: text to ids and back. Text of users never becomes a control token; only the prompt
//! that a chat template rendered may contain them. Knows nothing of the engine or of HTTP.

use models::TokenizerSource;

use super::error::contained;
use super::pipeline::{Pipeline, Recognise};
use super::vocabulary::Vocabulary;
use super::{RenderedPrompt, Result, TextError, gguf, huggingface};

/// A model's tokenizer. Every method takes `&self` and may be called from any thread; encoding long texts takes
/// milliseconds per hundred kilobytes and belongs on a blocking thread.
pub struct Tokenizer {
    pub(super) pipeline: Pipeline,
    pub(super) vocabulary: Vocabulary,
    pub(super) ends: Ends,
    /// SentencePiece: the space put before the first word when encoding is dropped again when decoding.
    pub(super) drops_leading_space: bool,
}

/// The ids around a text.
#[derive(Debug, Clone, Default)]
pub(super) struct Ends {
    pub(super) bos_id: Option<u32>,
    pub(super) eos_id: Option<u32>,
    pub(super) add_bos: bool,
    pub(super) add_eos: bool,
}

impl Tokenizer {
    /// Builds the tokenizer of a model file; fails with one sentence where its metadata is unsound or unsupported.
    pub fn from_source(source: &TokenizerSource) -> Result<Self> {
        contained(TextError::Tokenizer, || match source {
            TokenizerSource::Gguf(vocabulary) => gguf::tokenizer(vocabulary),
            TokenizerSource::HuggingFace { tokenizer, config } => huggingface::tokenizer(tokenizer, config.as_deref()),
        })
    }

    /// Builds a tokenizer from the contents of a `tokenizer.json`.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        contained(TextError::Tokenizer, || huggingface::from_bytes(json))
    }

    /// The ids of ordinary text. A control token written in it stays text. `add_special` puts the beginning (and end)
    /// of sequence tokens around it where the model wants them.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        let ids = self.pipeline.encode(text, Recognise::OrdinaryTokens, None)?;
        Ok(if add_special { self.with_ends(ids) } else { ids })
    }

    /// The ids of a rendered chat prompt: control tokens written by the template count, those inside messages do not.
    /// The beginning of sequence token is added where the model wants one and the template wrote none.
    pub fn encode_prompt(&self, prompt: &RenderedPrompt) -> Result<Vec<u32>> {
        let mut ids = self.pipeline.encode(prompt.guarded_text(), Recognise::AllTokens, prompt.guard())?;
        if let (true, Some(bos)) = (self.ends.add_bos, self.ends.bos_id)
            && ids.first() != Some(&bos)
        {
            ids.insert(0, bos);
        }
        Ok(ids)
    }

    /// The text of `ids`, control tokens left out. Invalid UTF-8 becomes U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let ordinary = ids.iter().filter(|&&id| !self.is_special(id));
        let bytes: Vec<u8> = ordinary.flat_map(|&id| self.token_bytes(id)).copied().collect();
        let bytes = match bytes.strip_prefix(b" ") {
            Some(rest) if self.drops_leading_space => rest,
            _ => &bytes,
        };
        String::from_utf8_lossy(bytes).into_owned()
    }

    /// The bytes that a token writes; a control token's own text; nothing for an id outside the vocabulary.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.vocabulary.bytes(id)
    }

    /// A token as text for people, with U+FFFD for bytes that are no whole character.
    pub fn piece(&self, id: u32) -> String {
        String::from_utf8_lossy(self.token_bytes(id)).into_owned()
    }

    /// Number of ids; a model's logits may be wider.
    pub fn vocab_size(&self) -> usize {
        self.vocabulary.len()
    }

    /// Whether `id` is a control token (never shown, never produced by text).
    pub fn is_special(&self, id: u32) -> bool {
        self.vocabulary.is_special(id)
    }

    /// All control tokens: id and text.
    pub fn special_tokens(&self) -> impl Iterator<Item = (u32, String)> {
        self.vocabulary.special_ids().iter().map(|&id| (id, self.piece(id)))
    }

    /// The id of a control token by its text, such as `<|eot_id|>`.
    pub fn special_id(&self, name: &str) -> Option<u32> {
        let mut ids = self.vocabulary.special_ids().iter().copied();
        ids.find(|&id| self.token_bytes(id) == name.as_bytes())
    }

    /// The beginning of sequence token.
    pub fn bos_id(&self) -> Option<u32> {
        self.ends.bos_id
    }

    /// The end of sequence token.
    pub fn eos_id(&self) -> Option<u32> {
        self.ends.eos_id
    }

    /// Whether texts begin with the beginning of sequence token.
    pub fn add_bos(&self) -> bool {
        self.ends.add_bos
    }

    pub(super) fn drops_leading_space(&self) -> bool {
        self.drops_leading_space
    }

    fn with_ends(&self, ids: Vec<u32>) -> Vec<u32> {
        let bos = self.ends.bos_id.filter(|_| self.ends.add_bos);
        let eos = self.ends.eos_id.filter(|_| self.ends.add_eos);
        bos.into_iter().chain(ids).chain(eos).collect()
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("vocab_size", &self.vocab_size()).finish_non_exhaustive()
    }
}
