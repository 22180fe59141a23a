//! The seam between deciding and computing. Two implementations: [`ModelRunner`](super::ModelRunner) runs a model,
//! [`MockExecutor`](super::MockExecutor) computes tokens from a hash for tests of everything above it.

use anyhow::bail;

use super::EncoderShape;
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

    /// What its encoder takes, if it has one beside the model.
    fn encoder(&self) -> Option<EncoderShape> {
        None
    }

    /// One vector of length 1 for each text; all are within the encoder's shape.
    ///
    /// # Errors
    /// When these texts cannot be encoded; nothing else is affected.
    fn encode(&mut self, _texts: &[&[u32]]) -> anyhow::Result<Vec<Vec<f32>>> {
        bail!("there is no embedding model")
    }
}
