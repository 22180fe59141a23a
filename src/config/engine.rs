//! `[engine]`: how the engine uses the machine.

use std::collections::HashSet;
use std::time::Duration;

use kernels::{Isa, KvCacheType};
use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::check::{Origin, automatic, invalid, within};

/// How the engine uses the machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawEngine {
    pub device: String,
    pub gpu_layers: usize,
    pub threads: usize,
    pub instruction_set: String,
    pub kv_cache_mib: usize,
    pub kv_cache_type: String,
    pub prefix_cache: bool,
    pub speculation: bool,
    pub max_batch_tokens: usize,
    pub max_sequences: usize,
    pub max_queue: usize,
    pub max_stall_ms: u64,
}

impl Default for RawEngine {
    fn default() -> Self {
        Self {
            device: "auto".into(),
            gpu_layers: 0,
            threads: 0,
            instruction_set: "auto".into(),
            kv_cache_mib: 0,
            kv_cache_type: "f16".into(),
            prefix_cache: true,
            speculation: true,
            max_batch_tokens: 0,
            max_sequences: 64,
            max_queue: 256,
            max_stall_ms: 250,
        }
    }
}

/// Where the model is computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceChoice {
    /// On the first card if there is one that can be used, else on the processor.
    Auto,
    /// On the processor.
    Cpu,
    /// On the cards with these indices, at least one and each once; all of it on each where there are several.
    Cuda(Vec<usize>),
    /// The same with every card of the machine.
    CudaAll,
}

impl DeviceChoice {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "auto" => Some(Self::Auto),
            "cpu" => Some(Self::Cpu),
            "cuda" => Some(Self::Cuda(vec![0])),
            "cuda:all" => Some(Self::CudaAll),
            _ => {
                let numbers = text.strip_prefix("cuda:")?.split(',').map(|number| number.trim().parse().ok());
                let cards = numbers.collect::<Option<Vec<usize>>>()?;
                let distinct: HashSet<&usize> = cards.iter().collect();
                (distinct.len() == cards.len()).then_some(Self::Cuda(cards))
            }
        }
    }
}

/// `[engine]`, resolved.
#[derive(Debug, Clone)]
pub struct EngineSettings {
    /// Where the model is computed.
    pub device: DeviceChoice,
    /// Layers on the card, the last ones; `None` takes as many as fit.
    pub gpu_layers: Option<usize>,
    /// Threads that compute; `None` takes the cores available.
    pub threads: Option<usize>,
    /// Instruction set; `None` takes the best of the machine.
    pub isa: Option<Isa>,
    /// Memory of the KV cache, bytes; `None` takes it from what is free.
    pub kv_cache: Option<usize>,
    /// How keys and values are kept.
    pub kv_cache_type: KvCacheType,
    /// Whether finished prompts stay cached.
    pub prefix_cache: bool,
    /// Whether tokens that repeat earlier ones are guessed.
    pub speculation: bool,
    /// Most tokens of one step; `None` suits the device.
    pub max_batch_tokens: Option<usize>,
    /// Most sequences of one step.
    pub max_sequences: usize,
    /// Requests that may wait.
    pub max_queue: usize,
    /// How long a prompt's part of a step may hold up running streams.
    pub max_stall: Duration,
}

impl RawEngine {
    /// Judges the values.
    pub(super) fn resolve(&self, origin: Origin) -> Result<EngineSettings, ConfigError> {
        let isa = match self.instruction_set.as_str() {
            "auto" => None,
            "scalar" => Some(Isa::Scalar),
            "avx2" => Some(Isa::Avx2),
            "avx-vnni" => Some(Isa::AvxVnni),
            "avx512-vnni" => Some(Isa::Avx512Vnni),
            other => {
                let problem = format!("must be auto, scalar, avx2, avx-vnni or avx512-vnni, not `{other}`");
                return Err(invalid("engine.instruction_set", origin, problem));
            }
        };
        if isa.is_some_and(|isa| !isa.is_available()) {
            return Err(invalid("engine.instruction_set", origin, "names one that this machine does not have".into()));
        }
        let kv_cache_type = match self.kv_cache_type.as_str() {
            "f16" => KvCacheType::F16,
            "q8" => KvCacheType::Q8,
            other => {
                let problem = format!("must be f16 or q8, not `{other}`");
                return Err(invalid("engine.kv_cache_type", origin, problem));
            }
        };
        let max_sequences = within("engine.max_sequences", self.max_sequences, 1..=4096, origin)?;
        let max_batch_tokens =
            automatic(within("engine.max_batch_tokens", self.max_batch_tokens, 0..=1 << 16, origin)?);
        if let Some(tokens) = max_batch_tokens.filter(|tokens| *tokens <= max_sequences) {
            let problem = format!("must be more than engine.max_sequences ({max_sequences}), not {tokens}");
            return Err(invalid("engine.max_batch_tokens", origin, problem));
        }
        let device = DeviceChoice::parse(&self.device).ok_or_else(|| {
            let problem = format!(
                "must be auto, cpu, cuda, cuda:all, or cuda: with the numbers of cards, each once, such as cuda:1 or \
                 cuda:0,1, not `{}`",
                self.device
            );
            invalid("engine.device", origin, problem)
        })?;
        Ok(EngineSettings {
            device,
            gpu_layers: automatic(within("engine.gpu_layers", self.gpu_layers, 0..=1 << 16, origin)?),
            threads: automatic(within("engine.threads", self.threads, 0..=1024, origin)?),
            isa,
            kv_cache: automatic(within("engine.kv_cache_mib", self.kv_cache_mib, 0..=1 << 24, origin)? << 20),
            kv_cache_type,
            prefix_cache: self.prefix_cache,
            speculation: self.speculation,
            max_batch_tokens,
            max_sequences,
            max_queue: within("engine.max_queue", self.max_queue, 0..=1 << 20, origin)?,
            max_stall: Duration::from_millis(within("engine.max_stall_ms", self.max_stall_ms, 1..=60_000, origin)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_are_named_by_their_numbers_each_once() {
        let cards = |text| match DeviceChoice::parse(text) {
            Some(DeviceChoice::Cuda(cards)) => cards,
            _ => Vec::new(),
        };
        assert_eq!((cards("cuda"), cards("cuda:0"), cards("cuda:3")), (vec![0], vec![0], vec![3]));
        assert_eq!((cards("cuda:0,1,3"), cards("cuda:2, 0")), (vec![0, 1, 3], vec![2, 0]));
        assert_eq!(DeviceChoice::parse("cuda:all"), Some(DeviceChoice::CudaAll));
        for text in ["cuda:", "cuda:0,", "cuda:1,1", "cuda:0,00", "cuda:-1", "cuda:0-3", "cuda:all,1", "gpu"] {
            assert_eq!(DeviceChoice::parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_error_says_what_can_be_written() {
        let settings = RawEngine { device: "cuda:1,1".into(), ..RawEngine::default() };
        let error = settings.resolve(&|key| format!("{key} of a test")).map_err(|error| error.to_string());
        assert!(error.is_err_and(|text| text.contains("cuda:0,1") && text.contains("`cuda:1,1`")));
    }
}
