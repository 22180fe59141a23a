//! What the kernels of a step read that differs from step to step: ids, positions, slots, blocks of the sequences, and who
//! computes which part of attention. It lies in one piece of device memory whose parts never move, so that a step can be
//! recorded once and replayed with other values. Must not know what a kernel does with it.

use std::ops::Range;

use candle_core::{DType, Tensor};

use super::attention_memory::AttentionMemory;
use super::attention_shape::AttentionShape;
use super::plan::{Item, Plan, Room};
use super::{Address, Gpu};
use crate::kv::check_spans;
use crate::{BLOCK_SIZE, Error, Result, Span};

/// Slot of a row that is padding; `NO_SLOT` in `cuda/step.cuh`.
const NO_SLOT: u32 = u32::MAX;
/// Words of `StepCounts` there, padded to where an item may begin.
const COUNTS: usize = 4;
/// Words that are rather copied along than skipped by another copy.
const LEAST_GAP: usize = 4096;

/// The largest step that tables are made for.
#[derive(Debug, Clone, Copy)]
pub struct StepCapacity {
    /// Rows, padding included.
    pub rows: usize,
    /// Spans.
    pub spans: usize,
    /// Blocks of all spans together, a block counted once for every span that names it.
    pub span_blocks: usize,
    /// Blocks of the cache.
    pub cache_blocks: usize,
}

/// Where the parts begin, in words.
#[derive(Debug, Clone, Copy)]
struct Layout {
    ids: usize,
    positions: usize,
    slots: usize,
    items: usize,
    tables: usize,
    end: usize,
}

/// The tables of a step, or of its kept rows.
#[derive(Debug)]
pub(crate) struct StepTables {
    shape: AttentionShape,
    capacity: StepCapacity,
    room: Room,
    layout: Layout,
    device: Tensor,
    /// What lies on the card, kept for the next step's.
    words: Vec<u32>,
    plan: Plan,
    num_rows: usize,
    padded_rows: usize,
    is_stored_by_attention: bool,
}

impl StepTables {
    /// Tables for steps of up to `capacity` under attention of `shape`.
    ///
    /// # Errors
    /// When no kernel takes the shape, or the card has no memory.
    pub fn new(gpu: &Gpu, shape: AttentionShape, capacity: StepCapacity) -> Result<Self> {
        let room = Room {
            multiprocessors: gpu.info().multiprocessors as usize,
            blocks: gpu.attention_blocks(&shape),
            partials: AttentionMemory::bytes(gpu.info()) / (4 * size_of::<f32>()),
        };
        Self::with_room(gpu, shape, capacity, room)
    }

    pub(super) fn with_room(gpu: &Gpu, shape: AttentionShape, capacity: StepCapacity, room: Room) -> Result<Self> {
        shape.check()?;
        let layout = Layout::new(&capacity, Plan::max_items(&shape, &room, capacity.rows, capacity.spans));
        Ok(Self {
            shape,
            capacity,
            room,
            layout,
            device: Tensor::zeros(layout.end, DType::U32, gpu.device())?,
            words: vec![0; layout.end],
            plan: Plan::default(),
            num_rows: 0,
            padded_rows: 0,
            is_stored_by_attention: false,
        })
    }

    /// Takes the next step: rows `0..ids.len()` are those of `spans`, the rows behind them up to `padded_rows` are padding.
    /// `ids`: the rows' token ids, or for kept rows where they come from. Copies what has changed to the card, in the
    /// order of launches. `may_store`: whether the same rows are attended from that are stored, so that attention may
    /// store them where no query of the step waits for another's key.
    ///
    /// # Errors
    /// When the step exceeds the capacity, the spans do not cover the rows, or the card has failed.
    pub fn fill(
        &mut self,
        gpu: &Gpu,
        ids: &[u32],
        spans: &[Span],
        (padded_rows, may_store): (usize, bool),
    ) -> Result<()> {
        const OP: &str = "step";
        check_spans(OP, spans, ids.len(), self.capacity.cache_blocks)?;
        let span_blocks: usize = spans.iter().map(blocks).sum();
        let StepCapacity { rows, spans: max_spans, span_blocks: max_blocks, .. } = self.capacity;
        if ids.len() > padded_rows || padded_rows > rows || spans.len() > max_spans || span_blocks > max_blocks {
            let found = format!("{} of {padded_rows} rows, {} spans, {span_blocks} blocks", ids.len(), spans.len());
            return Err(Error::shape(OP, format!("{found} exceed {:?}", self.capacity)));
        }
        self.plan.make(&self.shape, &self.room, spans);
        self.num_rows = ids.len();
        self.padded_rows = padded_rows;
        self.is_stored_by_attention = may_store && self.plan.has_no_order();
        let used = self.write(ids, spans);
        // SAFETY: the ranges lie in the words, and the card has as many.
        joined(&used).try_for_each(|range| unsafe { self.upload(gpu, range) })
    }

    /// Writes everything into `words`. Returns what was written.
    fn write(&mut self, ids: &[u32], spans: &[Span]) -> [Range<usize>; 5] {
        let Self { layout, words, plan, num_rows, padded_rows, .. } = self;
        let items = plan.few.len() + plan.many.len();
        words[..COUNTS].copy_from_slice(&[*num_rows as u32, plan.few_blocks as u32, plan.many.len() as u32, 0]);
        words[layout.ids..][..ids.len()].copy_from_slice(ids);
        words[layout.ids + ids.len()..][..*padded_rows - ids.len()].fill(0);
        let (positions, slots) = words[layout.positions..layout.items].split_at_mut(layout.slots - layout.positions);
        positions[*num_rows..*padded_rows].fill(0);
        slots[*num_rows..*padded_rows].fill(NO_SLOT);
        let rows = spans.iter().flat_map(|span| {
            let first = span.first_position();
            (first..span.context_len).map(move |position| (position, span.slot(position)))
        });
        for ((to_position, to_slot), (position, slot)) in positions.iter_mut().zip(slots).zip(rows) {
            (*to_position, *to_slot) = (position as u32, slot as u32);
        }
        let to = words[layout.items..layout.tables].as_chunks_mut::<{ Item::WORDS }>().0;
        for (to, item) in to.iter_mut().zip(plan.few.iter().chain(&plan.many)) {
            *to = item.words();
        }
        let mut end = layout.tables;
        for span in spans {
            let table = &span.block_table[..blocks(span)];
            words[end..][..table.len()].copy_from_slice(table);
            end += table.len();
        }
        let part = |start: usize, len: usize| start..start + len;
        let rows = *padded_rows;
        [
            0..layout.ids + rows,
            part(layout.positions, rows),
            part(layout.slots, rows),
            part(layout.items, items * Item::WORDS),
            layout.tables..end,
        ]
    }

    /// Copies words to the card.
    ///
    /// # Safety
    /// The range lies in the words.
    unsafe fn upload(&self, gpu: &Gpu, range: Range<usize>) -> Result<()> {
        let to = gpu.address(&self.device)?.offset(range.start * size_of::<u32>());
        let words = &self.words[range];
        // SAFETY: any word is four bytes.
        let bytes = unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), size_of_val(words)) };
        // SAFETY: the card has as many words.
        unsafe { gpu.upload(bytes, to) }
    }

    /// Attention's shape.
    pub fn shape(&self) -> &AttentionShape {
        &self.shape
    }

    /// What plans of these steps are made within.
    pub(super) fn room(&self) -> &Room {
        &self.room
    }

    /// What the tables were made for.
    pub fn capacity(&self) -> &StepCapacity {
        &self.capacity
    }

    /// Rows of the step that have tokens.
    pub fn num_rows(&self) -> usize {
        self.num_rows
    }

    /// Rows of the step, padding included.
    pub fn padded_rows(&self) -> usize {
        self.padded_rows
    }

    /// Blocks of attention for few queries that have something to do, and for many. A step without the latter can be
    /// recorded and replayed for any other without them, with as many padded rows.
    pub fn attention_blocks(&self) -> (usize, usize) {
        (self.plan.few_blocks, self.plan.many.len())
    }

    /// Whether attention rotates the step's rows and stores their keys and values.
    pub fn is_stored_by_attention(&self) -> bool {
        self.is_stored_by_attention
    }

    /// Where the kernel for many queries begins among the items.
    pub(super) fn first_many(&self) -> usize {
        self.plan.few.len()
    }

    /// `StepCounts` of `cuda/step.cuh`.
    pub(super) fn counts(&self, gpu: &Gpu) -> Result<Address> {
        gpu.address(&self.device)
    }

    /// Ids of rows, u32 `(padded_rows)`; 0 of padding.
    pub fn ids(&self, gpu: &Gpu) -> Result<Address> {
        self.part(gpu, self.layout.ids)
    }

    /// Positions of rows, u32 `(padded_rows)`; 0 of padding.
    pub fn positions(&self, gpu: &Gpu) -> Result<Address> {
        self.part(gpu, self.layout.positions)
    }

    /// Slots of rows, u32 `(padded_rows)`, `u32::MAX` of padding.
    pub fn slots(&self, gpu: &Gpu) -> Result<Address> {
        self.part(gpu, self.layout.slots)
    }

    /// Items of attention.
    pub(super) fn items(&self, gpu: &Gpu) -> Result<Address> {
        self.part(gpu, self.layout.items)
    }

    /// Ids of the spans' blocks.
    pub(super) fn block_tables(&self, gpu: &Gpu) -> Result<Address> {
        self.part(gpu, self.layout.tables)
    }

    fn part(&self, gpu: &Gpu, word: usize) -> Result<Address> {
        Ok(gpu.address(&self.device)?.offset(word * size_of::<u32>()))
    }
}

impl Layout {
    fn new(capacity: &StepCapacity, max_items: usize) -> Self {
        // Items begin at multiples of 16 bytes.
        let rows = capacity.rows.next_multiple_of(4);
        let ids = COUNTS;
        let positions = ids + rows;
        let slots = positions + rows;
        let items = slots + rows;
        let tables = items + max_items * Item::WORDS;
        Self { ids, positions, slots, items, tables, end: tables + capacity.span_blocks.max(1) }
    }
}

/// Blocks of a span that attention reads.
fn blocks(span: &Span) -> usize {
    span.context_len.div_ceil(BLOCK_SIZE)
}

/// Ascending ranges, those with small gaps between them made one.
fn joined(ranges: &[Range<usize>]) -> impl Iterator<Item = Range<usize>> {
    let near = |a: &Range<usize>, b: &Range<usize>| b.start - a.end < LEAST_GAP;
    ranges.chunk_by(near).map(|near| near[0].start..near[near.len() - 1].end)
}

#[cfg(all(test, any(feature = "cuda", feature = "cuda-emulation")))]
#[path = "step_tests.rs"]
mod tests;
