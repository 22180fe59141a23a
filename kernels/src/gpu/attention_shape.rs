//! What the work of attention depends on, and what of it kernels are compiled for.

use crate::KvCacheType;

/// Rows (tokens times heads of a group) of a fragment.
pub(super) const FRAGMENT_ROWS: usize = 16;

/// Attention of a model's layers, as far as the work depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionShape {
    /// Heads of q.
    pub num_heads: usize,
    /// Heads of k and v.
    pub num_kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// How keys and values are kept.
    pub cache_type: KvCacheType,
    /// Positions a query sees, its own included. A layer may have another window; its blocks are then less evenly busy.
    pub window: Option<usize>,
}

impl AttentionShape {
    /// Query heads that share a key/value head.
    pub fn group(&self) -> usize {
        self.num_heads / self.num_kv_heads
    }

    /// The head dimension that a kernel is compiled for.
    pub fn padded_dim(&self) -> usize {
        self.head_dim.next_power_of_two().max(64)
    }

    /// Rows of a block of the kernel for many queries.
    pub fn many_rows(&self) -> usize {
        if self.padded_dim() > 128 { 2 * FRAGMENT_ROWS } else { 4 * FRAGMENT_ROWS }
    }

    /// The first position that a query at `position` sees.
    pub(super) fn first_seen(&self, position: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }
}
