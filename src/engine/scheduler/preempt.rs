//! Making room before a step: running sequences give up their blocks, to be computed again later, when streams need the
//! blocks to go on, or when the next in the queue has a better right to be inside.

use std::{cmp::Reverse, collections::HashMap};

use super::{Scheduler, Sequence, Wait, fair_queue};

impl Scheduler {
    /// Preempts until every running stream can take its next token, then for the next in the queue. Whether that one
    /// can start.
    ///
    /// The oldest of the highest priority is never the victim of want: it ends, and so in turn does everyone.
    ///
    /// # Errors
    /// When somebody would have to go while a step is in flight. What that brings may make it needless; and who is sent
    /// away has then been told, charged and cached everything that was computed. The device stands still for it as long as
    /// one step is scheduled, which is little beside a sequence to be computed again.
    pub(super) fn make_room(&mut self) -> Result<bool, Wait> {
        loop {
            let needed =
                self.slots.iter().flatten().filter(|sequence| sequence.is_decoding() && sequence.needs_block());
            if needed.count() <= self.cache.pool().num_available() {
                break;
            }
            let Some(victim) = self.newest_of_lowest(|_| true) else { break };
            self.preempt(victim)?;
            self.growth.overflowed();
        }
        self.make_room_for_newcomer()
    }

    /// The next in the queue may replace sequences of lower priority, and those of a user who runs more for its weight,
    /// even with one less against one more. The newcomer's user must have nothing running, or lag behind by more than
    /// the exchange throws away: so exchanges even users out and do not go on for ever.
    fn make_room_for_newcomer(&mut self) -> Result<bool, Wait> {
        if self.next_newcomer().is_none() {
            return Ok(false);
        }
        while let Some(newcomer) = self.queue.front() {
            let demand = self.demand(newcomer);
            if !self.free_slots.is_empty() && self.fits(&demand, self.reserve()) {
                return Ok(true);
            }
            let running = self.running_by_user();
            let may_replace = |sequence: &Sequence| {
                sequence.priority < newcomer.priority
                    || sequence.priority == newcomer.priority && self.is_owed(newcomer, sequence, &running)
            };
            // Not in vain: what may be replaced must be worth enough.
            let replaceable = || self.slots.iter().flatten().filter(|sequence| may_replace(sequence));
            let worth = replaceable().map(|sequence| self.blocks_of(sequence) + self.expected_growth(sequence));
            let all_go = replaceable().count() == self.num_running();
            let needed = demand.needed + if all_go { 0 } else { demand.growth + self.reserve() };
            if self.cache.pool().num_available() + worth.sum::<usize>() < needed {
                break;
            }
            let Some(victim) = self.newest_of_lowest(may_replace) else { break };
            self.preempt(victim)?;
        }
        Ok(false)
    }

    /// Whether `newcomer` has a better right to a slot than a running `sequence`. Its
    /// user must lag behind in any case: or else the one replaced would be next in the queue and take the slot back.
    fn is_owed(&self, newcomer: &Sequence, sequence: &Sequence, running: &HashMap<u64, usize>) -> bool {
        let running = |user: u64| running.get(&user).copied().unwrap_or(0);
        let (own, others) = (running(newcomer.user), running(sequence.user));
        let (weight, others_weight) = (newcomer.weight as usize, sequence.weight as usize);
        let waste = fair_queue::service(sequence.num_computed_tokens, sequence.weight);
        let lag = self.queue.service(sequence.user).saturating_sub(self.queue.service(newcomer.user));
        sequence.user != newcomer.user
            && others.saturating_sub(1) * weight >= (own + 1) * others_weight
            && lag > if own == 0 { 0 } else { waste }
    }

    /// Blocks that would become available.
    fn blocks_of(&self, sequence: &Sequence) -> usize {
        let pool = self.cache.pool();
        sequence.block_table.blocks().iter().filter(|block| pool.references(block.id()) == 1).count()
    }

    fn running_by_user(&self) -> HashMap<u64, usize> {
        let mut running = HashMap::new();
        for sequence in self.slots.iter().flatten() {
            *running.entry(sequence.user).or_default() += 1;
        }
        running
    }

    fn newest_of_lowest(&self, may: impl Fn(&Sequence) -> bool) -> Option<usize> {
        let running = self.slots.iter().enumerate().filter_map(|(slot, sequence)| Some((slot, sequence.as_deref()?)));
        let candidates = running.filter(|(_, sequence)| may(sequence));
        candidates.min_by_key(|(_, sequence)| (sequence.priority, Reverse(sequence.id))).map(|(slot, _)| slot)
    }

    /// Back into the queue, at the place of its arrival. Its full blocks stay cached while there is room.
    fn preempt(&mut self, slot: usize) -> Result<(), Wait> {
        if !self.in_flight.is_empty() {
            return Err(Wait);
        }
        let Some(mut sequence) = self.vacate(slot) else { return Ok(()) };
        sequence.num_computed_tokens = 0;
        sequence.num_scheduled_tokens = 0;
        sequence.num_sent_blocks = 0;
        sequence.output.restart_prompt();
        self.stats.preemptions += 1;
        self.queue.push(sequence);
        Ok(())
    }
}
