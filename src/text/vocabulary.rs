//! Ids to bytes: what each token of a vocabulary writes, and which tokens are control tokens.
//! Knows nothing of how text becomes ids.

/// Largest vocabulary taken from a file; the largest published ones have some 260,000 tokens.
pub(super) const MAX_TOKENS: usize = 1 << 22;

/// The bytes of every token, back to back.
#[derive(Debug, Clone, Default)]
pub(super) struct Vocabulary {
    bytes: Vec<u8>,
    // ends[id] is where the bytes of `id` end and those of `id + 1` begin.
    ends: Vec<usize>,
    special: Vec<bool>,
    special_ids: Vec<u32>,
}

impl Vocabulary {
    /// Appends the next id.
    pub(super) fn push(&mut self, bytes: &[u8], special: bool) {
        if special {
            self.special_ids.push(self.len() as u32);
        }
        self.bytes.extend_from_slice(bytes);
        self.ends.push(self.bytes.len());
        self.special.push(special);
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The bytes of a token, none for an id outside the vocabulary.
    pub(super) fn bytes(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let Some(&end) = self.ends.get(id) else { return &[] };
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        &self.bytes[start..end]
    }

    /// The control tokens, in order.
    pub(super) fn special_ids(&self) -> &[u32] {
        &self.special_ids
    }

    pub(super) fn is_special(&self, id: u32) -> bool {
        self.special.get(id as usize).copied().unwrap_or(false)
    }
}

/// The byte that a character stands for in byte-level BPE vocabularies (the table of GPT-2's `bytes_to_unicode`):
/// printable Latin-1 stands for itself, the other 68 bytes in order for U+0100 onwards.
pub(super) fn byte_of_char(character: char) -> Option<u8> {
    let code = u32::from(character);
    match code {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => u8::try_from(code).ok(),
        0x100..=0x120 => u8::try_from(code - 0x100).ok(), // 0x00..=0x20
        0x121..=0x142 => u8::try_from(code - 0x121 + 0x7f).ok(), // 0x7f..=0xa0
        0x143 => Some(0xad),
        _ => None,
    }
}

/// The bytes of a byte-level BPE token; a token with characters outside the table stands for its own UTF-8.
pub(super) fn byte_level_bytes(token: &str) -> Vec<u8> {
    token.chars().map(byte_of_char).collect::<Option<Vec<u8>>>().unwrap_or_else(|| token.as_bytes().to_vec())
}

/// The bytes of a SentencePiece token: `<0xNN>` is a byte, U+2581 a space.
pub(super) fn sentencepiece_bytes(token: &str) -> Vec<u8> {
    match byte_token(token) {
        Some(byte) => vec![byte],
        None => token.replace('\u{2581}', " ").into_bytes(),
    }
}

/// The byte of a byte-fallback token such as `<0x0A>`.
pub(super) fn byte_token(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    let digits = (digits.len() == 2).then_some(digits)?;
    u8::from_str_radix(digits, 16).ok()
}
