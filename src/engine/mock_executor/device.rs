//! How long a mock's steps take, and when they begin and end on a device that works by itself. Knows no clock: whoever
//! asks says what time it is, real or simulated.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use crate::engine::batch::{SequenceStep, StepBatch};

/// The time that a step takes.
#[derive(Debug, Clone, Copy, Default)]
pub struct StepCost {
    /// Of any step.
    pub step: Duration,
    /// Of each row.
    pub token: Duration,
    /// Of each row, per 1,000 tokens before it.
    pub attention: Duration,
}

impl StepCost {
    /// The time of this step.
    pub fn of(&self, batch: &StepBatch) -> Duration {
        let pairs = |step: &SequenceStep| step.num_tokens * (step.first_position + step.num_tokens / 2);
        let pairs = batch.sequences.iter().map(pairs).sum::<usize>();
        self.step + self.token * batch.token_ids.len() as u32 + self.attention.mul_f64(pairs as f64 / 1000.0)
    }
}

/// Runs steps one after the other, whatever its host does meanwhile.
#[derive(Debug, Default)]
pub(in crate::engine) struct MockDevice {
    /// End of the last step.
    busy_until: Option<Instant>,
}

impl MockDevice {
    /// When a step that is submitted now begins and ends.
    pub fn run(&mut self, now: Instant, time: Duration) -> Range<Instant> {
        let begin = self.busy_until.map_or(now, |end| end.max(now));
        self.busy_until = Some(begin + time);
        begin..begin + time
    }
}
