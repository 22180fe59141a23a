//! How many KV blocks there will be, and what everything takes.

use anyhow::{Context as _, ensure};
use kernels::{BLOCK_SIZE, CardInfo, KvCacheType};
use models::{Encoder, MemoryPlan, ModelConfig, ModelFile};

use super::machine::Machine;
use super::memory_table::mebibytes;
use crate::config::{EngineSettings, ModelSettings};
use crate::engine::{ENCODER_TOKENS_PER_STEP, EngineOptions};

/// Share of the free memory that the model may take in all, in percent; the rest is for requests and the system.
const USABLE_PERCENT: usize = 80;
/// The same of a card, which nobody else is expected to use.
const USABLE_CARD_PERCENT: usize = 94;
/// A card that has no room for contexts of so many tokens, or one whole context, takes fewer layers.
const LEAST_CARD_TOKENS: usize = 4096;
/// Rows of a step unless configured: on a card more of them cost less each.
const HOST_STEP_TOKENS: usize = 512;
const CARD_STEP_TOKENS: usize = 4096;
/// Unless configured, the KV cache holds no more than so many tokens for each sequence, or one whole context.
const TOKENS_PER_SEQUENCE: usize = 2048;

/// The sizes that an engine starts with, and what they cost.
#[derive(Debug)]
pub struct Sizes {
    /// For the engine.
    pub options: EngineOptions,
    pub(super) plan: MemoryPlan,
    pub(super) cache_type: KvCacheType,
    pub(super) encoder: EncoderBytes,
    pub(super) free: Free,
    pub(super) num_cards: usize,
}

/// Bytes that are free.
#[derive(Debug, Clone, Copy)]
pub(super) struct Free {
    pub host: Option<usize>,
    pub card: Option<usize>,
}

/// What the embedding model takes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct EncoderBytes {
    pub weights: usize,
    workspace: usize,
}

impl EncoderBytes {
    fn new(encoder: &Encoder) -> Self {
        let workspace = encoder.workspace_bytes(ENCODER_TOKENS_PER_STEP);
        Self { weights: encoder.weight_bytes(), workspace }
    }

    pub fn total(self) -> usize {
        self.weights + self.workspace
    }
}

impl Sizes {
    /// Fits the KV cache into the memory that is configured or free, beside the encoder. With several cards the given one is
    /// the smallest, and each has all layers.
    ///
    /// # Errors
    /// When the model does not fit, on each card where there are several, or its file cannot be read.
    pub fn new(
        file: &ModelFile,
        encoder: Option<&Encoder>,
        model: &ModelSettings,
        engine: &EngineSettings,
        (machine, card, num_cards): (&Machine, Option<&CardInfo>, usize),
    ) -> anyhow::Result<Self> {
        let config = file.config()?;
        let mut options = EngineOptions {
            max_tokens_per_step: step_tokens(engine, card.is_some()),
            max_sequences: engine.max_sequences,
            num_blocks: 0,
            max_context: context(model, &config)?,
            vocab_size: config.vocab_size,
            queue_capacity: engine.max_queue,
            max_stall: engine.max_stall,
            prefix_cache: engine.prefix_cache,
            speculation: engine.speculation,
            seed: rand::random(),
        };
        let cache_type = engine.kv_cache_type;
        let encoder = encoder.map_or_else(EncoderBytes::default, EncoderBytes::new);
        let free = Free { host: machine.free_memory, card: card.map(|card| card.free_memory) };
        let left = Free { host: free.host.map(|free| free.saturating_sub(encoder.total())), ..free };
        let rows = |options: &EngineOptions| (options.max_tokens_per_step, options.max_logit_rows());
        let plan = |layers, options: &EngineOptions| {
            MemoryPlan::new(file, cache_type, rows(options), card.map(|card| (card, layers)))
        };
        let mut chosen = plan(engine.gpu_layers.unwrap_or(config.num_layers), &options)?;
        if num_cards > 1 {
            check_replicas(&chosen, (engine, &options), left, (config.num_layers, num_cards))?;
        }
        while engine.gpu_layers.is_none() && chosen.card_layers > 0 && !fits_card(&chosen, &options, left) {
            chosen = plan(chosen.card_layers - 1, &options)?;
        }
        if chosen.card_layers == 0 {
            options.max_tokens_per_step = step_tokens(engine, false);
            chosen = plan(0, &options)?;
        }
        options.num_blocks = num_blocks(&chosen, &options, engine.kv_cache, left)?;
        options.max_context = options.max_sequence_tokens();
        Ok(Self { options, plan: chosen, cache_type, encoder, free, num_cards })
    }

    /// Layers on the card, the last ones.
    pub fn card_layers(&self) -> usize {
        self.plan.card_layers
    }
}

/// Rows of a step.
fn step_tokens(engine: &EngineSettings, on_card: bool) -> usize {
    let usual = if on_card { CARD_STEP_TOKENS } else { HOST_STEP_TOKENS };
    engine.max_batch_tokens.unwrap_or_else(|| usual.max(engine.max_sequences + usual / 2))
}

/// Several cards share no layers on the processor: each takes all of them and, unless configured, contexts that are of use.
fn check_replicas(
    plan: &MemoryPlan,
    (engine, options): (&EngineSettings, &EngineOptions),
    free: Free,
    (num_layers, num_cards): (usize, usize),
) -> anyhow::Result<()> {
    let layers = plan.card_layers;
    ensure!(
        layers == num_layers,
        "engine.gpu_layers is {layers}, but with {num_cards} cards each has all {num_layers} layers of the model; leave it \
         at 0, or name one card in engine.device"
    );
    let least_blocks = options.max_context.min(LEAST_CARD_TOKENS).div_ceil(BLOCK_SIZE);
    ensure!(
        engine.gpu_layers.is_some() || fits_card(plan, options, free),
        "the model does not fit on each of {num_cards} cards: it takes {}, and {} are free on the smallest, of which \
         {USABLE_CARD_PERCENT} % may be used; free some, leave that card out or name one card in engine.device, or choose \
         a smaller model",
        mebibytes(plan.card.total(least_blocks)),
        free.card.map_or_else(|| "none".to_owned(), mebibytes)
    );
    Ok(())
}

/// Whether a card takes its layers and contexts that are of use.
fn fits_card(plan: &MemoryPlan, options: &EngineOptions, free: Free) -> bool {
    let blocks = plan.card.blocks_within(free.card.map_or(0, |free| usable(free, USABLE_CARD_PERCENT)));
    blocks * BLOCK_SIZE >= options.max_context.min(LEAST_CARD_TOKENS)
}

fn usable(free: usize, percent: usize) -> usize {
    free / 100 * percent
}

fn context(model: &ModelSettings, config: &ModelConfig) -> anyhow::Result<usize> {
    let asked = model.context.unwrap_or(config.max_context);
    ensure!(
        asked <= config.max_context,
        "model.context is {asked}, but the model was made for {} tokens; set a smaller one",
        config.max_context
    );
    Ok(asked)
}

fn num_blocks(
    plan: &MemoryPlan,
    options: &EngineOptions,
    configured: Option<usize>,
    free: Free,
) -> anyhow::Result<usize> {
    let blocks_of = |tokens: usize| tokens.div_ceil(BLOCK_SIZE);
    let whole = options.max_sequences * blocks_of(options.max_context);
    if let Some(bytes) = configured {
        let block_bytes = (plan.host.block + plan.card.block).max(1);
        let (blocks, needed) = (bytes / block_bytes, block_bytes.div_ceil(1 << 20));
        ensure!(blocks > 0, "engine.kv_cache_mib is too small: one block of {BLOCK_SIZE} tokens takes {needed} MiB");
        return Ok(blocks.min(whole));
    }
    let mut blocks = whole;
    let mut devices = vec![("the model", &plan.host, free.host, USABLE_PERCENT)];
    if plan.card_layers > 0 {
        devices.insert(0, ("the part for the card", &plan.card, free.card, USABLE_CARD_PERCENT));
    }
    for (what, bytes, free, percent) in devices {
        let free = free.context("the system does not say how much memory is free; set engine.kv_cache_mib")?;
        let room = bytes.blocks_within(usable(free, percent));
        let least = if bytes.total(1) == 0 { 0 } else { options.max_context.min(512) };
        ensure!(
            room.saturating_mul(BLOCK_SIZE) >= least,
            "{what} does not fit: it takes {} and {} are free; free some, or choose a smaller model",
            mebibytes(bytes.total(1)),
            mebibytes(free)
        );
        blocks = blocks.min(room);
    }
    // A card's memory is for nothing else.
    let ample = (options.max_sequences * blocks_of(TOKENS_PER_SEQUENCE)).max(blocks_of(options.max_context));
    Ok(if plan.host.block > 0 { blocks.min(ample) } else { blocks })
}

#[cfg(test)]
mod tests {
    use models::DeviceBytes;

    use super::*;

    fn plan() -> MemoryPlan {
        let host = DeviceBytes { weights: 1000, workspace: 100, block: 10 };
        MemoryPlan { host, card: DeviceBytes::default(), card_layers: 0 }
    }

    fn free(host: usize) -> Free {
        Free { host: Some(host), card: None }
    }

    fn options() -> EngineOptions {
        EngineOptions {
            max_tokens_per_step: 64,
            max_sequences: 4,
            num_blocks: 0,
            max_context: 320,
            vocab_size: 10,
            queue_capacity: 1,
            max_stall: std::time::Duration::from_millis(1),
            prefix_cache: true,
            speculation: true,
            seed: 0,
        }
    }

    #[test]
    fn blocks_come_from_what_is_free_up_to_what_is_useful() -> anyhow::Result<()> {
        assert_eq!(num_blocks(&plan(), &options(), None, free(1600))?, 18);
        assert_eq!(num_blocks(&plan(), &options(), None, free(1_000_000))?, 40);
        assert!(num_blocks(&plan(), &options(), None, free(1400)).is_err());
        assert!(num_blocks(&plan(), &options(), None, Free { host: None, card: None }).is_err());
        Ok(())
    }

    #[test]
    fn each_of_several_cards_has_the_whole_model() -> anyhow::Result<()> {
        let card = DeviceBytes { weights: 4000 << 20, workspace: 100 << 20, block: 1 << 20 };
        let whole = MemoryPlan { host: DeviceBytes::default(), card, card_layers: 8 };
        let settings = |gpu_layers| -> anyhow::Result<EngineSettings> {
            let config = crate::config::load(&crate::config::Sources::default())?.config;
            Ok(EngineSettings { gpu_layers, ..config.engine })
        };
        let free = |card: usize| Free { host: Some(0), card: Some(card << 20) };
        let check = |plan: &MemoryPlan, settings: &EngineSettings, free| {
            check_replicas(plan, (settings, &options()), free, (8, 2)).map_err(|error| error.to_string())
        };
        assert_eq!(check(&whole, &settings(None)?, free(5000)), Ok(()));
        assert_eq!(check(&whole, &settings(Some(8))?, free(4000)), Ok(()));
        let small = check(&whole, &settings(None)?, free(4300));
        assert!(
            small.is_err_and(|error| error.contains("each of 2 cards") && error.contains("4110.0 MiB, and 4300.0 MiB"))
        );
        let part = check(&MemoryPlan { card_layers: 3, ..whole }, &settings(Some(3))?, free(9000));
        assert!(part.is_err_and(|error| error.contains("engine.gpu_layers is 3") && error.contains("all 8 layers")));
        Ok(())
    }

    #[test]
    fn a_configured_size_is_taken_at_its_word() -> anyhow::Result<()> {
        assert_eq!(num_blocks(&plan(), &options(), Some(25), free(0))?, 2);
        assert!(num_blocks(&plan(), &options(), Some(9), free(1 << 30)).is_err());
        Ok(())
    }
}
