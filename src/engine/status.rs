//! What others see of an engine: whether it lives, and its figures. Must not know how either comes about.

use std::{
    iter::Sum,
    ops::Add,
    sync::{Mutex, PoisonError},
};

/// Whether an engine lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineState {
    /// It does.
    Running,
    /// It was told to end, and has.
    Stopped,
    /// A thread of it has panicked, or an executor has failed for good; the message.
    Failed(String),
}

impl EngineState {
    /// The state of an engine whose replicas are in these: one that has failed is enough.
    pub(super) fn of(replicas: &[Self]) -> Self {
        let failed = replicas.iter().enumerate().find_map(|(index, state)| match state {
            Self::Failed(message) if replicas.len() == 1 => Some(message.clone()),
            Self::Failed(message) => Some(format!("replica {} of {}: {message}", index + 1, replicas.len())),
            Self::Running | Self::Stopped => None,
        });
        match failed {
            Some(message) => Self::Failed(message),
            None if replicas.contains(&Self::Running) => Self::Running,
            None => Self::Stopped,
        }
    }
}

/// A snapshot after the last step. Totals count since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EngineStats {
    /// Sequences that run.
    pub running: usize,
    /// Requests that wait.
    pub waiting: usize,
    /// Blocks of the KV pool.
    pub kv_blocks: usize,
    /// Blocks that running sequences own.
    pub kv_blocks_used: usize,
    /// Unowned blocks kept for their contents.
    pub kv_blocks_cached: usize,
    /// Prompt tokens looked for in the prefix cache.
    pub prefix_queries: u64,
    /// Of these, tokens found.
    pub prefix_hits: u64,
    /// Running sequences sent back to the queue.
    pub preemptions: u64,
    /// Steps.
    pub steps: u64,
    /// Steps that failed.
    pub failed_steps: u64,
    /// Tokens computed, less drafts that were wrong.
    pub computed_tokens: u64,
    /// Of these, tokens computed before and given up by a preemption.
    pub recomputed_tokens: u64,
    /// Prompt tokens of requests that have started.
    pub prompt_tokens: u64,
    /// Tokens generated.
    pub generation_tokens: u64,
    /// Tokens drafted.
    pub drafted_tokens: u64,
    /// Of these, tokens that were right.
    pub accepted_tokens: u64,
}

impl EngineStats {
    /// Share of the KV pool that running sequences own, 0 to 1.
    pub fn kv_usage(&self) -> f64 {
        self.kv_blocks_used as f64 / self.kv_blocks.max(1) as f64
    }
}

impl Add for EngineStats {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            running: self.running + other.running,
            waiting: self.waiting + other.waiting,
            kv_blocks: self.kv_blocks + other.kv_blocks,
            kv_blocks_used: self.kv_blocks_used + other.kv_blocks_used,
            kv_blocks_cached: self.kv_blocks_cached + other.kv_blocks_cached,
            prefix_queries: self.prefix_queries + other.prefix_queries,
            prefix_hits: self.prefix_hits + other.prefix_hits,
            preemptions: self.preemptions + other.preemptions,
            steps: self.steps + other.steps,
            failed_steps: self.failed_steps + other.failed_steps,
            computed_tokens: self.computed_tokens + other.computed_tokens,
            recomputed_tokens: self.recomputed_tokens + other.recomputed_tokens,
            prompt_tokens: self.prompt_tokens + other.prompt_tokens,
            generation_tokens: self.generation_tokens + other.generation_tokens,
            drafted_tokens: self.drafted_tokens + other.drafted_tokens,
            accepted_tokens: self.accepted_tokens + other.accepted_tokens,
        }
    }
}

impl Sum for EngineStats {
    fn sum<I: Iterator<Item = Self>>(replicas: I) -> Self {
        replicas.fold(Self::default(), Self::add)
    }
}

/// The figures of one replica after its last step, for whoever asks.
#[derive(Debug, Default)]
pub(super) struct LatestStats(Mutex<EngineStats>);

impl LatestStats {
    /// Publishes a snapshot.
    pub fn publish(&self, stats: EngineStats) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = stats;
    }

    /// The last snapshot.
    pub fn get(&self) -> EngineStats {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
