//! How much memory a model will take, told before anything is loaded.

use kernels::{KvCacheType, PackedMatrix};

use crate::{KvCache, ModelConfig, ModelFile, Result, layers::Workspace};

/// Bytes that a model needs: weights and workspace once, and the KV cache by the block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Weights, packed.
    pub weight_bytes: usize,
    /// Activations and logits of one step.
    pub workspace_bytes: usize,
    /// One block of the KV cache over all layers.
    pub block_bytes: usize,
}

impl MemoryPlan {
    /// The plan of a model whose steps have at most `max_tokens` rows and `max_logit_rows` rows of logits, over a KV cache
    /// of `cache_type`.
    ///
    /// # Errors
    /// When the file's configuration cannot be read or it lacks a weight.
    pub fn new(file: &ModelFile, cache_type: KvCacheType, max_tokens: usize, max_logit_rows: usize) -> Result<Self> {
        let config = file.config()?;
        Ok(Self {
            weight_bytes: weight_bytes(file, &config)?,
            workspace_bytes: Workspace::bytes(&config, max_tokens, max_logit_rows),
            block_bytes: KvCache::block_bytes(&config, cache_type),
        })
    }

    /// KV blocks that fit into `bytes` beside weights and workspace.
    pub fn blocks_within(&self, bytes: usize) -> usize {
        bytes.saturating_sub(self.weight_bytes).saturating_sub(self.workspace_bytes) / self.block_bytes.max(1)
    }

    /// Bytes in all with `num_blocks` KV blocks.
    pub fn total_bytes(&self, num_blocks: usize) -> usize {
        self.weight_bytes + self.workspace_bytes + num_blocks * self.block_bytes
    }
}

/// Bytes of the packed matrices and of the vectors, exactly what [`Model::load`](crate::Model::load) will hold.
fn weight_bytes(file: &ModelFile, config: &ModelConfig) -> Result<usize> {
    let packed = |(name, rows, columns): &(String, usize, usize)| {
        Ok(PackedMatrix::packed_bytes(file.tensor(name)?.ggml_type, *rows, *columns))
    };
    let matrices: usize = config.matrices().iter().map(packed).sum::<Result<_>>()?;
    let vectors: usize = config.vectors().iter().map(|(_, len)| len * size_of::<f32>()).sum();
    Ok(matrices + vectors)
}
