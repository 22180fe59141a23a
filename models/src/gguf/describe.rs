//! Puts a model's configuration and vocabulary into a GGUF header under the keys that every reader of GGUF knows.

use kernels::GgmlType;

use super::writer::{GgufHeader, MetadataValue};
use crate::{Architecture, GgufVocabulary, ModelConfig, RopeScaling, TokenKind, rope};

impl GgufHeader {
    /// Adds `general.architecture` and all hyperparameters but the scalings that [`GgufHeader::rope_factors`] adds.
    pub(crate) fn describe_config(&mut self, config: &ModelConfig) {
        let name = match config.architecture {
            // GGUF knows Mistral as a llama.
            Architecture::Llama | Architecture::Mistral => "llama",
            Architecture::Qwen2 => "qwen2",
            Architecture::Qwen3 => "qwen3",
        };
        self.set("general.architecture", MetadataValue::String(name));
        let sizes = [
            ("block_count", config.num_layers),
            ("context_length", config.max_context),
            ("embedding_length", config.hidden_size),
            ("feed_forward_length", config.intermediate_size),
            ("attention.head_count", config.num_heads),
            ("attention.head_count_kv", config.num_kv_heads),
            ("attention.key_length", config.head_dim),
            ("attention.value_length", config.head_dim),
            ("rope.dimension_count", config.head_dim),
            ("vocab_size", config.vocab_size),
        ];
        for (key, size) in sizes {
            self.set(&format!("{name}.{key}"), MetadataValue::U32(size as u32));
        }
        if let Some(window) = config.sliding_window {
            self.set(&format!("{name}.attention.sliding_window"), MetadataValue::U32(window as u32));
        }
        self.set(&format!("{name}.attention.layer_norm_rms_epsilon"), MetadataValue::F32(config.rms_norm_eps));
        self.set(&format!("{name}.rope.freq_base"), MetadataValue::F32(config.rope_theta));
        if let RopeScaling::Linear { factor } = config.rope_scaling {
            self.set(&format!("{name}.rope.scaling.type"), MetadataValue::String("linear"));
            self.set(&format!("{name}.rope.scaling.factor"), MetadataValue::F32(factor));
        }
    }

    /// Declares `rope_freqs.weight` for a scaling that GGUF has no keys for, and returns its bytes.
    pub(crate) fn rope_factors(&mut self, config: &ModelConfig) -> Option<Vec<u8>> {
        if matches!(config.rope_scaling, RopeScaling::None | RopeScaling::Linear { .. }) {
            return None;
        }
        let divisors = rope::divisors(config);
        self.tensor("rope_freqs.weight", GgmlType::F32, &[divisors.len()]);
        Some(divisors.into_iter().flat_map(f32::to_le_bytes).collect())
    }

    /// Adds the `tokenizer.ggml.*` keys.
    pub(crate) fn describe_vocabulary(&mut self, vocabulary: &GgufVocabulary) {
        let kind = |kind: &TokenKind| match kind {
            TokenKind::Normal => 1,
            TokenKind::Unknown => 2,
            TokenKind::Control => 3,
            TokenKind::UserDefined => 4,
            TokenKind::Unused => 5,
            TokenKind::Byte => 6,
        };
        self.set("tokenizer.ggml.model", MetadataValue::String(&vocabulary.model));
        if !vocabulary.pre.is_empty() {
            self.set("tokenizer.ggml.pre", MetadataValue::String(&vocabulary.pre));
        }
        self.set("tokenizer.ggml.tokens", MetadataValue::Strings(&vocabulary.tokens));
        if !vocabulary.scores.is_empty() {
            self.set("tokenizer.ggml.scores", MetadataValue::F32s(&vocabulary.scores));
        }
        let kinds: Vec<i32> = vocabulary.kinds.iter().map(kind).collect();
        self.set("tokenizer.ggml.token_type", MetadataValue::I32s(&kinds));
        if !vocabulary.merges.is_empty() {
            self.set("tokenizer.ggml.merges", MetadataValue::Strings(&vocabulary.merges));
        }
        let ids = [
            ("bos_token_id", vocabulary.bos_id),
            ("eos_token_id", vocabulary.eos_id),
            ("eot_token_id", vocabulary.eot_id),
            ("unknown_token_id", vocabulary.unknown_id),
            ("padding_token_id", vocabulary.padding_id),
        ];
        for (key, id) in ids {
            if let Some(id) = id {
                self.set(&format!("tokenizer.ggml.{key}"), MetadataValue::U32(id));
            }
        }
        let flags = [
            ("add_bos_token", vocabulary.add_bos),
            ("add_eos_token", vocabulary.add_eos),
            ("add_space_prefix", vocabulary.add_space_prefix),
        ];
        for (key, flag) in flags {
            if let Some(flag) = flag {
                self.set(&format!("tokenizer.ggml.{key}"), MetadataValue::Bool(flag));
            }
        }
    }
}
