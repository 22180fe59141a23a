//! Chat templates: a conversation to the prompt that a model was trained on, through Jinja as Hugging Face transformers
//! runs it. Templates come from model files and are hostile: work, depth and output are limited.

use std::io;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Value};
use serde_json::Value as Json;

use super::error::contained;
use super::guard::ControlTexts;
use super::{Result, TextError, Tokenizer, python};

/// Largest template compiled; published ones stay below 100 KB.
const MAX_SOURCE_BYTES: usize = 1 << 20;
/// Largest rendered prompt.
const MAX_OUTPUT_BYTES: usize = 32 << 20;
/// Instructions one rendering may take; a conversation of a thousand messages takes some hundred thousand.
const FUEL: u64 = 5_000_000;
/// Nesting of macro calls and includes.
const MAX_RECURSION: usize = 100;

/// What the one template of an environment is called.
const NAME: &str = "chat";

/// The fallbacks.
const NAMED: [(&str, &str); 2] =
    [("llama3", include_str!("templates/llama3.jinja")), ("chatml", include_str!("templates/chatml.jinja"))];

/// Tokens that end a turn or a text in the families of models that we run.
const END_TOKENS: [&str; 9] = [
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<|end|>",
    "<|end_of_turn|>",
    "<end_of_turn>",
    "</s>",
];

/// What a template is rendered with.
#[derive(Debug, Clone, Default)]
pub struct Conversation {
    /// Objects with at least `role` and `content`, in order.
    pub messages: Vec<Json>,
    /// Whether to end with the beginning of the assistant's answer.
    pub add_generation_prompt: bool,
    /// Further variables of the template, such as `tools`, `documents`, `date_string` or `enable_thinking`.
    pub variables: serde_json::Map<String, Json>,
}

/// A prompt in which the template's control tokens can be told from the same characters inside messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenderedPrompt {
    guarded: String,
    guard: Option<char>,
}

impl RenderedPrompt {
    /// The prompt as the template wrote it.
    pub fn text(&self) -> String {
        match self.guard {
            Some(guard) => self.guarded.replace(guard, ""),
            None => self.guarded.clone(),
        }
    }

    pub(super) fn guarded_text(&self) -> &str {
        &self.guarded
    }

    pub(super) fn guard(&self) -> Option<char> {
        self.guard
    }
}

/// A compiled chat template together with what it needs of the tokenizer.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    controls: ControlTexts,
    bos_token: String,
    eos_token: String,
}

impl ChatTemplate {
    /// Compiles a Jinja template.
    pub fn new(source: &str, tokenizer: &Tokenizer) -> Result<Self> {
        if source.len() > MAX_SOURCE_BYTES {
            let message = format!("it has {} bytes; at most {MAX_SOURCE_BYTES} are supported", source.len());
            return Err(TextError::Template(message));
        }
        contained(TextError::Template, || Self::compile(source, tokenizer))
    }

    fn compile(source: &str, tokenizer: &Tokenizer) -> Result<Self> {
        let invalid = |error: minijinja::Error| TextError::Template(python::describe(&error));
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(invalid)?;
        environment.set_syntax(syntax);
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(MAX_RECURSION);
        python::install(&mut environment);
        let source = python::without_generation_tags(source);
        environment.add_template_owned(NAME, source.clone()).map_err(invalid)?;
        let text = |id: Option<u32>| id.map(|id| tokenizer.piece(id)).unwrap_or_default();
        Ok(Self {
            environment,
            source,
            controls: ControlTexts::new(tokenizer.special_tokens().map(|(_, text)| text)),
            bos_token: text(tokenizer.bos_id()),
            eos_token: text(tokenizer.eos_id()),
        })
    }

    /// The template of a model: the one that the configuration names (`llama3` or `chatml`), else the file's, else the
    /// named one whose control tokens the vocabulary has.
    pub fn select(named: Option<&str>, from_file: Option<&str>, tokenizer: &Tokenizer) -> Result<Self> {
        let find = |name: &str| NAMED.iter().find(|(known, _)| *known == name).map(|(_, source)| *source);
        let has = |name: &str| tokenizer.special_id(name).is_some();
        let source = match (named, from_file) {
            (Some(name), _) => {
                find(name).ok_or_else(|| TextError::Template(format!("there is no template named `{name}`")))?
            }
            (None, Some(source)) => source,
            (None, None) if has("<|start_header_id|>") && has("<|eot_id|>") => NAMED[0].1,
            (None, None) if has("<|im_start|>") && has("<|im_end|>") => NAMED[1].1,
            (None, None) => return Err(TextError::Template("the model file has none".into())),
        };
        Self::new(source, tokenizer)
    }

    /// The Jinja source.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Renders a conversation. Control tokens written inside its strings stay text.
    pub fn render(&self, conversation: &Conversation) -> Result<RenderedPrompt> {
        let guard = self.guard_for(conversation)?;
        let context = self.context(conversation, guard);
        let guarded = contained(TextError::Render, || {
            let failed = |error: minijinja::Error| TextError::Render(python::describe(&error));
            let template = self.environment.get_template(NAME).map_err(failed)?;
            let mut output = Bounded::default();
            template.render_captured_to(context, &mut output).map_err(failed)?;
            String::from_utf8(output.bytes).map_err(|error| TextError::Render(error.to_string()))
        })?;
        Ok(RenderedPrompt { guarded, guard })
    }

    /// A guard character where some string of the conversation spells a control token.
    fn guard_for(&self, conversation: &Conversation) -> Result<Option<char>> {
        let values = || conversation.messages.iter().chain(conversation.variables.values());
        if !self.controls.found_in(values()) {
            return Ok(None);
        }
        let unused = self.controls.unused_character(values(), &self.source);
        unused.map(Some).ok_or_else(|| TextError::Render("they use every private-use character of Unicode".into()))
    }

    /// The variables that transformers gives a template.
    fn context(&self, conversation: &Conversation, guard: Option<char>) -> Value {
        let shield = |text: &str| match guard {
            Some(guard) => self.controls.guarded(text, guard),
            None => text.to_owned(),
        };
        let messages = conversation.messages.iter().map(|message| python::value(message, &shield));
        let own = [
            ("tools", Value::from(())),
            ("documents", Value::from(())),
            ("bos_token", Value::from(self.bos_token.as_str())),
            ("eos_token", Value::from(self.eos_token.as_str())),
            ("messages", messages.collect()),
            ("add_generation_prompt", Value::from(conversation.add_generation_prompt)),
        ];
        let own = own.into_iter().map(|(name, value)| (name.to_owned(), value));
        let further = conversation.variables.iter().map(|(name, value)| (name.clone(), python::value(value, &shield)));
        Value::from_pairs(own.chain(further))
    }

    /// The ids that end an answer: those that the file names and the well-known ones that this template writes.
    pub fn end_ids(&self, from_file: &[u32], tokenizer: &Tokenizer) -> Vec<u32> {
        let written = END_TOKENS.into_iter().filter(|name| self.source.contains(name));
        let written = written.filter_map(|name| tokenizer.special_id(name));
        let mut ids: Vec<u32> = from_file.iter().copied().chain(tokenizer.eos_id()).chain(written).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }
}

/// Output up to the limit.
#[derive(Default)]
struct Bounded {
    bytes: Vec<u8>,
}

impl io::Write for &mut Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > MAX_OUTPUT_BYTES {
            let message = format!("the prompt would be longer than {MAX_OUTPUT_BYTES} bytes");
            return Err(io::Error::other(message));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
