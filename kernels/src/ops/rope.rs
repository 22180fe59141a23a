//! Rotary position embedding (Su et al., 2021) and the store of k and v into the paged cache.

/// Which elements of a head form a rotated pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopeStyle {
    /// Neighbours `(2i, 2i + 1)`: GGUF files of architecture `llama`, whose q and k rows are permuted for it.
    Interleaved,
    /// Halves `(i, i + head_dim / 2)`: safetensors of all architectures here, GGUF of `qwen2` and `qwen3`.
    Neox,
}

/// Angular frequencies of the rotation, one per pair.
#[derive(Debug, Clone)]
pub struct RopeTable {
    /// How pairs are formed.
    pub style: RopeStyle,
    /// Radians per position, `(head_dim / 2)` values, with any scaling (linear, Llama 3.1's) already applied.
    pub inverse_frequencies: Vec<f32>,
    /// A factor on cosine and sine (YaRN's attention factor); 1 otherwise.
    pub magnitude: f32,
}
