//! What `tokenizer_config.json` and the files beside it say about chat templates and the tokens that end an answer.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::{MAX_JSON_BYTES, read_json};
use crate::Result;
use crate::end_tokens::ends_answer;

/// The keys of `tokenizer_config.json` that matter here.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct TokenizerConfig {
    chat_template: Option<ChatTemplate>,
    bos_token: Option<Token>,
    eos_token: Option<Token>,
    pad_token: Option<Token>,
    pub(crate) add_bos_token: Option<bool>,
    #[serde(default)]
    added_tokens_decoder: BTreeMap<String, AddedToken>,
}

/// One template, or several of which one is called `default`.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum ChatTemplate {
    One(String),
    Named(Vec<NamedTemplate>),
}

#[derive(Debug, Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

/// A token as its text or as an object that holds its text.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Token {
    Text(String),
    Object { content: String },
}

impl Token {
    fn text(&self) -> &str {
        match self {
            Self::Text(content) | Self::Object { content } => content,
        }
    }
}

#[derive(Debug, Deserialize)]
struct AddedToken {
    content: String,
    #[serde(default)]
    special: bool,
}

impl TokenizerConfig {
    /// The file at `path`, if there is one.
    pub(crate) fn read(path: &Path) -> Result<Option<Self>> {
        read_json(path, MAX_JSON_BYTES)
    }

    /// Text of the token that begins a document.
    pub(crate) fn bos_token(&self) -> Option<&str> {
        self.bos_token.as_ref().map(Token::text)
    }

    /// Text of the token that ends one.
    pub(crate) fn eos_token(&self) -> Option<&str> {
        self.eos_token.as_ref().map(Token::text)
    }

    /// Text of the token that fills batches up.
    pub(crate) fn pad_token(&self) -> Option<&str> {
        self.pad_token.as_ref().map(Token::text)
    }

    pub(super) fn chat_template(&self) -> Option<&str> {
        match self.chat_template.as_ref()? {
            ChatTemplate::One(template) => Some(template),
            ChatTemplate::Named(templates) => {
                templates.iter().find(|t| t.name == "default").or(templates.first()).map(|t| t.template.as_str())
            }
        }
    }

    /// Ids of `eos_token` and of the special tokens known to end a turn.
    pub(super) fn end_ids(&self) -> impl Iterator<Item = u32> {
        let eos = self.eos_token();
        let ends = move |token: &AddedToken| {
            Some(token.content.as_str()) == eos || (token.special && ends_answer(&token.content))
        };
        self.added_tokens_decoder.iter().filter(move |(_, token)| ends(token)).filter_map(|(id, _)| id.parse().ok())
    }
}
