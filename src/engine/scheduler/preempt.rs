//! Making room before a step: running sequences give up their blocks, to be computed again later, when streams need the
//! blocks to go on, or when the next in the queue has a better right to be inside.

use std::cmp::Reverse;

use super::{Scheduler, Sequence};

impl Scheduler {
    /// Preempts until every running stream can take its next token, then for the next in the queue.
    ///
    /// The oldest of the highest priority is never the victim of want: it ends, and so in turn does everyone.
    pub(super) fn make_room(&mut self) {
        loop {
            let needed =
                self.slots.iter().flatten().filter(|sequence| sequence.is_decoding() && sequence.needs_block());
            if needed.count() <= self.cache.pool().num_available() {
                break;
            }
            let Some(victim) = self.newest_of_lowest(|_| true) else { break };
            self.preempt(victim);
            self.growth.overflowed();
        }
        self.make_room_for_newcomer();
    }

    /// The next in the queue may replace sequences of lower priority, and those of a better served user who runs at
    /// least two more than its own: each such exchange evens the users out, so that it cannot go on for ever.
    fn make_room_for_newcomer(&mut self) {
        if self.next_newcomer().is_none() {
            return;
        }
        while let Some(newcomer) = self.queue.front() {
            let found = self.cache.lookup(newcomer.prefix(), newcomer.max_hit_blocks(), newcomer.priority);
            let needed = self.blocks_to_take(newcomer, &found);
            let available = self.cache.pool().num_available();
            if !self.free_slots.is_empty() && needed <= available {
                break;
            }
            let (user, priority) = (newcomer.user, newcomer.priority);
            let (own, service) = (self.num_running_of(user), self.queue.service(user));
            let may_replace = |sequence: &Sequence| {
                sequence.priority < priority
                    || sequence.priority == priority
                        && sequence.user != user
                        && self.queue.service(sequence.user) >= service
                        && self.num_running_of(sequence.user) >= own + 2
            };
            // Not in vain: what may be replaced must be worth enough.
            let worth = self.slots.iter().flatten().filter(|sequence| may_replace(sequence)).map(|s| self.blocks_of(s));
            if available + worth.sum::<usize>() < needed {
                break;
            }
            let Some(victim) = self.newest_of_lowest(may_replace) else { break };
            self.preempt(victim);
        }
    }

    /// Blocks that would become available.
    fn blocks_of(&self, sequence: &Sequence) -> usize {
        let pool = self.cache.pool();
        sequence.block_table.blocks().iter().filter(|block| pool.references(block.id()) == 1).count()
    }

    fn num_running_of(&self, user: u64) -> usize {
        self.slots.iter().flatten().filter(|sequence| sequence.user == user).count()
    }

    fn newest_of_lowest(&self, may: impl Fn(&Sequence) -> bool) -> Option<usize> {
        let running = self.slots.iter().enumerate().filter_map(|(slot, sequence)| Some((slot, sequence.as_deref()?)));
        let candidates = running.filter(|(_, sequence)| may(sequence));
        candidates.min_by_key(|(_, sequence)| (sequence.priority, Reverse(sequence.id))).map(|(slot, _)| slot)
    }

    /// Back into the queue, at the place of its arrival. Its full blocks stay cached while there is room.
    fn preempt(&mut self, slot: usize) {
        let Some(mut sequence) = self.vacate(slot) else { return };
        sequence.block_table.clear();
        sequence.num_computed_tokens = 0;
        sequence.num_sent_blocks = 0;
        sequence.output.restart_prompt();
        self.stats.preemptions += 1;
        self.queue.push(sequence);
    }
}
