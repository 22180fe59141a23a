//! Opens and loads the model, starts the engine on it and lets it produce one token.

use std::sync::{Arc, mpsc};
use std::thread;

use anyhow::{Context as _, anyhow, bail};
use indicatif::ProgressBar;
use kernels::KvCacheType;
use models::{KvCache, Model, ModelFile, PackedFile, Placement};

use super::devices::Devices;
use super::machine::Machine;
use super::packed_cache::{Matrices, PackedCache};
use super::sizes::Sizes;
use super::{Report, embeddings, model};
use crate::config::Config;
use crate::engine::{
    CacheScope, Engine, EngineHandle, EngineOptions, EngineRequest, ModelRunner, SamplingParams, TokenEvent,
};
use crate::generate::Generator;
use crate::telemetry::Metrics;

/// A generator that has already generated.
///
/// # Errors
/// When the model cannot be found, read, fitted into memory or run.
pub async fn load(config: &Config, machine: Machine, metrics: Metrics, report: Report) -> anyhow::Result<Generator> {
    let settings = config.clone();
    let started = tokio::task::spawn_blocking(move || start(&settings, &machine, &metrics, report)).await;
    let (generator, afterwards) = started.context("loading was interrupted")??;
    warm_up(generator.engine()).await?;
    thread::spawn(move || afterwards.run());
    Ok(generator)
}

/// A generator that has not generated yet, and what it need not wait for.
type Started = (Generator, Afterwards);

/// What is done while the model answers already.
enum Afterwards {
    /// Weights are kept for the next start.
    Keep(PackedCache, Matrices),
    /// Weights were kept, and are mapped from there.
    Settle(Arc<ModelFile>),
    Nothing,
}

impl Afterwards {
    fn run(self) {
        // Answers go first. A system that refuses this shares equally.
        #[cfg(target_os = "linux")] // Elsewhere it would be the whole process.
        let _ = rustix::process::nice(19);
        match self {
            Self::Keep(cache, matrices) => cache.keep(&matrices),
            Self::Settle(file) => {
                if let Some(Err(error)) = file.packed().map(PackedFile::use_large_pages) {
                    tracing::debug!("weights stay in small pages: {error}");
                }
            }
            Self::Nothing => {}
        }
    }
}

fn start(config: &Config, machine: &Machine, metrics: &Metrics, report: Report) -> anyhow::Result<Started> {
    let devices = Devices::open(&config.engine, machine).map_err(|error| report.refused(&error))?;
    let file = ModelFile::open(&model::locate(&config.model)?)?;
    let embeddings = config.embeddings.as_ref().map(|settings| embeddings::open(settings, devices.host.threads()));
    let (encoder, embedding_model) = embeddings.transpose()?.unzip();
    let resources = (machine, devices.smallest_card(), devices.cards.len());
    let sizes = Sizes::new(&file, encoder.as_ref(), &config.model, &config.engine, resources)?;
    let placements = devices.placements(sizes.card_layers());
    // What is packed for a card is packed in less time than it takes to read.
    let keeps = config.model.packed_cache && sizes.card_layers() == 0;
    let cache = if keeps { PackedCache::of(&file, &config.data, &devices.host)? } else { None };
    let packed = cache.as_ref().and_then(PackedCache::open);
    let file = file.with_packed(packed);
    let context = sizes.options.max_context;
    report.found(machine, &devices, &file, (context, sizes.card_layers()))?;
    if let (Some(encoder), Some(model)) = (&encoder, &embedding_model) {
        report.found_embeddings(encoder, model);
    }
    report.plan(&sizes);
    let file = Arc::new(file);
    let cache_type = config.engine.kv_cache_type;
    let (packed, packed_now) = mpsc::channel();
    // A vocabulary takes as long to read as a part of the weights.
    let loading = thread::spawn({
        let (file, options) = (Arc::clone(&file), sizes.options.clone());
        let mut encoder = encoder;
        let make_runner = move |placement: Placement| {
            let (file, options, packed) = (Arc::clone(&file), options.clone(), packed.clone());
            // The first one has the encoder.
            let encoder = encoder.take();
            move || Ok(runner(&file, &placement, cache_type, &options, &packed)?.with_encoder(encoder))
        };
        let given = sizes.options;
        move || Engine::start_replicas(given, placements.into_iter().map(make_runner).collect())
    });
    let served = model::describe(&file, &config.model, context)?;
    let engine = loading.join().map_err(|_| anyhow!("loading has panicked"))??;
    let afterwards = match cache.zip(packed_now.try_recv().ok()) {
        Some((cache, matrices)) => Afterwards::Keep(cache, matrices),
        None if file.packed().is_some() => Afterwards::Settle(file),
        None => Afterwards::Nothing,
    };
    let metrics = metrics.for_model(&served.id);
    let generator = Generator::new(served, engine, config.generation.clone(), metrics);
    Ok((generator.with_embeddings(embedding_model), afterwards))
}

/// A runner of the loaded model; `packed` hears of matrices that had to be packed.
fn runner(
    file: &ModelFile,
    placement: &Placement,
    cache_type: KvCacheType,
    options: &EngineOptions,
    packed: &mpsc::Sender<Matrices>,
) -> anyhow::Result<ModelRunner> {
    let bar = ProgressBar::new(100);
    let mut progress = |share: f32| bar.set_position((share * 100.0) as u64);
    let (rows, logit_rows) = (options.max_tokens_per_step, options.max_logit_rows());
    let model = Model::load(file, placement.clone(), rows, logit_rows, &mut progress)?;
    bar.finish_and_clear();
    let damage = file.packed().map(PackedFile::damage);
    if let Some(Some(damage)) = damage {
        tracing::warn!("packed weights are made anew: {damage}");
    }
    if damage != Some(None) {
        // Nobody listens when starting has failed.
        let _ = packed.send(model.matrices().to_vec());
    }
    let kv = KvCache::new(model.config(), cache_type, options.num_blocks, placement.clone())?;
    ModelRunner::new(model, kv, placement.last())
}

/// Runs one token through the whole model, on each replica.
async fn warm_up(engine: &EngineHandle) -> anyhow::Result<()> {
    let request = EngineRequest {
        prompt: vec![0],
        sampling: SamplingParams { temperature: 0.0, ..SamplingParams::default() },
        max_tokens: 1,
        min_tokens: 0,
        stop_token_ids: Vec::new(),
        user: 0,
        weight: 1,
        priority: 0,
        scope: CacheScope::default(),
        deadline: None,
        prompt_logprobs: None,
    };
    for mut generation in engine.submit_to_each(&request)? {
        while let Some(event) = generation.next().await {
            if let TokenEvent::Failed(error) = event {
                bail!("the model cannot produce a token: {error}");
            }
        }
    }
    Ok(())
}
