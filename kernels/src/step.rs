//! A step as the operations see it: its rows' ids and the spans they belong to, and on a card where both lie there.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::gpu::Gpu;
use crate::gpu::attention_memory::AttentionMemory;
pub use crate::gpu::attention_shape::AttentionShape;
use crate::gpu::rope::RopeAngles;
pub use crate::gpu::step::StepCapacity;
use crate::gpu::step::StepTables;
use crate::{Compute, Error, Result, RopeTable, Span};

/// Rows of a step: their ids, and the spans that cover them. Of rows that are kept (see [`Compute::keep_rows`]) the ids
/// are the rows that they come from.
#[derive(Debug, Clone, Copy)]
pub struct StepRows<'a> {
    pub(crate) ids: &'a [u32],
    pub(crate) spans: &'a [Span],
    card: Option<(&'a CardStep, &'a StepTables)>,
}

/// Where a card reads what differs from step to step: made once, filled by every step. Nothing on the CPU.
#[derive(Debug)]
pub struct StepMemory {
    card: Option<CardMemory>,
}

#[derive(Debug)]
struct CardMemory {
    card: CardStep,
    tables: StepTables,
    kept_tables: StepTables,
}

/// What all steps share on a card.
#[derive(Debug)]
pub(crate) struct CardStep {
    attention: AttentionMemory,
    angles: RopeAngles,
    /// Whether the angles are those of an earlier step.
    is_stale: AtomicBool,
}

impl<'a> StepRows<'a> {
    /// Rows of a step on the CPU.
    pub fn new(ids: &'a [u32], spans: &'a [Span]) -> Self {
        Self { ids, spans, card: None }
    }

    /// Rows that have ids.
    #[expect(clippy::len_without_is_empty, reason = "a step has rows")]
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// The spans that cover them.
    pub fn spans(&self) -> &'a [Span] {
        self.spans
    }

    /// What a card does for two steps is the same for equal keys; `None` where it depends on more, and on the CPU.
    pub fn recording_key(&self) -> Option<usize> {
        let (_, tables) = self.card.filter(|(_, tables)| tables.attention_blocks().1 == 0)?;
        Some(2 * tables.padded_rows() + usize::from(tables.is_stored_by_attention()))
    }

    /// Rows that operations work on, on a card with those that are padding.
    pub fn padded_len(&self) -> usize {
        self.card.map_or(self.ids.len(), |(_, tables)| tables.padded_rows())
    }

    /// Where a card reads them.
    pub(crate) fn on_card(&self, op: &'static str) -> Result<(&'a CardStep, &'a StepTables)> {
        self.card.ok_or_else(|| Error::shape(op, "the step was not told to the card"))
    }
}

impl StepMemory {
    /// For steps of up to `capacity` through layers whose attention has this shape.
    ///
    /// # Errors
    /// When the card has no kernel for the shape, or no memory.
    pub fn new(compute: &Compute, rope: &RopeTable, shape: AttentionShape, capacity: StepCapacity) -> Result<Self> {
        let Some(gpu) = compute.gpu() else { return Ok(Self { card: None }) };
        let card = CardStep {
            attention: AttentionMemory::new(gpu, &shape)?,
            angles: RopeAngles::new(gpu, rope.style(), rope.inverse_frequencies(), rope.magnitude(), capacity.rows)?,
            is_stale: AtomicBool::new(true),
        };
        let tables = || StepTables::new(gpu, shape, capacity);
        Ok(Self { card: Some(CardMemory { card, tables: tables()?, kept_tables: tables()? }) })
    }

    /// Takes the next step, and which of its rows will be kept if not all are. On a card it is worked on as one of
    /// `padded_rows`.
    ///
    /// # Errors
    /// When the step exceeds the capacity, spans do not cover their rows, or the card has failed.
    pub fn fill<'a>(
        &'a mut self,
        compute: &Compute,
        step: StepRows<'a>,
        kept: Option<StepRows<'a>>,
        padded_rows: usize,
    ) -> Result<(StepRows<'a>, Option<StepRows<'a>>)> {
        let (Some(gpu), Some(CardMemory { card, tables, kept_tables })) = (compute.gpu(), &mut self.card) else {
            return Ok((step, kept));
        };
        card.is_stale.store(true, Ordering::Relaxed);
        tables.fill(gpu, step.ids, step.spans, (padded_rows, kept.is_none()))?;
        if let Some(kept) = kept {
            kept_tables.fill(gpu, kept.ids, kept.spans, (kept.ids.len(), false))?;
        }
        let card = &*card;
        let on_card = |rows: StepRows<'a>, tables: &'a StepTables| StepRows { card: Some((card, tables)), ..rows };
        Ok((on_card(step, tables), kept.map(|kept| on_card(kept, kept_tables))))
    }
}

impl CardStep {
    /// Memory that attention works in.
    pub(crate) fn attention(&self) -> &AttentionMemory {
        &self.attention
    }

    /// Cosines and sines of the step's rows, computed when they are first asked for.
    pub(crate) fn angles(&self, gpu: &Gpu, tables: &StepTables) -> Result<&RopeAngles> {
        if self.is_stale.swap(false, Ordering::Relaxed) {
            gpu.rope_angles(&self.angles, tables)?;
        }
        Ok(&self.angles)
    }
}
