//! The seam between deciding and computing. Two implementations: [`ModelRunner`](super::ModelRunner) runs a model,
//! [`MockExecutor`](super::MockExecutor) computes tokens from a hash for tests of everything above it.

use anyhow::bail;

use super::EncoderShape;
use super::batch::{StepBatch, StepOutput};

/// Runs steps. Submitting and collecting are two calls so that, on a device that works by itself, the next step can be
/// prepared in between. Steps are collected in the order of their submission, and the device runs them in it: what a step
/// writes into the KV cache is there for the next one, and is written before anything that the next one writes.
pub trait Executor {
    /// A step under way.
    type Ticket;

    /// Steps that may be submitted and not collected. One where the computing is done by whoever submits or collects;
    /// two for a device that works by itself, which then has its next step before it is done with the one before.
    fn max_steps_in_flight(&self) -> usize {
        1
    }

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

    /// Whether nothing can be expected after this error of a step: the engine then fails all requests and ends.
    fn is_fatal(&self, _error: &anyhow::Error) -> bool {
        false
    }

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
