//! Steps that were scheduled and not committed, and whose rows they have. While there is one, the next step is scheduled
//! ahead: what the first one samples is not known, only how many tokens that is.

use super::{BlockTable, Scheduler, StepBatch};

/// The schedule cannot go on before a step in flight is committed.
#[derive(Debug)]
pub(super) struct Wait;

/// Counts of steps, and the blocks that they alone still need.
#[derive(Debug)]
pub(super) struct InFlight {
    num_steps: usize,
    /// Steps with rows of a slot, by slot.
    by_slot: Vec<usize>,
    /// Blocks of sequences that have left, by slot: rows in flight write to them.
    held: Vec<BlockTable>,
    has_drafts: bool,
}

impl InFlight {
    pub fn new(num_slots: usize) -> Self {
        let held = (0..num_slots).map(|_| BlockTable::default()).collect();
        Self { num_steps: 0, by_slot: vec![0; num_slots], held, has_drafts: false }
    }

    /// Whether everything scheduled has been committed.
    pub fn is_empty(&self) -> bool {
        self.num_steps == 0
    }

    /// Whether it is open how many tokens a step brings.
    pub fn has_drafts(&self) -> bool {
        self.has_drafts
    }

    /// Steps that have rows of a slot.
    pub fn num_steps_of(&self, slot: usize) -> usize {
        self.by_slot[slot]
    }

    /// Blocks that belong to no sequence any more and are not given back.
    pub fn held(&self) -> impl Iterator<Item = &BlockTable> {
        self.held.iter()
    }

    pub fn add(&mut self, batch: &StepBatch) {
        self.num_steps += 1;
        for step in &batch.sequences {
            self.by_slot[step.slot] += 1;
            self.has_drafts |= step.logits.num_drafts() > 0;
        }
    }
}

impl Scheduler {
    /// A step is about to be committed; [`Scheduler::land_row`] follows for each of its sequences.
    pub(super) fn land_step(&mut self) {
        self.in_flight.num_steps -= 1;
        // No step is scheduled behind one with drafts.
        self.in_flight.has_drafts = false;
    }

    /// A sequence's part of a step has come back. Whether the sequence is still there: if not, what was computed for it is
    /// nobody's, and is neither told nor charged, counted or cached.
    pub(super) fn land_row(&mut self, slot: usize) -> bool {
        self.in_flight.by_slot[slot] -= 1;
        if self.slots[slot].is_some() {
            return true;
        }
        self.release_slot(slot);
        false
    }

    /// The sequence of a slot has left: slot and blocks are free for another, now or when the last step with a row of it
    /// is committed.
    pub(super) fn leave_slot(&mut self, slot: usize, blocks: BlockTable) {
        self.in_flight.held[slot] = blocks;
        self.release_slot(slot);
    }

    /// Invariant: a slot is free, and told to the executor as ended, only when no step in flight has a row of it. So a row
    /// that comes back belongs to the sequence in its slot or to nobody, an executor keeps what it has by slot until it
    /// needs it no more, and no block changes hands while a row may write to it.
    ///
    /// Nor does a row in flight change what is cached. It writes at or behind `num_computed_tokens`; a block is registered
    /// when all of its positions are before that; and the blocks of a hit lie before a sequence's first row.
    fn release_slot(&mut self, slot: usize) {
        if self.in_flight.num_steps_of(slot) == 0 {
            self.in_flight.held[slot].clear();
            self.free_slots.push(slot);
            self.ended_slots.push(slot);
        }
    }

    /// Proves that the counts of tokens agree with the steps in flight.
    ///
    /// # Errors
    /// What is wrong.
    pub(super) fn check_in_flight(&self) -> Result<(), String> {
        for (slot, sequence) in self.slots.iter().enumerate() {
            let num_steps = self.in_flight.num_steps_of(slot);
            if num_steps > self.in_flight.num_steps {
                return Err(format!("slot {slot} has {num_steps} steps in flight, of {}", self.in_flight.num_steps));
            }
            let num_held = self.in_flight.held[slot].len();
            if num_held > 0 && (sequence.is_some() || num_steps == 0) {
                return Err(format!("slot {slot} holds {num_held} blocks for no step"));
            }
            let Some(sequence) = sequence else { continue };
            let (computed, scheduled) = (sequence.num_computed_tokens, sequence.num_scheduled_tokens);
            let is_in_order = computed <= scheduled && scheduled <= sequence.num_tokens();
            let is_at_rest = computed == scheduled && sequence.num_pending_tokens == 0;
            if !is_in_order || sequence.num_pending_tokens > num_steps || num_steps == 0 && !is_at_rest {
                return Err(format!(
                    "sequence {} has {computed} tokens computed, {scheduled} scheduled and {} pending in {num_steps} steps",
                    sequence.id, sequence.num_pending_tokens
                ));
            }
        }
        Ok(())
    }
}
