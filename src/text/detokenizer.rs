//! Token ids back to text, one at a time: never half a UTF-8 character, never a character that changes later.
//! Pushing ids one by one and finishing gives exactly what decoding all of them at once gives.

use std::sync::Arc;

use super::Tokenizer;

/// The text side of one answer. Control tokens are skipped.
#[derive(Debug, Clone)]
pub struct Detokenizer {
    tokenizer: Arc<Tokenizer>,
    // Invariant: empty or an incomplete UTF-8 sequence (at most 3 bytes) between calls.
    pending: Vec<u8>,
    drop_space: bool,
}

impl Detokenizer {
    /// Text that begins with the first id, such as a chat answer: the space that SentencePiece puts before the first
    /// word of a text is dropped.
    pub fn new(tokenizer: Arc<Tokenizer>) -> Self {
        let drop_space = tokenizer.drops_leading_space();
        Self { tokenizer, pending: Vec::new(), drop_space }
    }

    /// Text that goes on from a prompt, such as a completion: a leading space is the model's own.
    pub fn continuing(tokenizer: Arc<Tokenizer>) -> Self {
        Self { tokenizer, pending: Vec::new(), drop_space: false }
    }

    /// Adds a token and returns the text that is now certain; empty while a character is incomplete.
    pub fn push(&mut self, id: u32) -> String {
        if self.tokenizer.is_special(id) {
            return String::new();
        }
        let mut bytes = self.tokenizer.token_bytes(id);
        if self.drop_space && !bytes.is_empty() {
            self.drop_space = false;
            bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
        }
        self.pending.extend_from_slice(bytes);
        self.take_complete()
    }

    /// Ends the text: bytes of a character that never became complete turn into one U+FFFD.
    pub fn finish(&mut self) -> String {
        if self.pending.is_empty() {
            return String::new();
        }
        self.pending.clear();
        char::REPLACEMENT_CHARACTER.into()
    }

    /// Moves everything but an incomplete last character out of `pending`, as `String::from_utf8_lossy` would read it.
    fn take_complete(&mut self) -> String {
        let mut text = String::new();
        let mut rest = self.pending.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    rest = after;
                    let Some(bad) = error.error_len() else { break };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &rest[bad..];
                }
            }
        }
        self.pending.drain(..self.pending.len() - rest.len());
        text
    }
}
