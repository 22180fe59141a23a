//! The part of a step that is running streams: the next token of each, and drafts behind it where they are worth their
//! rows. Must not know where drafts come from.
//!
//! A step that is scheduled ahead has no drafts, for what they would follow is not known. So where drafts are likely to be
//! right, no step is scheduled ahead.

use kernels::BLOCK_SIZE;

use super::{Scheduler, Sequence, StepBatch, Wait};

/// Rows of a step with drafts at most: so few cost little more than reading the weights, further ones cost by the row.
const MAX_ROWS: usize = 8;
/// Chance of a first draft to be right from which on streams wait for their tokens to be known. A guess earns it by being
/// right, computed or not; then a step is saved more often than not, and the device stands still for less than one.
const WORTH_WAITING: f64 = 0.5;
// A stream holds at most one block more than its next token needs, which it is expected to fill in any case.
const _: () = assert!(MAX_ROWS <= BLOCK_SIZE);

impl Scheduler {
    /// One token for every sequence that is not inside its prompt, and drafts where no prompt wants the time.
    /// [`Scheduler::make_room`] has seen to the blocks, and knows whether a newcomer brings a prompt.
    ///
    /// # Errors
    /// When drafts are worth waiting for.
    pub(super) fn schedule_decodes(&mut self, has_newcomer: bool, batch: &mut StepBatch) -> Result<(), Wait> {
        let mut num_streams = 0;
        for sequence in self.slots.iter_mut().flatten().filter(|sequence| sequence.is_decoding()) {
            if sequence.needs_block()
                && let Some(block) = self.cache.allocate()
            {
                sequence.block_table.push(block);
            }
            num_streams += usize::from(is_ready(sequence));
        }
        let mut most = if has_newcomer { 0 } else { self.most_drafts(num_streams) };
        let least_chance = self.cost.share_of_row(num_streams);
        if !self.in_flight.is_empty() {
            if self.expects_drafts(most, least_chance.max(WORTH_WAITING)) {
                return Err(Wait);
            }
            most = 0;
        }
        for slot in 0..self.slots.len() {
            if self.slots[slot].as_deref().is_some_and(is_ready) {
                let num_drafts = self.take_drafts(slot, most, least_chance);
                self.push_step(slot, 1, num_drafts, batch);
            }
        }
        Ok(())
    }

    /// Whether a stream is expected to draft when its pending token is known.
    fn expects_drafts(&mut self, most: usize, least_chance: f64) -> bool {
        let mut streams = self.slots.iter_mut().flatten().filter(|sequence| is_ready(sequence));
        most > 0
            && streams.any(|sequence| {
                sequence.drafter.follow(&sequence.token_ids);
                let most = most.min(sequence.max_tokens - sequence.num_sampled() - 1);
                sequence.drafter.depth(least_chance, most) > 0
            })
    }

    /// Tokens that each stream may draft. None where there are prompts, or streams alone fill the step.
    fn most_drafts(&self, num_streams: usize) -> usize {
        let has_prompts = num_streams < self.num_running() || !self.awaiting.is_empty();
        if !self.options.speculation || has_prompts {
            return 0;
        }
        let rows = MAX_ROWS.min(self.options.max_tokens_per_step).min(self.options.max_logit_rows());
        (rows / num_streams.max(1)).saturating_sub(1)
    }

    /// How many tokens a stream drafts in this step, each worth its row at `least_chance`; its table has room for them.
    fn take_drafts(&mut self, slot: usize, most: usize, least_chance: f64) -> usize {
        let Some(sequence) = self.slots[slot].as_mut().filter(|_| most > 0) else { return 0 };
        sequence.drafter.follow(&sequence.token_ids);
        // The last row gives a token of its own.
        let most = most.min(sequence.max_tokens - sequence.num_generated() - 1);
        let depth = sequence.drafter.depth(least_chance, most);
        let goes_on = |id: &u32| !sequence.spec.stop_token_ids.contains(id);
        let wanted = sequence.drafter.guesses(&sequence.token_ids).take(depth).take_while(goes_on).count();
        let room = |sequence: &Sequence| sequence.block_table.len() * BLOCK_SIZE - sequence.token_ids.len();
        while room(sequence) < wanted
            && let Some(block) = self.cache.allocate()
        {
            sequence.block_table.push(block);
        }
        wanted.min(room(sequence))
    }
}

/// Whether the next token can be computed.
fn is_ready(sequence: &Sequence) -> bool {
    sequence.is_decoding() && !sequence.needs_block()
}
