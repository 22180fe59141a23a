//! Hyperparameters from Hugging Face's `config.json`. What would change the arithmetic and does not run here is refused
//! by the name of its key.

use kernels::RopeStyle;
use serde::Deserialize;
use serde_json::Value;

use super::OneOrMany;
use crate::{Architecture, ModelConfig, RopeScaling};

/// The keys of `config.json` that matter here.
#[derive(Debug, Deserialize)]
pub(crate) struct HfConfig {
    #[serde(default)]
    architectures: Option<Vec<String>>,
    #[serde(default)]
    model_type: Option<String>,
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    rms_norm_eps: f32,
    rope_theta: Option<f32>,
    rope_scaling: Option<Rope>,
    /// Where newer files keep both of the above.
    rope_parameters: Option<Rope>,
    max_position_embeddings: usize,
    sliding_window: Option<usize>,
    use_sliding_window: Option<bool>,
    max_window_layers: Option<usize>,
    layer_types: Option<Vec<String>>,
    tie_word_embeddings: Option<bool>,
    hidden_act: Option<String>,
    #[serde(default)]
    attention_bias: Option<bool>,
    #[serde(default)]
    mlp_bias: Option<bool>,
    pub(super) eos_token_id: Option<OneOrMany>,
}

#[derive(Debug, Deserialize)]
struct Rope {
    #[serde(rename = "rope_type", alias = "type")]
    kind: Option<String>,
    #[serde(rename = "rope_theta")]
    theta: Option<f32>,
    factor: Option<f32>,
    low_freq_factor: Option<f32>,
    high_freq_factor: Option<f32>,
    original_max_position_embeddings: Option<usize>,
}

/// Names the method of a directory whose weights are quantised in a way of their own.
pub(super) fn refuse_quantized(config: &Value) -> Result<(), String> {
    match config.get("quantization_config") {
        None | Some(Value::Null) => Ok(()),
        Some(quantization) => {
            let method = quantization.get("quant_method").and_then(Value::as_str).unwrap_or("an unnamed method");
            Err(quantized_by(&method.to_uppercase()))
        }
    }
}

pub(super) fn quantized_by(method: &str) -> String {
    format!("the weights are quantised by {method}, which does not run here: take the original weights or a GGUF file")
}

impl HfConfig {
    /// The model's hyperparameters; `has_head` says whether there is an output matrix among the weights.
    pub(super) fn model_config(&self, has_head: bool) -> Result<ModelConfig, String> {
        let architecture = self.architecture()?;
        let has_bias = self.attention_bias == Some(true) && architecture != Architecture::Qwen2;
        if has_bias || self.mlp_bias == Some(true) {
            return Err("key attention_bias or mlp_bias: biases run in Qwen2 only, on q, k and v".into());
        }
        if let Some(other) = self.hidden_act.as_deref().filter(|act| *act != "silu") {
            return Err(format!("key hidden_act: {other:?} does not run here; silu does"));
        }
        let rope = self.rope_parameters.as_ref().or(self.rope_scaling.as_ref());
        let config = ModelConfig {
            architecture,
            vocab_size: self.vocab_size,
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_layers: self.num_hidden_layers,
            num_heads: self.num_attention_heads,
            num_kv_heads: self.num_key_value_heads.unwrap_or(self.num_attention_heads),
            head_dim: self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads.max(1)),
            rms_norm_eps: self.rms_norm_eps,
            rope_theta: rope.and_then(|rope| rope.theta).or(self.rope_theta).unwrap_or(10_000.0),
            rope_scaling: rope.map_or(Ok(RopeScaling::None), Rope::scaling)?,
            rope_style: RopeStyle::Neox,
            max_context: self.max_position_embeddings,
            sliding_window: self.window(architecture)?,
            tied_embeddings: self.tie_word_embeddings.unwrap_or(!has_head),
        };
        config.check()?;
        Ok(config)
    }

    fn architecture(&self) -> Result<Architecture, String> {
        let named = self.architectures.iter().flatten().map(String::as_str);
        for name in named.clone().chain(self.model_type.as_deref()) {
            match name {
                "LlamaForCausalLM" | "llama" => return Ok(Architecture::Llama),
                "MistralForCausalLM" | "mistral" => return Ok(Architecture::Mistral),
                "Qwen2ForCausalLM" | "qwen2" => return Ok(Architecture::Qwen2),
                "Qwen3ForCausalLM" | "qwen3" => return Ok(Architecture::Qwen3),
                _ => {}
            }
        }
        let names: Vec<&str> = named.collect();
        Err(format!("key architectures: {names:?} does not run here; Llama, Mistral, Qwen2 and Qwen3 do"))
    }

    /// The window of all layers; models that mix windowed layers with others are refused.
    fn window(&self, architecture: Architecture) -> Result<Option<usize>, String> {
        let window = match architecture {
            Architecture::Llama => None,
            Architecture::Mistral => self.sliding_window,
            Architecture::Qwen2 | Architecture::Qwen3 => {
                self.sliding_window.filter(|_| self.use_sliding_window == Some(true))
            }
        };
        if window.is_none() {
            return Ok(None);
        }
        let full_layers = match (&self.layer_types, self.max_window_layers, architecture) {
            (Some(types), ..) => types.iter().filter(|kind| *kind == "full_attention").count(),
            (None, Some(first), Architecture::Qwen2 | Architecture::Qwen3) => first.min(self.num_hidden_layers),
            _ => 0,
        };
        match full_layers {
            0 => Ok(window),
            all if all >= self.num_hidden_layers => Ok(None),
            _ => Err("key sliding_window: windows on some layers only do not run here".into()),
        }
    }
}

impl Rope {
    fn scaling(&self) -> Result<RopeScaling, String> {
        let positive = |key: &str, value: Option<f32>| {
            let value = value.filter(|v| v.is_finite() && *v > 0.0);
            value.ok_or_else(|| format!("key rope_scaling.{key}: a positive number is expected"))
        };
        match self.kind.as_deref() {
            None | Some("default") => Ok(RopeScaling::None),
            Some("linear") => Ok(RopeScaling::Linear { factor: positive("factor", self.factor)? }),
            Some("llama3") => Ok(RopeScaling::Llama3 {
                factor: positive("factor", self.factor)?,
                low_freq_factor: positive("low_freq_factor", self.low_freq_factor)?,
                high_freq_factor: positive("high_freq_factor", self.high_freq_factor)?,
                original_context: self
                    .original_max_position_embeddings
                    .ok_or("key rope_scaling.original_max_position_embeddings is missing")?,
            }),
            Some(other) => Err(format!("key rope_scaling: {other:?} does not run here; linear and llama3 do")),
        }
    }
}
