//! The only way from anybody to the engine: render, tokenise, admit, look into the cache, hold, submit, detokenise, stop,
//! settle. Knows no HTTP.

mod answer_text;
mod answers;
mod bill;
mod caller;
mod choice;
mod embedder;
mod error;
mod flight;
mod gate;
mod prepare;
mod recheck;
mod record;
mod request;
mod run;
mod shelf;
mod similar;
mod trail;

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use serde_json::Value as Json;

use crate::config::GenerationConfig;
use crate::engine::EngineHandle;
use crate::manifest::{Manifest, SamplingDefaults};
use crate::telemetry::{Asked, ModelMetrics};
use crate::text::{ChatTemplate, Tokenizer};
pub use crate::text::{MAX_STOP_STRINGS, TextError};

pub use answer_text::TokenText;
pub use answers::{Answers, Finish, Piece, Terms};
pub use caller::{CacheOutcome, CacheUse, Caller};
pub use embedder::{EmbedError, Embedder, EmbeddingModel};
pub use error::GenerateError;
pub use gate::Gate;
pub use request::{GenerateRequest, Prompt};

use self::gate::Most;
use self::prepare::Prepared;
use self::run::Run;

/// Prompts of so many bytes are tokenised faster than another thread is woken.
const SHORT: usize = 1024;

/// What is known of the loaded model besides its weights.
#[derive(Debug)]
pub struct ServedModel {
    /// Name that answers carry.
    pub id: String,
    /// Further names that requests may use.
    pub aliases: Vec<String>,
    /// Identifies this model and configuration.
    pub fingerprint: String,
    /// When it was loaded, seconds since 1970.
    pub created: u64,
    /// What the operator wants of it.
    pub manifest: Manifest,
    /// Sampling parameters that the model's own files recommend.
    pub file_sampling: SamplingDefaults,
    /// Prompt plus answer at most, tokens.
    pub context: usize,
    /// Ids that exist.
    pub vocab_size: usize,
    /// Token ids that end an answer.
    pub end_ids: Vec<u32>,
    /// Text to ids and back.
    pub tokenizer: Arc<Tokenizer>,
    /// Leading tokens of every conversation under the manifest's system prompt, once somebody has counted them.
    pub shared_tokens: OnceLock<usize>,
    /// Messages to text, or why the model has no usable template.
    pub template: Result<ChatTemplate, String>,
}

/// Generates. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Generator {
    model: Arc<ServedModel>,
    engine: EngineHandle,
    embedder: Option<Embedder>,
    limits: GenerationConfig,
    metrics: ModelMetrics,
}

impl Generator {
    /// A generator over a running engine.
    pub fn new(model: ServedModel, engine: EngineHandle, limits: GenerationConfig, metrics: ModelMetrics) -> Self {
        Self { model: Arc::new(model), engine, embedder: None, limits, metrics }
    }

    /// The same with the embedding model whose encoder the engine has.
    #[must_use]
    pub fn with_embeddings(self, model: Option<EmbeddingModel>) -> Self {
        let embedder = model.map(|model| Embedder::new(model, self.engine.clone()));
        Self { embedder, ..self }
    }

    /// The model.
    pub fn model(&self) -> &ServedModel {
        &self.model
    }

    /// The engine.
    pub fn engine(&self) -> &EngineHandle {
        &self.engine
    }

    /// What makes vectors of texts, if there is an embedding model.
    pub fn embedder(&self) -> Option<&Embedder> {
        self.embedder.as_ref()
    }

    /// Answers: `choices` answers to each prompt; answer `i` belongs to prompt `i / choices`. All are taken or none. With a
    /// seed, each choice of a prompt counts on from it.
    ///
    /// # Errors
    /// When the request cannot be answered as asked (nothing is ever cut off silently), when a limit or a budget is
    /// reached, or when the engine takes no more.
    pub async fn answer(
        &self,
        gate: &Gate,
        caller: Caller,
        requests: Vec<GenerateRequest>,
        choices: usize,
    ) -> Result<Answers, GenerateError> {
        let arrival = Instant::now();
        let trace = caller.trace.generation(self.asked(&requests, choices), || content(&requests));
        let asked = trail::asked(&gate.audit, &requests);
        let answers = async {
            let prepared = self.prepare(requests, gate.similar.is_some()).await?;
            let trace = trace.clone();
            let run = Run { generator: self, gate, caller: &caller, prepared, asked, choices, arrival, trace };
            run.start().await
        };
        answers.await.inspect_err(|error| trace.refused(error.kind()))
    }

    fn asked(&self, requests: &[GenerateRequest], choices: usize) -> Asked {
        let first = requests.first();
        let is_chat = first.is_some_and(|first| matches!(first.prompt, Prompt::Chat(_)));
        Asked {
            operation: if is_chat { "chat" } else { "text_completion" },
            model: self.model.id.clone(),
            choices,
            seed: first.and_then(|first| first.seed),
            temperature: first.and_then(|first| first.sampling.temperature),
            top_p: first.and_then(|first| first.sampling.top_p),
            max_tokens: first.and_then(|first| first.max_tokens),
        }
    }

    /// Tokens of prompts and answers that such a request would use at most.
    ///
    /// # Errors
    /// When the request could not be answered as asked.
    pub async fn most(&self, requests: Vec<GenerateRequest>, choices: usize) -> Result<(u64, u64), GenerateError> {
        let Most { prompt, completion } = Most::of(&self.prepare(requests, false).await?, choices);
        Ok((prompt, completion))
    }

    /// Renders, tokenises and checks, and keeps the question where `similar` ones are looked up: a long prompt on a blocking thread, where others do not wait for it.
    async fn prepare(&self, requests: Vec<GenerateRequest>, similar: bool) -> Result<Vec<Prepared>, GenerateError> {
        let (model, limits) = (Arc::clone(&self.model), self.limits.clone());
        let system = model.manifest.system_prompt.as_ref().map_or(0, String::len);
        let length = |request: &GenerateRequest| request.prompt.bytes().map(|bytes| bytes + system);
        let is_short = requests.iter().map(length).sum::<Option<usize>>().is_some_and(|bytes| bytes <= SHORT);
        let prepared = move |request| Prepared::new(&model, &limits, request, similar);
        let prepare = move || requests.into_iter().map(prepared).collect();
        if is_short {
            return prepare();
        }
        tokio::task::spawn_blocking(prepare).await.unwrap_or(Err(GenerateError::Lost))
    }
}

/// The prompts of a request, in JSON.
fn content(requests: &[GenerateRequest]) -> String {
    let prompt = |request: &GenerateRequest| match &request.prompt {
        Prompt::Chat(messages) => Json::from(messages.clone()),
        Prompt::Text(text) => Json::from(text.as_str()),
        Prompt::Tokens(ids) => Json::from(ids.clone()),
    };
    match requests {
        [one] => prompt(one),
        all => all.iter().map(prompt).collect(),
    }
    .to_string()
}
