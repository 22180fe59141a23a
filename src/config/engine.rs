//! `[engine]`: how the engine uses the machine.

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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    /// On the first card if there is one that can be used, else on the processor.
    Auto,
    /// On the processor.
    Cpu,
    /// On the card with this index.
    Cuda(usize),
}

impl DeviceChoice {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "auto" => Some(Self::Auto),
            "cpu" => Some(Self::Cpu),
            "cuda" => Some(Self::Cuda(0)),
            _ => text.strip_prefix("cuda:")?.parse().ok().map(Self::Cuda),
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
            let problem = format!("must be auto, cpu, cuda, or cuda: with the number of a card, not `{}`", self.device);
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
