//! How much memory a model will take, told before anything is loaded.

use kernels::{CardInfo, CardSteps, KvCacheType, PackedMatrix};

use crate::{
    KvCache, ModelConfig, ModelFile, Result,
    stage::{Stage, widths},
};

/// Bytes that a model needs on one device: weights and workspace once, and the KV cache by the block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeviceBytes {
    /// Weights, packed.
    pub weights: usize,
    /// Activations and logits of one step, and what operations work in.
    pub workspace: usize,
    /// One block of the KV cache over the device's layers.
    pub block: usize,
}

/// Bytes that a model needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryPlan {
    /// In the memory of the processor.
    pub host: DeviceBytes,
    /// On a card.
    pub card: DeviceBytes,
    /// Layers on the card, the last ones.
    pub card_layers: usize,
}

impl DeviceBytes {
    /// KV blocks that fit into `bytes` beside weights and workspace.
    pub fn blocks_within(&self, bytes: usize) -> usize {
        let left = bytes.saturating_sub(self.weights).saturating_sub(self.workspace);
        left.checked_div(self.block).unwrap_or(usize::MAX)
    }

    /// Bytes in all with `num_blocks` KV blocks.
    pub fn total(&self, num_blocks: usize) -> usize {
        self.weights + self.workspace + num_blocks * self.block
    }
}

impl MemoryPlan {
    /// The plan of a model whose steps have at most `max_tokens` rows and `max_logit_rows` rows of logits, over a KV cache
    /// of `cache_type`; with so many layers on a card, as [`Placement::split`](crate::Placement::split) has them.
    ///
    /// # Errors
    /// When the file's configuration cannot be read or it lacks a weight.
    pub fn new(
        file: &ModelFile,
        cache_type: KvCacheType,
        (max_tokens, max_logit_rows): (usize, usize),
        card: Option<(&CardInfo, usize)>,
    ) -> Result<Self> {
        let config = file.config()?;
        let num_layers = config.num_layers;
        let card = card.map(|(card, layers)| (card, layers.min(num_layers))).filter(|(_, layers)| *layers > 0);
        let card_layers = card.map_or(0, |(_, layers)| layers);
        let on_card = |place: Place| place.is_on_card(num_layers, card_layers);
        let mut plan = Self { host: DeviceBytes::default(), card: DeviceBytes::default(), card_layers };
        for (name, rows, columns) in config.matrices() {
            let ggml_type = file.tensor(&name)?.ggml_type;
            let places = places(&config, &name);
            if places.iter().any(|&place| on_card(place)) {
                plan.card.weights += PackedMatrix::card_bytes(ggml_type, rows, columns);
            }
            if places.iter().any(|&place| !on_card(place)) {
                plan.host.weights += PackedMatrix::packed_bytes(ggml_type, rows, columns);
            }
        }
        for (name, len) in config.vectors() {
            let is_on_card = places(&config, &name).into_iter().any(on_card);
            let weights = if is_on_card { &mut plan.card.weights } else { &mut plan.host.weights };
            *weights += len * size_of::<f32>();
        }
        let logits = max_logit_rows * config.vocab_size * size_of::<f32>();
        if card_layers < num_layers {
            plan.host.workspace += Stage::bytes(&config, max_tokens);
        }
        match card {
            Some((card, _)) => {
                let max_columns = widths(&config).into_iter().max().unwrap_or(0);
                let steps = CardSteps { max_logit_rows, max_columns, vocab_size: config.vocab_size };
                plan.card.workspace += Stage::card_bytes(&config, max_tokens) + logits + card.work_bytes(&steps);
            }
            None => plan.host.workspace += logits,
        }
        let block = KvCache::block_bytes(&config, cache_type) / num_layers.max(1);
        plan.card.block = block * card_layers;
        plan.host.block = block * (num_layers - card_layers);
        Ok(plan)
    }
}

/// Where in a model a weight is used.
#[derive(Debug, Clone, Copy)]
enum Place {
    First,
    Layer(usize),
    Last,
}

impl Place {
    fn is_on_card(self, num_layers: usize, card_layers: usize) -> bool {
        match self {
            Self::First => card_layers >= num_layers && card_layers > 0,
            Self::Layer(layer) => layer >= num_layers - card_layers,
            Self::Last => card_layers > 0,
        }
    }
}

/// The places of the weight `name`.
fn places(config: &ModelConfig, name: &str) -> Vec<Place> {
    let layer = name.strip_prefix("blk.").and_then(|rest| rest.split('.').next()?.parse().ok());
    match layer {
        Some(layer) => vec![Place::Layer(layer)],
        None if name == "token_embd.weight" && config.tied_embeddings => vec![Place::First, Place::Last],
        None if name == "token_embd.weight" => vec![Place::First],
        None => vec![Place::Last],
    }
}
