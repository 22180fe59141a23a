//! Who chooses tokens from a step's logits: the host, or the card that they are on. Both do what a sequence's
//! [`SamplingSpec`](super::SamplingSpec) says, and keep by slot what they need for it.

mod card;
mod host;

use anyhow::bail;
use candle_core::Tensor;
use kernels::{
    Compute,
    sampling::{SampleResults, SampleTask, SampleTicket, SamplerSizes},
};

use self::{card::CardChooser, host::HostChooser};
use super::batch::SequenceStart;

/// The sampling state of all running sequences, and who uses it.
#[derive(Debug)]
pub(super) enum Chooser {
    Host(HostChooser),
    Card(Box<CardChooser>),
}

/// Tokens that are being chosen.
#[derive(Debug)]
pub(super) enum Choosing {
    Done(SampleResults),
    OnCard(SampleTicket),
}

impl Chooser {
    /// For logits that come from `compute`, so many rows a step and sequences of such slots at most.
    pub fn new(compute: &Compute, vocab_size: usize, max_rows: usize) -> anyhow::Result<Self> {
        let sizes = SamplerSizes { vocab: vocab_size, max_slots: max_rows, max_rows };
        Ok(match compute.sampler(sizes)? {
            Some(sampler) => Self::Card(Box::new(CardChooser::new(sampler))),
            None => Self::Host(HostChooser::new(compute.clone())),
        })
    }

    /// Where a step may find tokens that were not collected yet: u32 by slot.
    pub fn last_tokens(&self) -> Option<&Tensor> {
        match self {
            Self::Host(_) => None,
            Self::Card(chooser) => Some(chooser.last_tokens()),
        }
    }

    /// A sequence takes a slot.
    pub fn start(&mut self, start: &SequenceStart) -> anyhow::Result<()> {
        match self {
            Self::Host(chooser) => chooser.start(start),
            Self::Card(chooser) => chooser.start(start)?,
        }
        Ok(())
    }

    /// A slot is free.
    pub fn end(&mut self, slot: usize) {
        match self {
            Self::Host(chooser) => chooser.end(slot),
            Self::Card(chooser) => chooser.end(slot),
        }
    }

    /// Begins a step's tasks on its `logits`, f32 `(rows, vocab_size)`.
    pub fn submit(&mut self, tasks: &[SampleTask<'_>], logits: &Tensor) -> anyhow::Result<Choosing> {
        Ok(match self {
            Self::Host(chooser) => Choosing::Done(chooser.choose(tasks, logits)?),
            Self::Card(chooser) => Choosing::OnCard(chooser.submit(tasks, logits)?),
        })
    }

    /// Waits for what a step's tasks bring.
    pub fn collect(&mut self, choosing: Choosing) -> anyhow::Result<SampleResults> {
        match (self, choosing) {
            (_, Choosing::Done(results)) => Ok(results),
            (Self::Card(chooser), Choosing::OnCard(ticket)) => chooser.collect(ticket),
            (Self::Host(_), Choosing::OnCard(_)) => bail!("there is no card"),
        }
    }
}
