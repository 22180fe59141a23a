//! The sizes and limits that an engine is started with. Resolved elsewhere: nothing here reads a file or a flag.

use std::time::Duration;

use anyhow::ensure;

/// What an engine is started with.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineOptions {
    /// Rows of a step at most, prefill and decode together. More than `max_sequences`.
    pub max_tokens_per_step: usize,
    /// Sequences that run side by side at most.
    pub max_sequences: usize,
    /// Blocks of the KV pool, [`kernels::BLOCK_SIZE`] tokens each.
    pub num_blocks: usize,
    /// Prompt plus answer at most, tokens.
    pub max_context: usize,
    /// Token ids lie below this.
    pub vocab_size: usize,
    /// Requests that wait at most, beyond those that run.
    pub queue_capacity: usize,
    /// How long a running stream may stand still while others' prompts are computed. The number of prompt tokens in a
    /// step follows from it and from the measured cost of steps.
    pub max_stall: Duration,
    /// Share the KV of common prefixes.
    pub prefix_cache: bool,
    /// Guess tokens that repeat earlier ones, and compute several a step; no answer changes by it.
    pub speculation: bool,
    /// Seeds the sampling of requests that bring no seed of their own.
    pub seed: u64,
}

impl EngineOptions {
    /// Rows of logits that one step may ask for: one per sequence, and some for log-probabilities of prompts or drafts.
    /// The model's workspaces are made for so many.
    pub fn max_logit_rows(&self) -> usize {
        self.max_sequences + 32
    }

    /// Tokens of one sequence at most: what context and KV pool both hold.
    pub fn max_sequence_tokens(&self) -> usize {
        self.max_context.min(self.num_blocks * kernels::BLOCK_SIZE)
    }

    /// Checks that the sizes go together.
    ///
    /// # Errors
    /// One sentence on what does not.
    pub fn validate(&self) -> anyhow::Result<()> {
        ensure!(self.max_sequences > 0, "max_sequences is 0: at least one sequence must be able to run");
        ensure!(self.num_blocks > 0, "the KV pool has no blocks: give it more memory");
        ensure!(self.max_context > 1, "the context of {} tokens has no room for an answer", self.max_context);
        ensure!(self.vocab_size > 0, "the vocabulary is empty");
        ensure!(
            self.max_tokens_per_step > self.max_sequences,
            "max_tokens_per_step is {} and max_sequences {}: the first must be larger, or prompts would never be read \
             while all sequences run",
            self.max_tokens_per_step,
            self.max_sequences
        );
        Ok(())
    }
}
