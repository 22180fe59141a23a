//! The tokenizer of an embedding model: the `tokenizer.json` in its folder, with the tokens that belong around a text, cut
//! to what the model takes. Knows no network and no engine.

use std::collections::HashSet;
use std::path::Path;

use tokenizers::{Tokenizer as Library, TruncationParams};

use super::error::contained;
use super::{Result, TextError};

/// Largest `tokenizer.json` read.
const MAX_FILE_BYTES: u64 = 64 << 20;
/// No token of a natural text has more bytes on average; what lies behind so many for each token is cut off unread.
const BYTES_PER_TOKEN: usize = 64;

/// Texts to ids for an encoder. Every method takes `&self` and may be called from any thread.
pub struct EncoderTokenizer {
    library: Library,
    /// Control tokens: only what belongs around a text may be one.
    control: HashSet<u32>,
    max_tokens: usize,
}

impl std::fmt::Debug for EncoderTokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EncoderTokenizer").field("max_tokens", &self.max_tokens).finish_non_exhaustive()
    }
}

impl EncoderTokenizer {
    /// The tokenizer in `folder` of a model with so many ids that takes so many tokens.
    ///
    /// # Errors
    /// One sentence where the file cannot be read or used, or is another model's.
    pub fn open(folder: &Path, vocab_size: usize, max_tokens: usize) -> Result<Self> {
        let path = folder.join("tokenizer.json");
        let unreadable = |error: &dyn std::fmt::Display| TextError::Tokenizer(format!("{}: {error}", path.display()));
        let length = std::fs::metadata(&path).map_err(|error| unreadable(&error))?.len();
        if length > MAX_FILE_BYTES {
            return Err(unreadable(&format!("{length} bytes are more than any tokenizer needs")));
        }
        Self::from_json(&std::fs::read(&path).map_err(|error| unreadable(&error))?, vocab_size, max_tokens)
    }

    /// The same from the contents of a `tokenizer.json`.
    ///
    /// # Errors
    /// As for [`EncoderTokenizer::open`].
    pub fn from_json(json: &[u8], vocab_size: usize, max_tokens: usize) -> Result<Self> {
        let unusable = |error: tokenizers::Error| TextError::Tokenizer(format!("tokenizer.json: {error}"));
        let tokenizer = contained(TextError::Tokenizer, || {
            let mut library = Library::from_bytes(json).map_err(unusable)?;
            let truncation = TruncationParams { max_length: max_tokens, ..TruncationParams::default() };
            library.with_truncation(Some(truncation)).map_err(unusable)?;
            library.with_padding(None);
            library.set_encode_special_tokens(true);
            let control = library.get_added_tokens_decoder().into_iter().filter(|(_, token)| token.special);
            // What stands for unknown words is ordinary.
            let control = control.filter(|(_, token)| !token.content.to_lowercase().contains("unk"));
            let control = control.map(|(id, _)| id).collect();
            Ok(Self { library, control, max_tokens })
        })?;
        let highest = tokenizer.library.get_vocab(true).into_values().max().unwrap_or(0);
        if highest as usize >= vocab_size {
            let message = format!("token {highest} of tokenizer.json is beyond the {vocab_size} that the model has");
            return Err(TextError::Tokenizer(message));
        }
        tokenizer.encode("a")?;
        Ok(tokenizer)
    }

    /// The ids of `text` with the tokens around it; the end of a text that is too long is left out.
    ///
    /// # Errors
    /// When the library fails on it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let text = &text[..text.floor_char_boundary(self.max_tokens.saturating_mul(BYTES_PER_TOKEN))];
        let ids = contained(TextError::Encode, || {
            let encoding = self.library.encode_fast(text, true);
            let encoding = encoding.map_err(|error| TextError::Encode(error.to_string()))?;
            let added = encoding.get_special_tokens_mask().iter().map(|mask| *mask == 1);
            // The models of some tokenizers know control tokens by their text.
            let kept = encoding.get_ids().iter().zip(added).filter(|(id, added)| *added || !self.control.contains(id));
            Ok(kept.map(|(id, _)| *id).collect::<Vec<u32>>())
        })?;
        if ids.len() > self.max_tokens {
            let message = format!("the tokenizer puts more than {} tokens around a text", self.max_tokens);
            return Err(TextError::Encode(message));
        }
        Ok(ids)
    }
}
