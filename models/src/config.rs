//! The hyperparameters of a model, the same whichever kind of file they came from.

use std::collections::HashSet;

use kernels::RopeStyle;

/// Families of models that run here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// Llama 2, 3, 3.1 and later, and everything of their shape (SmolLM2, Saiga).
    Llama,
    /// Mistral: Llama with an optional sliding window.
    Mistral,
    /// Qwen2 and 2.5: Llama with biases on q, k and v.
    Qwen2,
    /// Qwen3: Llama with norms on the heads of q and k.
    Qwen3,
}

impl Architecture {
    /// How GGUF files of this architecture lay out the rows of q and k; safetensors are [`RopeStyle::Neox`] always.
    pub(crate) fn gguf_rope_style(self) -> RopeStyle {
        match self {
            Self::Llama | Self::Mistral => RopeStyle::Interleaved,
            Self::Qwen2 | Self::Qwen3 => RopeStyle::Neox,
        }
    }
}

/// How the rotary embedding reaches past the context it was trained with.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// As trained.
    None,
    /// Positions divided by a factor.
    Linear {
        /// The divisor.
        factor: f32,
    },
    /// Llama 3.1's: low frequencies divided, high ones kept, a smooth band between.
    Llama3 {
        /// The divisor of low frequencies.
        factor: f32,
        /// `low_freq_factor`.
        low_freq_factor: f32,
        /// `high_freq_factor`.
        high_freq_factor: f32,
        /// `original_max_position_embeddings`.
        original_context: usize,
    },
    /// One divisor per pair, as GGUF's tensor `rope_freqs.weight` gives them: `(head_dim / 2)` values.
    Factors(Vec<f32>),
}

/// Hyperparameters of a decoder-only transformer.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// The family.
    pub architecture: Architecture,
    /// Rows of the embedding and of the output projection.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Transformer blocks.
    pub num_layers: usize,
    /// Query heads.
    pub num_heads: usize,
    /// Key/value heads; divides `num_heads`.
    pub num_kv_heads: usize,
    /// Elements of one head.
    pub head_dim: usize,
    /// Epsilon of the norms.
    pub rms_norm_eps: f32,
    /// Base of the rotary embedding.
    pub rope_theta: f32,
    /// Scaling of the rotary embedding.
    pub rope_scaling: RopeScaling,
    /// How q and k rows are laid out for the rotation.
    pub rope_style: RopeStyle,
    /// Longest context the file states, tokens.
    pub max_context: usize,
    /// Attention sees only the last so many positions.
    pub sliding_window: Option<usize>,
    /// The output projection is the embedding table.
    pub tied_embeddings: bool,
}

impl ModelConfig {
    /// Every weight matrix by GGUF name, with its rows (outputs) and columns (inputs).
    pub fn matrices(&self) -> Vec<(String, usize, usize)> {
        let (hidden, inner) = (self.hidden_size, self.intermediate_size);
        let (q_size, kv_size) = (self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim);
        let mut matrices = vec![("token_embd.weight".to_owned(), self.vocab_size, hidden)];
        if !self.tied_embeddings {
            matrices.push(("output.weight".to_owned(), self.vocab_size, hidden));
        }
        let of_block = [
            ("attn_q", q_size, hidden),
            ("attn_k", kv_size, hidden),
            ("attn_v", kv_size, hidden),
            ("attn_output", hidden, q_size),
            ("ffn_gate", inner, hidden),
            ("ffn_up", inner, hidden),
            ("ffn_down", hidden, inner),
        ];
        for layer in 0..self.num_layers {
            let named = |(name, rows, columns)| (format!("blk.{layer}.{name}.weight"), rows, columns);
            matrices.extend(of_block.map(named));
        }
        matrices
    }

    /// Every norm and bias by GGUF name, with its length.
    pub fn vectors(&self) -> Vec<(String, usize)> {
        let (q_size, kv_size) = (self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim);
        let mut of_block = vec![("attn_norm.weight", self.hidden_size), ("ffn_norm.weight", self.hidden_size)];
        match self.architecture {
            Architecture::Llama | Architecture::Mistral => {}
            Architecture::Qwen2 => {
                of_block.extend([("attn_q.bias", q_size), ("attn_k.bias", kv_size), ("attn_v.bias", kv_size)]);
            }
            Architecture::Qwen3 => {
                of_block.extend([("attn_q_norm.weight", self.head_dim), ("attn_k_norm.weight", self.head_dim)]);
            }
        }
        let mut vectors = vec![("output_norm.weight".to_owned(), self.hidden_size)];
        for layer in 0..self.num_layers {
            vectors.extend(of_block.iter().map(|(name, len)| (format!("blk.{layer}.{name}"), *len)));
        }
        vectors
    }

    /// Every weight by GGUF name, with its shape: matrices, then vectors.
    pub(crate) fn weights(&self) -> impl Iterator<Item = (String, Vec<usize>)> {
        let matrices = self.matrices().into_iter().map(|(name, rows, columns)| (name, vec![rows, columns]));
        matrices.chain(self.vectors().into_iter().map(|(name, len)| (name, vec![len])))
    }

    /// GGUF's names of all weights. A file with others computes something that this model does not.
    pub(crate) fn weight_names(&self) -> HashSet<String> {
        self.weights().map(|(name, _)| name).collect()
    }

    /// Refuses sizes that contradict each other or that no real model has: whatever is computed from a checked
    /// configuration (weights, KV cache of the full context) fits 64 bits.
    pub(crate) fn check(&self) -> Result<(), String> {
        let sizes = [
            ("vocabulary", self.vocab_size, 1 << 24),
            ("hidden size", self.hidden_size, 1 << 20),
            ("feed-forward size", self.intermediate_size, 1 << 22),
            ("number of layers", self.num_layers, 1 << 10),
            ("number of heads", self.num_heads, 1 << 10),
            ("number of key/value heads", self.num_kv_heads, 1 << 10),
            ("head size", self.head_dim, 1 << 10),
            ("context length", self.max_context, 1 << 30),
        ];
        for (name, size, limit) in sizes {
            if !(1..=limit).contains(&size) {
                return Err(format!("the {name} is {size}; 1 to {limit} can be run"));
            }
        }
        if !self.num_heads.is_multiple_of(self.num_kv_heads) {
            let (heads, kv_heads) = (self.num_heads, self.num_kv_heads);
            return Err(format!("{heads} heads cannot share {kv_heads} key/value heads evenly"));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(format!("the head size {} is odd and has no rotary embedding", self.head_dim));
        }
        for (name, value) in [("epsilon of the norms", self.rms_norm_eps), ("rotary base", self.rope_theta)] {
            if !(value.is_finite() && value > 0.0) {
                return Err(format!("the {name} is {value}; a positive number is expected"));
            }
        }
        Ok(())
    }
}
