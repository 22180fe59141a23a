//! From a request to what the engine takes: render, tokenise, defaults, exact context checks. Pure and possibly slow:
//! runs on a blocking thread.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use serde_json::{Value as Json, json};

use super::{GenerateError, GenerateRequest, Prompt, ServedModel};
use crate::config::GenerationConfig;
use crate::engine::{CacheScope, EngineRequest, SamplingParams};
use crate::manifest::SamplingDefaults;
use crate::text::{Conversation, RenderedPrompt, StopStrings};

/// A request ready for the engine.
#[derive(Debug, Clone)]
pub struct Prepared {
    pub(super) request: EngineRequest,
    pub(super) stops: StopStrings,
    /// The answer goes on from the prompt's text.
    pub(super) continuing: bool,
    /// Nothing but the prompt is told.
    pub(super) only_prompt: bool,
    /// What similar questions are looked up by, where they are.
    pub(super) question: Option<Question>,
}

/// The last turn of a conversation, if a user's.
#[derive(Debug, Clone)]
pub(super) struct Question {
    pub text: String,
    /// Everything else that the prompt was made of, and how the template wrote it.
    pub around: String,
}

/// Longer questions hold documents, which a vector says little of; bytes.
const MOST_QUESTION: usize = 2000;

impl Prepared {
    /// Whether the same request has the same answer.
    pub(super) fn repeats(&self) -> bool {
        self.request.sampling.temperature == 0.0 || self.request.sampling.seed.is_some()
    }

    /// Everything that the answer depends on besides the model.
    pub(super) fn identity(&self) -> String {
        format!("{:?} {}", self.request.prompt, self.parameters())
    }

    /// Everything that the answer depends on besides the model and the prompt.
    pub(super) fn parameters(&self) -> String {
        let EngineRequest { sampling, max_tokens, min_tokens, stop_token_ids, prompt_logprobs, .. } = &self.request;
        let Self { stops, continuing, only_prompt, .. } = self;
        format!(
            "{sampling:?} {max_tokens} {min_tokens} {stop_token_ids:?} {prompt_logprobs:?} {stops:?} {continuing} {only_prompt}"
        )
    }

    pub(super) fn new(
        model: &ServedModel,
        limits: &GenerationConfig,
        request: GenerateRequest,
        similar: bool,
    ) -> Result<Self, GenerateError> {
        let question = if similar { question(model, &request.prompt) } else { None };
        let continuing = !matches!(request.prompt, Prompt::Chat(_));
        let (prompt, shared_tokens) = tokens(model, request.prompt)?;
        let max_tokens = room(model.context, prompt.len(), request.max_tokens, limits.default_max_tokens)?;
        if request.min_tokens > max_tokens {
            return Err(GenerateError::MinTokens);
        }
        let outside = |id: u32| id as usize >= model.vocab_size;
        if let Some(&(id, _)) = request.logit_bias.iter().find(|(id, _)| outside(*id)) {
            return Err(GenerateError::BiasToken { id, vocabulary: model.vocab_size });
        }
        let stated = over(request.sampling, over(model.manifest.sampling, model.file_sampling));
        Ok(Self {
            stops: StopStrings::new(request.stop)?,
            continuing,
            only_prompt: request.only_prompt,
            question,
            request: EngineRequest {
                prompt,
                sampling: SamplingParams {
                    seed: request.seed,
                    logit_bias: request.logit_bias,
                    logprobs: request.logprobs,
                    ..sampling(stated)
                },
                max_tokens,
                min_tokens: request.min_tokens,
                stop_token_ids: if request.ignore_eos { Vec::new() } else { model.end_ids.clone() },
                user: 0,
                weight: 1,
                priority: request.priority,
                scope: CacheScope { shared_tokens, tenant: 0 },
                deadline: None,
                prompt_logprobs: request.prompt_logprobs,
            },
        })
    }
}

/// A prompt's token ids, and how many leading ones are the administrator's, the same for everybody.
fn tokens(model: &ServedModel, prompt: Prompt) -> Result<(Vec<u32>, usize), GenerateError> {
    let mut shared = 0;
    let ids = match prompt {
        Prompt::Chat(messages) => {
            let own = messages.len();
            let messages = with_system_prompt(messages, model.manifest.system_prompt.as_deref());
            if messages.len() > own {
                shared = *model.shared_tokens.get_or_init(|| shared_tokens(model));
            }
            chat_tokens(model, messages)?
        }
        Prompt::Text(text) => model.tokenizer.encode(&text, true)?,
        Prompt::Tokens(ids) => ids,
    };
    if ids.is_empty() {
        return Err(GenerateError::EmptyPrompt);
    }
    match ids.iter().find(|id| **id as usize >= model.vocab_size) {
        Some(&id) => Err(GenerateError::PromptToken { id, vocabulary: model.vocab_size }),
        None => Ok((ids, shared)),
    }
}

fn question(model: &ServedModel, prompt: &Prompt) -> Option<Question> {
    let Prompt::Chat(messages) = prompt else { return None };
    let mut messages = with_system_prompt(messages.clone(), model.manifest.system_prompt.as_deref());
    let last = messages.last_mut().filter(|last| last["role"] == "user")?;
    let content = last.get_mut("content").filter(|content| content.is_string())?;
    let Json::String(text) = std::mem::replace(content, "?".into()) else { return None };
    if text.trim().is_empty() || text.len() > MOST_QUESTION {
        return None;
    }
    let around = format!("{} {}", Json::from(messages.clone()), render(model, messages).ok()?.text());
    Some(Question { text, around })
}

fn chat_tokens(model: &ServedModel, messages: Vec<Json>) -> Result<Vec<u32>, GenerateError> {
    Ok(model.tokenizer.encode_prompt(&render(model, messages)?)?)
}

fn render(model: &ServedModel, messages: Vec<Json>) -> Result<RenderedPrompt, GenerateError> {
    let conversation = Conversation { messages, add_generation_prompt: true, ..Conversation::default() };
    let template = model.template.as_ref().map_err(|message| GenerateError::Template(message.clone()))?;
    Ok(template.render(&conversation)?)
}

/// Leading tokens that two different conversations under the manifest's system prompt have in common.
fn shared_tokens(model: &ServedModel) -> usize {
    let conversation = |text: &str| {
        let messages = vec![json!({"role": "user", "content": text})];
        chat_tokens(model, with_system_prompt(messages, model.manifest.system_prompt.as_deref()))
    };
    match (conversation("a"), conversation("Б")) {
        (Ok(one), Ok(other)) => one.iter().zip(&other).take_while(|(one, other)| one == other).count(),
        _ => 0,
    }
}

/// A key of fair queueing or caching for a name.
pub(super) fn hash(name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

/// The manifest's system prompt applies only where the request has no system or developer message.
fn with_system_prompt(mut messages: Vec<Json>, system_prompt: Option<&str>) -> Vec<Json> {
    let instructs = |message: &Json| matches!(message["role"].as_str(), Some("system" | "developer"));
    if let Some(text) = system_prompt
        && !messages.iter().any(instructs)
    {
        messages.insert(0, json!({"role": "system", "content": text}));
    }
    messages
}

/// Tokens that the answer may have.
fn room(context: usize, prompt: usize, asked: Option<usize>, default: usize) -> Result<usize, GenerateError> {
    let left = context.saturating_sub(prompt);
    match asked {
        Some(asked) if asked > left => Err(GenerateError::ContextLength { limit: context, prompt, completion: asked }),
        None if left == 0 => Err(GenerateError::ContextLength { limit: context, prompt, completion: 1 }),
        Some(asked) => Ok(asked),
        None => Ok(default.min(left)),
    }
}

/// What `first` states, and where it is silent what `second` states.
fn over(first: SamplingDefaults, second: SamplingDefaults) -> SamplingDefaults {
    SamplingDefaults {
        temperature: first.temperature.or(second.temperature),
        top_k: first.top_k.or(second.top_k),
        top_p: first.top_p.or(second.top_p),
        min_p: first.min_p.or(second.min_p),
        typical_p: first.typical_p.or(second.typical_p),
        repetition_penalty: first.repetition_penalty.or(second.repetition_penalty),
        frequency_penalty: first.frequency_penalty.or(second.frequency_penalty),
        presence_penalty: first.presence_penalty.or(second.presence_penalty),
    }
}

/// The API's own defaults under everything stated.
fn sampling(stated: SamplingDefaults) -> SamplingParams {
    let api = SamplingParams::default();
    SamplingParams {
        temperature: stated.temperature.unwrap_or(api.temperature),
        top_k: stated.top_k.unwrap_or(api.top_k),
        top_p: stated.top_p.unwrap_or(api.top_p),
        min_p: stated.min_p.unwrap_or(api.min_p),
        typical_p: stated.typical_p.unwrap_or(api.typical_p),
        repetition_penalty: stated.repetition_penalty.unwrap_or(api.repetition_penalty),
        frequency_penalty: stated.frequency_penalty.unwrap_or(api.frequency_penalty),
        presence_penalty: stated.presence_penalty.unwrap_or(api.presence_penalty),
        ..api
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_exact_and_never_truncates() {
        assert_eq!(room(100, 60, Some(40), 1024), Ok(40));
        let error = GenerateError::ContextLength { limit: 100, prompt: 60, completion: 41 };
        assert_eq!(room(100, 60, Some(41), 1024), Err(error));
        assert_eq!(room(100, 60, None, 1024), Ok(40));
        assert_eq!(room(100, 60, None, 16), Ok(16));
        let full = GenerateError::ContextLength { limit: 100, prompt: 100, completion: 1 };
        assert_eq!(room(100, 100, None, 16), Err(full));
    }

    #[test]
    fn request_over_manifest_over_file_over_api() {
        let stated = |temperature, top_k, top_p| SamplingDefaults { temperature, top_k, top_p, ..Default::default() };
        let request = stated(Some(0.0), None, None);
        let manifest = stated(Some(0.6), Some(30), None);
        let file = stated(Some(0.7), Some(40), Some(0.9));
        let result = sampling(over(request, over(manifest, file)));
        let expected = SamplingParams { temperature: 0.0, top_k: 30, top_p: 0.9, ..SamplingParams::default() };
        assert_eq!(result, expected);
    }

    #[test]
    fn a_system_or_developer_message_replaces_the_manifests() {
        let user = json!({"role": "user", "content": "hi"});
        let added = with_system_prompt(vec![user.clone()], Some("be kind"));
        assert_eq!(added, [json!({"role": "system", "content": "be kind"}), user.clone()]);
        for role in ["system", "developer"] {
            let own = vec![json!({"role": role, "content": "mine"}), user.clone()];
            assert_eq!(with_system_prompt(own.clone(), Some("be kind")), own);
        }
    }
}
