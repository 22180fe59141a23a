//! Steps in flight: submitted to the executor and not collected, oldest first. Keeps their order, their batches and their
//! times. Must not know why a step was made or what becomes of its tokens.

use std::{collections::VecDeque, time::Duration, time::Instant};

use super::{
    Executor,
    batch::{StepBatch, StepOutput},
};

/// The steps in flight on one executor.
#[derive(Debug)]
pub(super) struct Pipeline<T> {
    max_steps: usize,
    steps: VecDeque<Step<T>>,
    /// A batch of a step that is over, for its memory.
    spare: Vec<StepBatch>,
    /// When the last step was collected.
    collected_at: Option<Instant>,
}

#[derive(Debug)]
struct Step<T> {
    batch: StepBatch,
    /// The error of a step that could not be submitted: it is told in its turn, after the steps before it.
    ticket: anyhow::Result<T>,
    started: Instant,
}

/// A step that is over.
#[derive(Debug)]
pub(super) struct CollectedStep {
    pub batch: StepBatch,
    pub output: anyhow::Result<StepOutput>,
    /// The time that was its own: from the end of the step before it, or where the device stood still from the beginning
    /// of its scheduling. That is what streams wait for their next token, whether device or host is the slower one.
    pub elapsed: Duration,
    pub collected_at: Instant,
}

impl<T> Pipeline<T> {
    /// Nothing in flight, and at most so many steps ever.
    pub fn new(max_steps: usize) -> Self {
        Self { max_steps: max_steps.max(1), steps: VecDeque::new(), spare: Vec::new(), collected_at: None }
    }

    /// Whether no step is in flight.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Whether another step may be submitted before one is collected. None is behind one that could not be submitted: it
    /// would be for sequences that are about to fail.
    pub fn has_room(&self) -> bool {
        self.steps.len() < self.max_steps && self.steps.back().is_none_or(|step| step.ticket.is_ok())
    }

    /// A batch to fill.
    pub fn spare_batch(&mut self) -> StepBatch {
        self.spare.pop().unwrap_or_default()
    }

    /// Takes back a batch that is not needed any more.
    pub fn recycle(&mut self, batch: StepBatch) {
        self.spare.push(batch);
    }

    /// Submits a step whose scheduling began at `started`.
    pub fn submit(&mut self, executor: &mut impl Executor<Ticket = T>, batch: StepBatch, started: Instant) {
        let ticket = executor.submit(&batch);
        self.steps.push_back(Step { batch, ticket, started });
    }

    /// Waits for the oldest step; `now` tells the time when it is over. `None` if none is in flight.
    pub fn collect(
        &mut self,
        executor: &mut impl Executor<Ticket = T>,
        now: impl FnOnce() -> Instant,
    ) -> Option<CollectedStep> {
        let Step { batch, ticket, started } = self.steps.pop_front()?;
        let output = ticket.and_then(|ticket| executor.collect(ticket));
        let begun = self.collected_at.map_or(started, |before| before.max(started));
        let collected_at = now();
        self.collected_at = Some(collected_at);
        Some(CollectedStep { batch, output, elapsed: collected_at.saturating_duration_since(begun), collected_at })
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// Numbers its steps; cannot submit some and cannot collect others.
    struct Numbering {
        num_steps: usize,
        unfit: Vec<usize>,
        failing: Vec<usize>,
    }

    impl Executor for Numbering {
        type Ticket = usize;

        fn submit(&mut self, _batch: &StepBatch) -> anyhow::Result<usize> {
            self.num_steps += 1;
            anyhow::ensure!(!self.unfit.contains(&self.num_steps), "unfit");
            Ok(self.num_steps)
        }

        fn collect(&mut self, step: usize) -> anyhow::Result<StepOutput> {
            anyhow::ensure!(!self.failing.contains(&step), "failing");
            Ok(StepOutput::default())
        }
    }

    fn batch(slot: usize) -> StepBatch {
        StepBatch { ended: vec![slot], ..StepBatch::default() }
    }

    #[test]
    fn steps_come_back_in_order_and_errors_in_their_turn() {
        let mut executor = Numbering { num_steps: 0, unfit: vec![2], failing: vec![3] };
        let mut pipeline = Pipeline::new(3);
        let now = Instant::now();
        let mut collected = Vec::new();
        // One, and one that cannot be submitted; then three.
        for (slot, has_room) in [(1, true), (2, false), (3, true), (4, true), (5, false)] {
            pipeline.submit(&mut executor, batch(slot), now);
            assert_eq!(pipeline.has_room(), has_room, "behind {slot}");
            while !has_room && !pipeline.is_empty() {
                let step = pipeline.collect(&mut executor, || now).unwrap();
                collected.push((step.batch.ended[0], step.output.map_err(|error| error.to_string()).err()));
            }
        }
        let [unfit, failing] = ["unfit", "failing"].map(|error| Some(error.to_owned()));
        assert_eq!(collected, [(1, None), (2, unfit), (3, failing), (4, None), (5, None)]);
        assert!(pipeline.collect(&mut executor, || now).is_none());
    }

    #[test]
    fn a_step_s_time_begins_where_the_one_before_it_ends() {
        let mut executor = Numbering { num_steps: 0, unfit: Vec::new(), failing: Vec::new() };
        let mut pipeline = Pipeline::new(2);
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        // Submitted and collected at; the last one after a pause.
        for (submitted, collected, elapsed) in [(0, 10, 10), (5, 18, 8), (12, 30, 12), (50, 55, 5)] {
            pipeline.submit(&mut executor, batch(0), at(submitted));
            let step = pipeline.collect(&mut executor, || at(collected)).unwrap();
            assert_eq!((step.elapsed, step.collected_at), (Duration::from_millis(elapsed), at(collected)));
        }
    }
}
