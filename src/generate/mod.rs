//! The only way from anybody to the engine: render, tokenise, submit, detokenise, stop. Knows no HTTP.

mod answer_text;
mod answers;
mod error;
mod prepare;
mod request;

use std::sync::Arc;
use std::time::Instant;

use crate::config::GenerationConfig;
use crate::engine::EngineHandle;
use crate::manifest::{Manifest, SamplingDefaults};
use crate::telemetry::ModelMetrics;
use crate::text::{ChatTemplate, Tokenizer};
pub use crate::text::{MAX_STOP_STRINGS, TextError};

pub use answer_text::TokenText;
pub use answers::{Answers, Finish, Piece};
pub use error::GenerateError;
pub use prepare::Prepared;
pub use request::{GenerateRequest, Prompt};

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
    /// Messages to text, or why the model has no usable template.
    pub template: Result<ChatTemplate, String>,
}

/// Generates. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Generator {
    model: Arc<ServedModel>,
    engine: EngineHandle,
    limits: GenerationConfig,
    metrics: ModelMetrics,
}

impl Generator {
    /// A generator over a running engine.
    pub fn new(model: ServedModel, engine: EngineHandle, limits: GenerationConfig, metrics: ModelMetrics) -> Self {
        Self { model: Arc::new(model), engine, limits, metrics }
    }

    /// The model.
    pub fn model(&self) -> &ServedModel {
        &self.model
    }

    /// The engine.
    pub fn engine(&self) -> &EngineHandle {
        &self.engine
    }

    /// Renders, tokenises and checks on a blocking thread.
    ///
    /// # Errors
    /// When the request cannot be answered as asked; nothing is ever cut off silently.
    pub async fn prepare(&self, request: GenerateRequest) -> Result<Prepared, GenerateError> {
        let (model, limits) = (Arc::clone(&self.model), self.limits.clone());
        let prepared = tokio::task::spawn_blocking(move || Prepared::new(&model, &limits, request)).await;
        prepared.unwrap_or(Err(GenerateError::Lost))
    }

    /// Submits `choices` generations of each prompt; answer `i` belongs to prompt `i / choices`. All are taken or none.
    /// With a seed, each choice of a prompt counts on from it.
    ///
    /// # Errors
    /// When the engine takes no more requests, or the request can never fit.
    pub fn submit(&self, prompts: Vec<Prepared>, choices: usize) -> Result<Answers, GenerateError> {
        let arrival = Instant::now();
        let mut generations = Vec::with_capacity(prompts.len() * choices);
        for prepared in prompts {
            for choice in 0..choices {
                let mut request = prepared.request.clone();
                request.sampling.seed = request.sampling.seed.map(|seed| seed.wrapping_add(choice as u64));
                let refused = |error| GenerateError::refused(error, prepared.request.prompt.len());
                generations.push((self.engine.submit(request).map_err(refused)?, prepared.clone()));
            }
        }
        Ok(Answers::follow(generations, &self.model, &self.metrics, arrival))
    }
}
