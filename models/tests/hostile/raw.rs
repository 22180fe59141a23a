//! GGUF files put together byte by byte, so that any field can lie.

/// Bytes with GGUF's primitives.
#[derive(Clone, Default)]
pub struct Raw(pub Vec<u8>);

impl Raw {
    pub fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    pub fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    pub fn string(self, text: &str) -> Self {
        self.u64(text.len() as u64).bytes(text.as_bytes())
    }
}

/// Type ids of metadata values.
pub const U32: u32 = 4;
pub const F32: u32 = 6;
pub const STRING: u32 = 8;
pub const ARRAY: u32 = 9;

/// One metadata entry: key, type and bytes of the value.
pub fn entry(key: &str, kind: u32, value: Raw) -> Vec<u8> {
    let mut bytes = Raw::default().string(key).u32(kind).0;
    bytes.extend(value.0);
    bytes
}

pub fn number(key: &str, value: u32) -> Vec<u8> {
    entry(key, U32, Raw::default().u32(value))
}

/// An array whose count may differ from what follows.
pub fn array(element: u32, count: u64) -> Raw {
    Raw::default().u32(element).u64(count)
}

/// One row of the tensor table, dimensions in the file's order.
pub fn tensor(name: &str, dimensions: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let start = Raw::default().string(name).u32(dimensions.len() as u32);
    dimensions.iter().fold(start, |raw, size| raw.u64(*size)).u32(kind).u64(offset).0
}

/// The parts of a GGUF file.
#[derive(Clone)]
pub struct RawGguf {
    pub version: u32,
    pub num_tensors: Option<u64>,
    pub num_entries: Option<u64>,
    pub entries: Vec<Vec<u8>>,
    pub tensors: Vec<Vec<u8>>,
    pub data_len: usize,
}

impl RawGguf {
    /// A sound file: a llama of one layer without its layer's weights.
    pub fn sound() -> Self {
        let text = |key: &str, value: &str| entry(key, STRING, Raw::default().string(value));
        let float = |key: &str, value: f32| entry(key, F32, Raw::default().u32(value.to_bits()));
        let tokens = ["<s>", "a", "b", "ab"].iter().fold(array(STRING, 4), |raw, token| raw.string(token));
        let kinds = [3, 1, 1, 1].iter().fold(array(5, 4), |raw, kind| raw.u32(*kind));
        let entries = vec![
            text("general.architecture", "llama"),
            number("llama.block_count", 1),
            number("llama.context_length", 64),
            number("llama.embedding_length", 32),
            number("llama.feed_forward_length", 64),
            number("llama.attention.head_count", 2),
            number("llama.attention.head_count_kv", 1),
            float("llama.attention.layer_norm_rms_epsilon", 1e-5),
            text("tokenizer.ggml.model", "gpt2"),
            entry("tokenizer.ggml.tokens", ARRAY, tokens),
            entry("tokenizer.ggml.token_type", ARRAY, kinds),
            entry("tokenizer.ggml.merges", ARRAY, array(STRING, 1).string("a b")),
            number("tokenizer.ggml.bos_token_id", 0),
            number("tokenizer.ggml.eos_token_id", 0),
            text("tokenizer.chat_template", "{{ messages }}"),
        ];
        let tensors = vec![
            tensor("token_embd.weight", &[32, 4], 8, 0),
            tensor("output_norm.weight", &[32], 0, 160),
            tensor("rope_freqs.weight", &[8], 0, 288),
        ];
        Self { version: 3, num_tensors: None, num_entries: None, entries, tensors, data_len: 320 }
    }

    /// The sound file with entry `key` replaced, or added.
    pub fn with_entry(mut self, key: &str, replacement: Vec<u8>) -> Self {
        let old = self.entries.iter().position(|entry| entry[8..].starts_with(key.as_bytes()));
        match old {
            Some(at) => self.entries[at] = replacement,
            None => self.entries.push(replacement),
        }
        self
    }

    /// The sound file with one more tensor.
    pub fn with_tensor(mut self, tensor: Vec<u8>) -> Self {
        self.tensors.push(tensor);
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let raw = Raw::default().bytes(b"GGUF").u32(self.version);
        let raw = raw.u64(self.num_tensors.unwrap_or(self.tensors.len() as u64));
        let raw = raw.u64(self.num_entries.unwrap_or(self.entries.len() as u64));
        let raw = raw.bytes(&self.entries.concat()).bytes(&self.tensors.concat());
        let data_start = raw.0.len().next_multiple_of(32);
        let padding = vec![0; data_start - raw.0.len()];
        // 1.0 as f32, so that factors and norms are numbers.
        let data = 1f32.to_le_bytes().repeat(self.data_len / 4);
        raw.bytes(&padding).bytes(&data).0
    }
}
