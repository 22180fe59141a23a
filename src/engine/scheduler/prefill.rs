//! The part of a step that is prompts: running sequences inside theirs and newcomers from the queue, in one fair order
//! under what the token budget has left.

use std::{cmp::Reverse, time::Instant};

use kernels::BLOCK_SIZE;

use super::{Scheduler, Sequence, StepBatch, cost_model::PromptBudget, fair_queue::Service};
use crate::engine::prefix_cache::Lookup;

/// Rows from which on a row costs no less in a larger step. A prompt that is through with so many need not wait for the
/// next one's tokens: its answer begins earlier, and the other's no later.
const FULL_STEP: usize = 64;

/// Whose turn it is: least first.
type Turn = (Reverse<i32>, Service, u64);

/// Blocks that a newcomer wants.
#[derive(Debug)]
pub(super) struct Demand {
    /// To be taken out of those available at once: new ones, and cached ones that nobody owns.
    pub needed: usize,
    /// Expected to be wanted later.
    pub growth: usize,
    found: Lookup,
}

impl Scheduler {
    /// Fills the rest of the step with prompt tokens.
    pub(super) fn schedule_prefills(&mut self, now: Instant, batch: &mut StepBatch) {
        self.requeue_awaiting();
        let room = self.options.max_tokens_per_step - batch.token_ids.len();
        // Drafts are made where no prompt is there to ride with them.
        let streams = batch.token_ids.len();
        let mut budget = self.cost.prompt_budget(streams);
        budget.limit_tokens(room);
        let mut logit_rows = self.options.max_logit_rows() - streams;
        let is_in_prompt = |sequence: &Sequence| sequence.num_remaining() > 0 && !sequence.is_decoding();
        let in_prompt = |slot: &usize| self.slots[*slot].as_deref().is_some_and(is_in_prompt);
        let mut partial: Vec<usize> = (0..self.slots.len()).filter(in_prompt).collect();
        let mut reserve = None;
        while !budget.is_spent() && logit_rows > 0 {
            let next_partial =
                (0..partial.len()).min_by_key(|&i| self.slots[partial[i]].as_ref().map(|s| self.turn(s)));
            let partial_turn = next_partial.and_then(|i| Some(self.turn(self.slots[partial[i]].as_ref()?)));
            let newcomer_turn = self.next_newcomer();
            let slot = match (next_partial, newcomer_turn) {
                (Some(i), newcomer) if newcomer.is_none_or(|turn| partial_turn <= Some(turn)) => partial.swap_remove(i),
                (_, Some(_)) => match self.admit(now, &mut reserve, batch) {
                    Some(slot) => slot,
                    // The next in turn does not fit: no other newcomer overtakes it, those inside go on.
                    None if partial.is_empty() => break,
                    None => {
                        self.finish_partial(partial, &mut budget, logit_rows, batch);
                        break;
                    }
                },
                _ => break,
            };
            logit_rows -= self.push_prefill(slot, &mut budget, logit_rows, batch);
        }
    }

    /// Gives the budget to running prompts only.
    fn finish_partial(
        &mut self,
        mut partial: Vec<usize>,
        budget: &mut PromptBudget,
        mut logit_rows: usize,
        batch: &mut StepBatch,
    ) {
        partial.sort_by_key(|&slot| self.slots[slot].as_ref().map(|sequence| self.turn(sequence)));
        for slot in partial {
            if budget.is_spent() || logit_rows == 0 {
                break;
            }
            logit_rows -= self.push_prefill(slot, budget, logit_rows, batch);
        }
    }

    /// Puts as much of a prompt into the step as the budget has room for; the number of its logits rows.
    fn push_prefill(
        &mut self,
        slot: usize,
        budget: &mut PromptBudget,
        logit_rows: usize,
        batch: &mut StepBatch,
    ) -> usize {
        let Some(sequence) = &self.slots[slot] else { return 0 };
        let all_rows = sequence.wants_prompt_logprobs();
        let wanted = if all_rows { sequence.num_remaining().min(logit_rows) } else { sequence.num_remaining() };
        let tokens = budget.take(sequence.num_scheduled_tokens, wanted);
        if tokens == 0 {
            return 0;
        }
        let is_whole = tokens == sequence.num_remaining();
        self.push_step(slot, tokens, 0, batch);
        if is_whole && batch.token_ids.len() >= FULL_STEP {
            budget.close();
        }
        if all_rows { tokens } else { 1 }
    }

    fn turn(&self, sequence: &Sequence) -> Turn {
        (Reverse(sequence.priority), self.queue.service(sequence.user), sequence.id)
    }

    /// Back into the queue with those whose awaited block is there, or will not come.
    fn requeue_awaiting(&mut self) {
        let cache = &self.cache;
        let ready = |sequence: &mut Box<Sequence>| !sequence.awaits.is_some_and(|node| cache.is_computing(node));
        for sequence in self.awaiting.extract_if(.., ready) {
            self.queue.push(sequence);
        }
    }

    /// The turn of the next request in the queue that waits for nobody's block; those that do are put aside.
    pub(super) fn next_newcomer(&mut self) -> Option<Turn> {
        loop {
            let sequence = self.queue.peek()?;
            if sequence.is_cancelled() {
                let user = self.queue.pop()?.user;
                self.queue.leave(user);
                continue;
            }
            let found = self.cache.lookup(sequence.prefix(), sequence.max_hit_blocks(), sequence.priority);
            let Some(node) = found.awaits else {
                let (priority, user, id) = (sequence.priority, sequence.user, sequence.id);
                return Some((Reverse(priority), self.queue.service(user), id));
            };
            let mut sequence = self.queue.pop()?;
            sequence.awaits = Some(node);
            self.awaiting.push(sequence);
        }
    }

    /// Gives the next request in the queue a slot and the blocks of its tokens, if there is room.
    fn admit(&mut self, now: Instant, reserve: &mut Option<usize>, batch: &mut StepBatch) -> Option<usize> {
        let &slot = self.free_slots.last()?;
        let demand = self.demand(self.queue.front()?);
        let reserve = reserve.get_or_insert_with(|| self.reserve());
        if !self.fits(&demand, *reserve) {
            return None;
        }
        *reserve += demand.growth;
        self.free_slots.pop();
        let sequence = self.queue.pop()?;
        self.start(slot, sequence, &demand.found, now, batch);
        Some(slot)
    }

    /// What a newcomer's admission asks of the pool.
    pub(super) fn demand(&self, newcomer: &Sequence) -> Demand {
        let pool = self.cache.pool();
        let found = self.cache.lookup(newcomer.prefix(), newcomer.max_hit_blocks(), newcomer.priority);
        let owned = found.hits.iter().filter(|&&id| pool.references(id) > 0).count();
        Demand { needed: newcomer.num_blocks_needed() - owned, growth: self.expected_growth(newcomer), found }
    }

    /// Whether the pool has the room, beside what is reserved for those running. Alone, everyone fits.
    pub(super) fn fits(&self, demand: &Demand, reserve: usize) -> bool {
        let reserved = if self.num_running() == 0 { 0 } else { reserve + demand.growth };
        demand.needed + reserved <= self.cache.pool().num_available()
    }

    /// Blocks that those running are expected to need; newcomers must leave them.
    pub(super) fn reserve(&self) -> usize {
        self.slots.iter().flatten().map(|sequence| self.expected_growth(sequence)).sum()
    }

    fn start(&mut self, slot: usize, mut sequence: Box<Sequence>, found: &Lookup, now: Instant, batch: &mut StepBatch) {
        let hits = found.hits.len() * BLOCK_SIZE;
        sequence.chain = self.cache.take(found, &mut sequence.block_table);
        sequence.num_computed_tokens = hits;
        sequence.num_scheduled_tokens = hits;
        sequence.high_water = sequence.high_water.max(hits);
        sequence.num_sent_blocks = 0;
        sequence.awaits = None;
        while sequence.needs_block() {
            match self.cache.allocate() {
                Some(block) => sequence.block_table.push(block),
                None => break,
            }
        }
        let mut chain = std::mem::take(&mut sequence.chain);
        self.cache.claim(&mut chain, sequence.prefix(), sequence.id, sequence.priority);
        sequence.chain = chain;
        if sequence.output.start(now, hits) {
            self.stats.prompt_tokens += sequence.prompt_len as u64;
            if sequence.max_hit_blocks() > 0 || !sequence.wants_prompt_logprobs() {
                self.stats.prefix_queries += sequence.prompt_len as u64;
                self.stats.prefix_hits += hits as u64;
            }
        }
        batch.started.push(sequence.start(slot));
        self.slots[slot] = Some(sequence);
    }

    /// Blocks that a running sequence is expected to add.
    pub(super) fn expected_growth(&self, sequence: &Sequence) -> usize {
        let tokens = self.growth.expected(sequence.num_generated(), sequence.max_tokens);
        let blocks = (sequence.token_ids.len() + tokens).div_ceil(BLOCK_SIZE);
        // A newcomer takes all it needs at once; one that runs may lack the block of its next token.
        let held = sequence.block_table.len();
        blocks - if held == 0 { sequence.num_blocks_needed() } else { held }
    }
}
