//! What a step has brought: tokens for their sequences, computed KV for the prefix cache, its time for the cost model; or
//! that it failed.

use std::time::{Duration, Instant};

use super::{Prefix, Scheduler, cost_model::PromptWork};
use crate::engine::{
    EngineError, FinishReason, TokenLogprob,
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
        self.land_step();
        for (step, outcome) in batch.sequences.iter().zip(sequences) {
            let is_wanted = self.land_row(step.slot);
            match outcome {
                SequenceOutput::NotFinite if is_wanted => self.fail_not_finite(step.slot),
                SequenceOutput::NotFinite => {}
                SequenceOutput::Tokens(count) => {
                    let mut tokens = tokens.by_ref().take(count);
                    let mut logprobs = prompt_logprobs.by_ref().take(step.num_prompt_logprobs());
                    if is_wanted {
                        self.tell_prompt_logprobs(*step, &mut logprobs);
                        if let Some(reason) = self.advance(*step, count, &mut tokens) {
                            self.finish(step.slot, reason, now);
                        }
                    }
                    // What is not told is not the next sequence's.
                    tokens.for_each(drop);
                    logprobs.for_each(drop);
                }
            }
        }
    }

    fn fail_not_finite(&mut self, slot: usize) {
        if let Some(sequence) = &self.slots[slot] {
            self.cache.forget(&sequence.block_table);
            sequence.fail(EngineError::NotFinite);
            self.end(slot);
        }
    }

    fn tell_prompt_logprobs(&mut self, step: SequenceStep, logprobs: impl Iterator<Item = TokenLogprob>) {
        if let (LogitRows::All { sample }, Some(sequence)) = (step.logits, &mut self.slots[step.slot]) {
            sequence.append_prompt_logprobs(logprobs, sample);
        }
    }

    /// A sequence's step is done: its new tokens are appended, up to the last, and the KV of those that are its own counts.
    fn advance(
        &mut self,
        step: SequenceStep,
        num_sampled: usize,
        tokens: impl Iterator<Item = SampledToken>,
    ) -> Option<FinishReason> {
        let sequence = self.slots[step.slot].as_mut()?;
        sequence.num_pending_tokens -= usize::from(step.logits.samples());
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
        let high_water = sequence.high_water;
        // Pending when it was scheduled, certain now: charged like any other, unless it was before a preemption.
        let was_pending = step.is_pending && step.first_position >= high_water;
        self.queue.charge(sequence.user, sequence.weight, num_accepted + usize::from(was_pending));
        let num_computed = step.num_tokens - num_drafts + num_accepted;
        self.stats.computed_tokens += num_computed as u64;
        self.stats.recomputed_tokens += high_water.saturating_sub(step.first_position).min(num_computed) as u64;
        sequence.num_computed_tokens = (step.first_position + num_computed).min(sequence.token_ids.len());
        sequence.num_scheduled_tokens = sequence.num_scheduled_tokens.max(sequence.num_computed_tokens);
        sequence.high_water = high_water.max(sequence.num_computed_tokens);
        let prefix = Prefix { tokens: &sequence.token_ids[..sequence.num_computed_tokens], scope: sequence.scope };
        self.cache.complete(&mut sequence.chain, prefix, &sequence.block_table);
        reason
    }

    /// A step has failed: so have its sequences, and whatever it may have written. What they have in a later step is nobody's.
    pub fn fail(&mut self, batch: &StepBatch, message: &str) {
        self.stats.failed_steps += 1;
        self.land_step();
        for step in &batch.sequences {
            self.land_row(step.slot);
            if let Some(sequence) = &self.slots[step.slot] {
                sequence.fail(EngineError::Step(message.to_owned()));
                self.end(step.slot);
            }
        }
    }
}
