//! What a step has brought: tokens for their sequences, computed KV for the prefix cache, its time for the cost model; or
//! that it failed.

use std::time::{Duration, Instant};

use super::{Prefix, Scheduler, cost_model::PromptWork};
use crate::engine::{
    EngineError, FinishReason,
    batch::{LogitRows, SampledToken, SequenceOutput, SequenceStep, StepBatch, StepOutput},
};

impl Scheduler {
    /// Takes a step's tokens; `elapsed` is what it took.
    pub fn commit(&mut self, batch: &StepBatch, output: StepOutput, elapsed: Duration, now: Instant) {
        let is_prompt =
            |step: &&SequenceStep| step.num_tokens - step.logits.num_drafts() > 1 || step.logits == LogitRows::None;
        let prompts = batch.sequences.iter().filter(is_prompt).fold(PromptWork::default(), |sum, step| {
            let work = PromptWork::of(step.first_position, step.num_tokens);
            PromptWork { tokens: sum.tokens + work.tokens, pairs: sum.pairs + work.pairs }
        });
        self.cost.observe(batch.token_ids.len() - prompts.tokens, prompts, elapsed);
        self.stats.steps += 1;
        let StepOutput { sequences, tokens, prompt_logprobs } = output;
        let mut tokens = tokens.into_iter();
        let mut prompt_logprobs = prompt_logprobs.into_iter();
        for (step, outcome) in batch.sequences.iter().zip(sequences) {
            let Some(sequence) = &mut self.slots[step.slot] else { continue };
            match outcome {
                SequenceOutput::NotFinite => {
                    self.cache.forget(&sequence.block_table);
                    sequence.fail(EngineError::NotFinite);
                    self.end(step.slot);
                }
                SequenceOutput::Tokens(count) => {
                    if let LogitRows::All { sample } = step.logits {
                        let end = (step.first_position + step.num_tokens).min(sequence.prompt_len - 1);
                        let rows = prompt_logprobs.by_ref().take(end.saturating_sub(step.first_position));
                        sequence.append_prompt_logprobs(rows, sample);
                    }
                    let reason = self.advance(*step, count, tokens.by_ref().take(count));
                    if let Some(reason) = reason {
                        self.finish(step.slot, reason, now);
                    }
                }
            }
        }
    }

    /// A sequence's step is done: its new tokens are appended, and the KV of those that are its own counts.
    fn advance(
        &mut self,
        step: SequenceStep,
        num_sampled: usize,
        tokens: impl Iterator<Item = SampledToken>,
    ) -> Option<FinishReason> {
        let sequence = self.slots[step.slot].as_mut()?;
        let mut reason = None;
        for token in tokens {
            self.stats.generation_tokens += 1;
            reason = sequence.append(token);
            if reason.is_some() {
                break;
            }
        }
        // Every token that was sampled behind a draft says that the draft was right.
        let (num_drafts, num_accepted) = (step.logits.num_drafts(), num_sampled.saturating_sub(1));
        self.stats.drafted_tokens += num_drafts as u64;
        self.stats.accepted_tokens += num_accepted as u64;
        self.queue.charge(sequence.user, sequence.weight, num_accepted);
        let num_computed = step.num_tokens - num_drafts + num_accepted;
        let high_water = sequence.high_water;
        self.stats.computed_tokens += num_computed as u64;
        self.stats.recomputed_tokens += high_water.saturating_sub(step.first_position).min(num_computed) as u64;
        sequence.num_computed_tokens = (step.first_position + num_computed).min(sequence.token_ids.len());
        sequence.high_water = high_water.max(sequence.num_computed_tokens);
        let prefix = Prefix { tokens: &sequence.token_ids[..sequence.num_computed_tokens], scope: sequence.scope };
        self.cache.complete(&mut sequence.chain, prefix, &sequence.block_table);
        reason
    }

    /// A step has failed: so have its sequences, and whatever it may have written.
    pub fn fail(&mut self, batch: &StepBatch, message: &str) {
        self.stats.failed_steps += 1;
        for step in &batch.sequences {
            if let Some(sequence) = &self.slots[step.slot] {
                sequence.fail(EngineError::Step(message.to_owned()));
                self.end(step.slot);
            }
        }
    }
}
