//! A request becomes somebody else's: whoever asked has left, and another wants the same answer. Must not know why.

use super::{Scheduler, Sequence};
use crate::engine::Standing;

impl Scheduler {
    /// From now on the request waits, is served and is charged in another user's turn; what it has been served stays on
    /// the first one's account. Nothing happens where it has ended.
    pub fn take_over(&mut self, request: u64, to: Standing) {
        if let Some(sequence) = self.slots.iter_mut().flatten().find(|sequence| sequence.id == request) {
            self.queue.enter(to.user);
            self.queue.leave(sequence.user);
            sequence.pass(to);
            return;
        }
        let is_it = |sequence: &Sequence| sequence.id == request;
        let mut waiting = self.queue.extract(|sequence| is_it(sequence));
        waiting.extend(self.awaiting.extract_if(.., |sequence| is_it(sequence)));
        for mut sequence in waiting {
            self.queue.enter(to.user);
            self.queue.leave(sequence.user);
            sequence.pass(to);
            // Whether it waits for another's block is asked again.
            sequence.awaits = None;
            self.queue.push(sequence);
        }
    }
}
