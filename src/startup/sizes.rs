//! How many KV blocks there will be, and the table that says where the memory goes.

use anyhow::{Context as _, ensure};
use kernels::{BLOCK_SIZE, KvCacheType};
use models::{Encoder, MemoryPlan, ModelConfig, ModelFile};

use super::machine::Machine;
use crate::config::{EngineSettings, ModelSettings};
use crate::engine::{ENCODER_TOKENS_PER_STEP, EngineOptions};
use crate::lang::Lang;

/// Share of the free memory that the model may take in all, in percent; the rest is for requests and the system.
const USABLE_PERCENT: usize = 80;
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
    free_memory: Option<usize>,
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
        machine: &Machine,
    ) -> anyhow::Result<Self> {
        let config = file.config()?;
        let mut options = EngineOptions {
            max_tokens_per_step: engine.max_batch_tokens,
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
        let plan = MemoryPlan::new(file, cache_type, options.max_tokens_per_step, options.max_logit_rows())?;
        let encoder = encoder.map_or_else(EncoderBytes::default, EncoderBytes::new);
        let free = machine.free_memory.map(|free| free.saturating_sub(encoder.total()));
        options.num_blocks = num_blocks(&plan, &options, engine.kv_cache, free)?;
        options.max_context = options.max_sequence_tokens();
        Ok(Self { options, plan, cache_type, encoder, free_memory: machine.free_memory })
    }

    /// The memory plan as it is shown at the start; `program` is what the process takes without the model, but with the
    /// encoder's weights, which are loaded by then.
    pub fn table(&self, program: usize, lang: Lang) -> String {
        let blocks = self.options.num_blocks;
        let tokens = blocks * BLOCK_SIZE;
        let cache_type = self.cache_type;
        let of_free = self.free_memory.map(mebibytes);
        let row = |head: &str, name: &str, bytes: usize| format!("  {head:<10} {name:<12} {:>12}", mebibytes(bytes));
        let program = program.saturating_sub(self.encoder.weights);
        let encoder = self.encoder.total();
        let embeddings = (encoder > 0).then(|| row("", lang.pick("embeddings", "эмбеддинги"), encoder));
        let mut rows = vec![
            row(lang.pick("memory", "память"), lang.pick("program", "программа"), program),
            row("", lang.pick("weights", "веса"), self.plan.weight_bytes),
            row("", lang.pick("workspace", "буферы"), self.plan.workspace_bytes),
            row("", lang.pick("KV cache", "KV-кэш"), blocks * self.plan.block_bytes)
                + &lang.pick(
                    format!("  {blocks} blocks of {BLOCK_SIZE} tokens = {tokens} tokens, {cache_type}"),
                    format!("  блоков по {BLOCK_SIZE} токена: {blocks}, токенов: {tokens}, {cache_type}"),
                ),
            row("", lang.pick("in all", "всего"), program + encoder + self.plan.total_bytes(blocks))
                + &of_free.map_or_else(String::new, |free| {
                    lang.pick(format!("  of {free} free"), format!("  из свободных {free}"))
                }),
        ];
        rows.splice(1..1, embeddings);
        rows.join("\n")
    }
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
    free: Option<usize>,
) -> anyhow::Result<usize> {
    let blocks_of = |tokens: usize| tokens.div_ceil(BLOCK_SIZE);
    let whole = options.max_sequences * blocks_of(options.max_context);
    if let Some(bytes) = configured {
        let blocks = bytes / plan.block_bytes.max(1);
        let needed = plan.block_bytes.div_ceil(1 << 20);
        ensure!(blocks > 0, "engine.kv_cache_mib is too small: one block of {BLOCK_SIZE} tokens takes {needed} MiB");
        return Ok(blocks.min(whole));
    }
    let free = free.context("the system does not say how much memory is free; set engine.kv_cache_mib")?;
    let blocks = plan.blocks_within(free / 100 * USABLE_PERCENT);
    ensure!(
        blocks * BLOCK_SIZE >= options.max_context.min(512),
        "the model does not fit: it takes {} and {} are free; free some, or choose a smaller model",
        mebibytes(plan.total_bytes(1)),
        mebibytes(free)
    );
    let ample = (options.max_sequences * blocks_of(TOKENS_PER_SEQUENCE)).max(blocks_of(options.max_context));
    Ok(blocks.min(ample).min(whole))
}

fn mebibytes(bytes: usize) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> MemoryPlan {
        MemoryPlan { weight_bytes: 1000, workspace_bytes: 100, block_bytes: 10 }
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
        assert_eq!(num_blocks(&plan(), &options(), None, Some(1600))?, 18);
        assert_eq!(num_blocks(&plan(), &options(), None, Some(1_000_000))?, 40);
        assert!(num_blocks(&plan(), &options(), None, Some(1400)).is_err());
        assert!(num_blocks(&plan(), &options(), None, None).is_err());
        Ok(())
    }

    #[test]
    fn a_configured_size_is_taken_at_its_word() -> anyhow::Result<()> {
        assert_eq!(num_blocks(&plan(), &options(), Some(25), None)?, 2);
        assert!(num_blocks(&plan(), &options(), Some(9), Some(1 << 30)).is_err());
        Ok(())
    }
}
