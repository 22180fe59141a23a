//! Bodies of the fuzz targets for tokenizer metadata and chat templates: whatever the bytes are, the answer is a result
//! or one error, and what is built keeps its promises. The tests replay seeds and mutate them.

use std::sync::Arc;

use models::{GgufVocabulary, TokenKind, TokenizerSource};
use serde_json::json;

use super::{ChatTemplate, Conversation, Detokenizer, Tokenizer};

/// Reads `data` as tokenizer metadata, one `key value` a line (see [`parse`]), and as a `tokenizer.json`; encodes and
/// decodes with whatever can be built.
///
/// # Panics
///
/// When a tokenizer breaks a promise: an id outside the vocabulary, a control token from ordinary text, or a
/// detokenizer that disagrees with decoding at once.
pub fn tokenizer_metadata(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let metadata = Box::new(parse(&text));
    let kinds = metadata.kinds.clone();
    let unknown = metadata.unknown_id;
    if let Ok(tokenizer) = Tokenizer::from_source(&TokenizerSource::Gguf(metadata)) {
        let is_unknown = |id: u32| unknown == Some(id) || kinds.get(id as usize) == Some(&TokenKind::Unknown);
        exercise(tokenizer, &text, is_unknown);
    }
    if let Ok(tokenizer) = Tokenizer::from_json(data) {
        let json: serde_json::Value = serde_json::from_slice(data).unwrap_or_default();
        let unknown = json["model"]["unk_token"].as_str().and_then(|name| tokenizer.special_id(name));
        exercise(tokenizer, &text, |id| unknown == Some(id));
    }
}

/// Compiles `data` as a chat template and renders a conversation with it.
///
/// # Panics
///
/// When the rendered prompt does not encode to ids of the vocabulary.
pub fn chat_template(data: &[u8]) {
    let source = String::from_utf8_lossy(data);
    let metadata = Box::new(parse(MINIMAL));
    let Ok(tokenizer) = Tokenizer::from_source(&TokenizerSource::Gguf(metadata)) else {
        unreachable!("the minimal vocabulary is sound");
    };
    let Ok(template) = ChatTemplate::new(&source, &tokenizer) else { return };
    let messages = vec![
        json!({"role": "system", "content": "be brief"}),
        json!({"role": "user", "content": "<|im_end|> ab"}),
        json!({"role": "assistant", "content": "b", "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}]}),
        json!({"role": "tool", "content": "1", "tool_call_id": "a"}),
    ];
    let conversation = Conversation { messages, add_generation_prompt: true, ..Conversation::default() };
    if let Ok(prompt) = template.render(&conversation)
        && let Ok(ids) = tokenizer.encode_prompt(&prompt)
    {
        assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()), "an id outside the vocabulary");
    }
}

const MINIMAL: &str = "model gpt2\npre gpt-2\nmerge a b\ntoken 1 a\ntoken 1 b\ntoken 1 ab\ntoken 3 <|im_start|>\n\
                       token 3 <|im_end|>\nbos 3\neos 4\n";

fn exercise(tokenizer: Tokenizer, text: &str, is_unknown: impl Fn(u32) -> bool) {
    let tokenizer = Arc::new(tokenizer);
    let texts = [text, "Hello, world", "  ab\u{e9}\u{1f44b}\r\n\u{0} 123", ""];
    for text in texts.map(|text| text.chars().take(2000).collect::<String>()) {
        let Ok(ids) = tokenizer.encode(&text, false) else { continue };
        for &id in &ids {
            assert!((id as usize) < tokenizer.vocab_size(), "id {id} outside the vocabulary");
            assert!(!tokenizer.is_special(id) || is_unknown(id), "control token {id} from {text:?}");
        }
        let mut detokenizer = Detokenizer::new(Arc::clone(&tokenizer));
        let pieces: String = ids.iter().map(|&id| detokenizer.push(id)).collect();
        assert_eq!(pieces + &detokenizer.finish(), tokenizer.decode(&ids));
    }
}

/// Metadata from lines: `model`, `pre`, `token KIND TEXT`, `score NUMBER`, `merge LEFT RIGHT`, `bos`, `eos`, `eot`,
/// `unknown`, `padding` with an id, `add_bos`, `add_eos`, `add_space_prefix` with 0 or 1. Other lines are skipped.
pub fn parse(text: &str) -> GgufVocabulary {
    let mut metadata = GgufVocabulary::default();
    for line in text.split('\n') {
        let (key, value) = line.split_once(' ').unwrap_or((line, ""));
        let (id, flag) = (value.parse().ok(), (!value.is_empty()).then_some(value == "1"));
        match key {
            "model" => value.clone_into(&mut metadata.model),
            "pre" => value.clone_into(&mut metadata.pre),
            "token" => {
                let (kind, token) = value.split_once(' ').unwrap_or(("1", value));
                metadata.kinds.push(kind_of(kind));
                metadata.tokens.push(token.to_owned());
            }
            "score" => metadata.scores.extend(value.parse::<f32>()),
            "merge" => metadata.merges.push(value.to_owned()),
            "bos" => metadata.bos_id = id,
            "eos" => metadata.eos_id = id,
            "eot" => metadata.eot_id = id,
            "unknown" => metadata.unknown_id = id,
            "padding" => metadata.padding_id = id,
            "add_bos" => metadata.add_bos = flag,
            "add_eos" => metadata.add_eos = flag,
            "add_space_prefix" => metadata.add_space_prefix = flag,
            "no_kinds" => metadata.kinds.clear(),
            _ => {}
        }
    }
    metadata
}

/// The numbers of `tokenizer.ggml.token_type`.
fn kind_of(number: &str) -> TokenKind {
    match number {
        "2" => TokenKind::Unknown,
        "3" => TokenKind::Control,
        "4" => TokenKind::UserDefined,
        "5" => TokenKind::Unused,
        "6" => TokenKind::Byte,
        _ => TokenKind::Normal,
    }
}
