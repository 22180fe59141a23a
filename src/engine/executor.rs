//! The seam between deciding and computing. Two implementations: [`ModelRunner`](super::ModelRunner) runs a model,
//! [`MockExecutor`](super::MockExecutor) computes tokens from a hash for tests of everything above it.

use super::batch::{StepBatch, StepOutput};

/// Runs steps. Submitting and collecting are two calls so that, on a device that works by itself, the next step can be
/// prepared in between.
pub trait Executor {
    /// A step under way.
    type Ticket;

    /// Starts a step.
    ///
    /// # Errors
    /// When the step cannot run; its sequences fail, others are not affected.
    fn submit(&mut self, batch: &StepBatch) -> anyhow::Result<Self::Ticket>;

    /// Waits for a step's tokens.
    ///
    /// # Errors
    /// As for [`Executor::submit`].
    fn collect(&mut self, ticket: Self::Ticket) -> anyhow::Result<StepOutput>;
}
