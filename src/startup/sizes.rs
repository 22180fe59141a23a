//! How many KV blocks there will be, and the table that says where the memory goes.

use anyhow::{Context as _, ensure};
use kernels::{BLOCK_SIZE, CardInfo, KvCacheType};
use models::{DeviceBytes, Encoder, MemoryPlan, ModelConfig, ModelFile};

use super::machine::Machine;
use crate::config::{EngineSettings, ModelSettings};
use crate::engine::{ENCODER_TOKENS_PER_STEP, EngineOptions};
use crate::lang::Lang;

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
    plan: MemoryPlan,
    cache_type: KvCacheType,
    encoder: EncoderBytes,
    free: Free,
}

/// Bytes that are free.
#[derive(Debug, Clone, Copy)]
struct Free {
    host: Option<usize>,
    card: Option<usize>,
}

/// What the embedding model takes.
#[derive(Debug, Clone, Copy, Default)]
struct EncoderBytes {
    weights: usize,
    workspace: usize,
}

impl EncoderBytes {
    fn new(encoder: &Encoder) -> Self {
        let workspace = encoder.workspace_bytes(ENCODER_TOKENS_PER_STEP);
        Self { weights: encoder.weight_bytes(), workspace }
    }

    fn total(self) -> usize {
        self.weights + self.workspace
    }
}

impl Sizes {
    /// Fits the KV cache into the memory that is configured or free, beside the encoder.
    ///
    /// # Errors
    /// When the model does not fit, or its file cannot be read.
    pub fn new(
        file: &ModelFile,
        encoder: Option<&Encoder>,
        model: &ModelSettings,
        engine: &EngineSettings,
        (machine, card): (&Machine, Option<&CardInfo>),
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
        while engine.gpu_layers.is_none() && chosen.card_layers > 0 && !fits_card(&chosen, &options, left) {
            chosen = plan(chosen.card_layers - 1, &options)?;
        }
        if chosen.card_layers == 0 {
            options.max_tokens_per_step = step_tokens(engine, false);
            chosen = plan(0, &options)?;
        }
        options.num_blocks = num_blocks(&chosen, &options, engine.kv_cache, left)?;
        options.max_context = options.max_sequence_tokens();
        Ok(Self { options, plan: chosen, cache_type, encoder, free })
    }

    /// Layers on the card, the last ones.
    pub fn card_layers(&self) -> usize {
        self.plan.card_layers
    }

    /// The memory plan as it is shown at the start; `program` is what the process takes without the model, but with the
    /// encoder's weights, which are loaded by then.
    pub fn table(&self, program: usize, lang: Lang) -> String {
        let Self { plan, encoder, free, .. } = self;
        let program = program.saturating_sub(encoder.weights);
        let mut rows = Vec::new();
        if plan.card_layers > 0 {
            rows.extend(self.device_rows(lang.pick("GPU memory", "память GPU"), &plan.card, [0, 0], free.card, lang));
        }
        let head = lang.pick("memory", "память");
        rows.extend(self.device_rows(head, &plan.host, [program, encoder.total()], free.host, lang));
        rows.join("\n")
    }

    /// The rows of one device: `others` are what the program and the encoder take there.
    fn device_rows(
        &self,
        head: &str,
        bytes: &DeviceBytes,
        [program, encoder]: [usize; 2],
        free: Option<usize>,
        lang: Lang,
    ) -> Vec<String> {
        let blocks = self.options.num_blocks;
        let (tokens, cache_type) = (blocks * BLOCK_SIZE, self.cache_type);
        let parts = [
            (lang.pick("program", "программа"), program),
            (lang.pick("embeddings", "эмбеддинги"), encoder),
            (lang.pick("weights", "веса"), bytes.weights),
            (lang.pick("workspace", "буферы"), bytes.workspace),
            (lang.pick("KV cache", "KV-кэш"), blocks * bytes.block),
        ];
        let total = parts.iter().map(|(_, bytes)| bytes).sum();
        let of_free =
            free.map(mebibytes).map(|free| lang.pick(format!("  of {free} free"), format!("  из свободных {free}")));
        let of_blocks = (bytes.block > 0).then(|| {
            lang.pick(
                format!("  {blocks} blocks of {BLOCK_SIZE} tokens = {tokens} tokens, {cache_type}"),
                format!("  блоков по {BLOCK_SIZE} токена: {blocks}, токенов: {tokens}, {cache_type}"),
            )
        });
        let mut rows = Vec::new();
        let mut row = |name: &str, bytes: usize, remark: Option<String>| {
            let head = if rows.is_empty() { head } else { "" };
            rows.push(format!("  {head:<10} {name:<12} {:>12}{}", mebibytes(bytes), remark.unwrap_or_default()));
        };
        for (index, (name, bytes)) in parts.into_iter().enumerate() {
            if bytes > 0 {
                row(name, bytes, of_blocks.clone().filter(|_| index == parts.len() - 1));
            }
        }
        row(lang.pick("in all", "всего"), total, of_free);
        rows
    }
}

/// Rows of a step.
fn step_tokens(engine: &EngineSettings, on_card: bool) -> usize {
    let usual = if on_card { CARD_STEP_TOKENS } else { HOST_STEP_TOKENS };
    engine.max_batch_tokens.unwrap_or_else(|| usual.max(engine.max_sequences + usual / 2))
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

fn mebibytes(bytes: usize) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
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
    fn a_configured_size_is_taken_at_its_word() -> anyhow::Result<()> {
        assert_eq!(num_blocks(&plan(), &options(), Some(25), free(0))?, 2);
        assert!(num_blocks(&plan(), &options(), Some(9), free(1 << 30)).is_err());
        Ok(())
    }
}
