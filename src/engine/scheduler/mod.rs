//! Who runs, with how many tokens, in which blocks: one schedule without phases. Every sequence's computed tokens catch
//! up with its length under one token budget; prompts ride in the same step as running streams. Pure bookkeeping over
//! ids: must not know tensors, threads or what time it is other than by being told.

mod commit;
mod cost_model;
mod decode;
mod fair_queue;
mod growth;
mod in_flight;
mod preempt;
mod prefill;
mod take_over;

use std::time::{Duration, Instant};

use self::{
    cost_model::CostModel,
    fair_queue::{FairQueue, Queued},
    growth::Growth,
    in_flight::{InFlight, Wait},
};
use super::{
    EngineError, EngineOptions, EngineStats, FinishReason,
    batch::{LogitRows, PENDING_TOKEN, SequenceStep, StepBatch},
    block_pool::{Block, BlockTable},
    prefix_cache::{Prefix, PrefixCache},
    sequence::{Sequence, Submission},
};

/// All requests inside the engine, waiting or running.
#[derive(Debug)]
pub(super) struct Scheduler {
    options: EngineOptions,
    cache: PrefixCache,
    queue: FairQueue<Box<Sequence>>,
    /// Waiting for a block that a running sequence computes.
    #[expect(clippy::vec_box, reason = "sequences move between slots, queue and this without being copied")]
    awaiting: Vec<Box<Sequence>>,
    /// Running sequences by slot.
    slots: Vec<Option<Box<Sequence>>>,
    free_slots: Vec<usize>,
    in_flight: InFlight,
    /// Slots to be forgotten by the executor.
    ended_slots: Vec<usize>,
    cost: CostModel,
    growth: Growth,
    pace: Pace,
    stats: EngineStats,
    swept_queue_at: Option<Instant>,
}

/// How often the queue is looked through for requests that nobody waits for any more.
const QUEUE_SWEEP: Duration = Duration::from_millis(20);

/// How quickly requests get through, for telling newcomers their wait.
#[derive(Debug, Default)]
struct Pace {
    /// Mean time from a request's start to its end.
    residence: Option<Duration>,
}

impl Queued for Box<Sequence> {
    fn user(&self) -> u64 {
        self.user
    }

    fn priority(&self) -> i32 {
        self.priority
    }

    fn arrival(&self) -> u64 {
        self.id
    }
}

impl Scheduler {
    pub fn new(options: EngineOptions) -> Self {
        Self {
            cache: PrefixCache::new(options.num_blocks, options.prefix_cache),
            queue: FairQueue::new(),
            awaiting: Vec::new(),
            slots: (0..options.max_sequences).map(|_| None).collect(),
            free_slots: (0..options.max_sequences).rev().collect(),
            in_flight: InFlight::new(options.max_sequences),
            ended_slots: Vec::new(),
            cost: CostModel::new(options.max_stall),
            growth: Growth::new(),
            pace: Pace::default(),
            stats: EngineStats { kv_blocks: options.num_blocks, ..EngineStats::default() },
            swept_queue_at: None,
            options,
        }
    }

    /// Takes a request in.
    pub fn add(&mut self, submission: Submission) {
        // Distinct per request, reproducible per engine.
        let seed = self.options.seed ^ submission.id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.queue.join(Box::new(Sequence::new(submission, seed)));
    }

    /// Whether no request is inside.
    pub fn is_idle(&self) -> bool {
        self.num_running() == 0 && self.queue.len() == 0 && self.awaiting.is_empty()
    }

    /// Running sequences.
    pub fn num_running(&self) -> usize {
        self.slots.iter().flatten().count()
    }

    /// Fills `batch` with the next step, to be committed or failed in its turn. An empty batch is none; it means that every
    /// request has ended, or that a step in flight must be committed before another can be scheduled.
    pub fn schedule(&mut self, now: Instant, batch: &mut StepBatch) {
        batch.clear();
        self.sweep(now);
        let scheduled = self.fill(now, batch);
        debug_assert!(scheduled.is_ok() || batch.sequences.is_empty(), "a step in half");
        // A step without sequences is none: the executor hears of these with the next one.
        if !batch.sequences.is_empty() {
            batch.ended.append(&mut self.ended_slots);
            self.in_flight.add(batch);
        }
    }

    fn fill(&mut self, now: Instant, batch: &mut StepBatch) -> Result<(), Wait> {
        if self.in_flight.has_drafts() {
            return Err(Wait);
        }
        self.growth.step();
        let has_newcomer = self.make_room()?;
        self.schedule_decodes(has_newcomer, batch)?;
        self.schedule_prefills(now, batch);
        Ok(())
    }

    /// Ends everything with an error.
    pub fn fail_all(&mut self, error: &EngineError) {
        for slot in 0..self.slots.len() {
            if let Some(sequence) = &self.slots[slot] {
                sequence.fail(error.clone());
                self.end(slot);
            }
        }
        let mut waiting = self.queue.extract(|_| true);
        waiting.append(&mut self.awaiting);
        for sequence in waiting {
            sequence.fail(error.clone());
            self.queue.leave(sequence.user);
        }
    }

    /// Ends requests that nobody listens to or whose deadline has passed.
    fn sweep(&mut self, now: Instant) {
        for slot in 0..self.slots.len() {
            match &self.slots[slot] {
                Some(sequence) if sequence.is_cancelled() => self.end(slot),
                Some(sequence) if sequence.is_late(now) => self.finish(slot, FinishReason::Deadline, now),
                _ => {}
            }
        }
        // Those who wait own nothing: a moment later will do.
        if self.swept_queue_at.is_some_and(|last| now.saturating_duration_since(last) < QUEUE_SWEEP) {
            return;
        }
        self.swept_queue_at = Some(now);
        let is_over = |sequence: &Sequence| sequence.is_cancelled() || sequence.is_late(now);
        let mut over = self.queue.extract(|sequence| is_over(sequence));
        over.extend(self.awaiting.extract_if(.., |sequence| is_over(sequence)));
        for sequence in over {
            sequence.finish(FinishReason::Deadline);
            self.queue.leave(sequence.user);
        }
    }

    /// Puts the next `num_own` of a sequence's tokens and `num_drafts` behind its last one into the batch, and charges its
    /// user for those not charged before. A pending token is charged when its step is committed: it may turn out to be
    /// behind the end of the answer, and then its row is nobody's.
    fn push_step(&mut self, slot: usize, num_own: usize, num_drafts: usize, batch: &mut StepBatch) {
        let Some(sequence) = &mut self.slots[slot] else { return };
        let first = sequence.num_scheduled_tokens;
        let end = first + num_own;
        let is_pending = end > sequence.token_ids.len();
        debug_assert!(!is_pending || num_own == 1 && num_drafts == 0, "what is pending is one token");
        let sample = end == sequence.num_tokens();
        let logits = match (sequence.wants_prompt_logprobs(), sample) {
            (true, sample) => LogitRows::All { sample },
            (false, true) => LogitRows::Last(1 + num_drafts),
            (false, false) => LogitRows::None,
        };
        let new_blocks = &sequence.block_table.blocks()[sequence.num_sent_blocks..];
        let num_new_blocks = new_blocks.len();
        batch.new_blocks.extend(new_blocks.iter().map(Block::id));
        match sequence.token_ids.get(first..end) {
            Some(known) => batch.token_ids.extend_from_slice(known),
            None => batch.token_ids.push(PENDING_TOKEN),
        }
        batch.token_ids.extend(sequence.drafter.guesses(&sequence.token_ids).take(num_drafts));
        let num_tokens = num_own + num_drafts;
        batch.sequences.push(SequenceStep {
            slot,
            first_position: first,
            num_tokens,
            is_pending,
            num_new_blocks,
            logits,
        });
        sequence.num_sent_blocks += num_new_blocks;
        sequence.num_scheduled_tokens = end;
        sequence.num_pending_tokens += usize::from(sample);
        if !is_pending {
            let (user, weight) = (sequence.user, sequence.weight);
            self.queue.charge(user, weight, end.saturating_sub(sequence.high_water.max(first)));
        }
    }

    /// Ends a running sequence with its last word.
    fn finish(&mut self, slot: usize, reason: FinishReason, now: Instant) {
        let Some(sequence) = &self.slots[slot] else { return };
        sequence.finish(reason);
        self.growth.finished(sequence.num_generated(), sequence.max_tokens);
        if let Some(started) = sequence.output.started_at() {
            self.pace.observe(now.saturating_duration_since(started));
        }
        self.end(slot);
    }

    /// Takes a sequence out of its slot for good.
    fn end(&mut self, slot: usize) {
        if let Some(sequence) = self.vacate(slot) {
            self.queue.leave(sequence.user);
        }
    }

    fn vacate(&mut self, slot: usize) -> Option<Box<Sequence>> {
        let mut sequence = self.slots[slot].take()?;
        self.cache.abandon(&mut sequence.chain, sequence.id);
        self.leave_slot(slot, std::mem::take(&mut sequence.block_table));
        Some(sequence)
    }

    /// A snapshot for whoever watches.
    pub fn stats(&self) -> EngineStats {
        EngineStats {
            running: self.num_running(),
            waiting: self.queue.len() + self.awaiting.len(),
            kv_blocks_used: self.options.num_blocks - self.cache.pool().num_available(),
            kv_blocks_cached: self.cache.pool().num_retained(),
            ..self.stats
        }
    }

    /// Mean time between two starts while others wait.
    pub fn start_interval(&self) -> Duration {
        self.pace.residence.unwrap_or_default() / self.num_running().max(1) as u32
    }

    /// Proves that blocks, slots and cache agree.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check_integrity(&self) -> Result<(), String> {
        let tables = self.slots.iter().flatten().map(|sequence| &sequence.block_table);
        self.cache.check_integrity(tables.chain(self.in_flight.held()))?;
        let is_taken = |slot: &usize| self.slots[*slot].is_some() || self.in_flight.num_steps_of(*slot) > 0;
        let taken = (0..self.slots.len()).filter(is_taken).count();
        if taken + self.free_slots.len() != self.slots.len() {
            return Err(format!("{taken} slots taken and {} free of {}", self.free_slots.len(), self.slots.len()));
        }
        for sequence in self.slots.iter().flatten() {
            if sequence.block_table.len() * kernels::BLOCK_SIZE < sequence.num_scheduled_tokens {
                return Err(format!("sequence {} has more tokens scheduled than blocks", sequence.id));
            }
        }
        self.check_in_flight()?;
        match self.queue.iter().chain(&self.awaiting).find(|sequence| sequence.block_table.len() > 0) {
            Some(sequence) => Err(format!("sequence {} waits and owns blocks", sequence.id)),
            None => Ok(()),
        }
    }
}

impl Pace {
    fn observe(&mut self, residence: Duration) {
        let known = self.residence.unwrap_or(residence);
        self.residence = Some(known.mul_f64(0.8) + residence.mul_f64(0.2));
    }
}

#[cfg(test)]
mod tests;
