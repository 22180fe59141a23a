//! A vocabulary that needs no file: the 256 bytes, a few merges and Llama 3's special tokens. Every text can be
//! encoded, and it fits a small model.

use crate::{GgufVocabulary, TokenKind};

/// Llama 3's, as its `tokenizer_config.json` has it.
pub(super) const CHAT_TEMPLATE: &str = "{% set loop_messages = messages %}{% for message in loop_messages %}\
{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + \
'<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}";

const SPECIAL_TOKENS: [&str; 5] =
    ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"];

/// Enough for some tokens to have several bytes.
const MERGES: [&str; 12] = ["t h", "th e", "i n", "in g", "e r", "a n", "an d", "Ġ t", "Ġ the", "Ġ a", "o n", "r e"];

/// Byte-level BPE over the 256 bytes with [`MERGES`] and Llama 3's special tokens: 273 tokens.
pub fn byte_vocabulary() -> GgufVocabulary {
    let mut vocabulary = GgufVocabulary { model: "gpt2".into(), pre: "llama-bpe".into(), ..Default::default() };
    vocabulary.tokens.extend(byte_alphabet().map(String::from));
    vocabulary.tokens.extend(MERGES.iter().map(|merge| merge.replace(' ', "")));
    vocabulary.kinds = vec![TokenKind::Normal; vocabulary.tokens.len()];
    vocabulary.merges = MERGES.map(String::from).to_vec();
    let first_special = vocabulary.tokens.len() as u32;
    vocabulary.tokens.extend(SPECIAL_TOKENS.map(String::from));
    vocabulary.kinds.resize(vocabulary.tokens.len(), TokenKind::Control);
    vocabulary.bos_id = Some(first_special);
    vocabulary.eos_id = Some(first_special + 4);
    vocabulary.eot_id = Some(first_special + 4);
    vocabulary.add_bos = Some(true);
    vocabulary
}

/// The printable character that stands for each byte in GPT-2's scheme: itself, or one from U+0100 on.
fn byte_alphabet() -> impl Iterator<Item = char> {
    let is_printable = |byte: u8| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let mut others = '\u{100}'..;
    (0..=255).map(move |byte| if is_printable(byte) { Some(char::from(byte)) } else { others.next() }).map_while(|c| c)
}
