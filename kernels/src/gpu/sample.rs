//! The sampler on the card: slots of running sequences, a step's rows on the way in, tokens on the way out. The kernels
//! of `cuda/sample.cu` keep a sequence's state, so that a step can start before the one before it was collected.

mod output;
mod records;
mod staging;
#[cfg(all(test, any(feature = "cuda", feature = "cuda-emulation")))]
mod tests;
mod workspace;

use std::sync::Arc;

use candle_core::Tensor;

use self::output::Output;
use self::records::{HEAD_WORDS, Plain, ROW_ALTERNATIVES, ROW_WORDS, SlotMemory, SlotRecord, THREADS, fill_lists};
use self::staging::{Step, check_alternatives};
pub use self::workspace::SamplerSizes;
use self::workspace::{COUNTED_TOKENS, Memory, Workspace};
use super::{Address, Gpu, Readback};
use crate::sampling::{SampleResults, SampleTask, SamplerParams};
use crate::{Error, Result, rows};

/// Steps that may be under way.
const AREAS: usize = 2;

/// Chooses tokens on the card.
#[derive(Debug)]
pub struct DeviceSampler {
    space: Workspace,
    slots: Vec<Slot>,
    /// Tables of counts that no sequence uses.
    free_counts: Vec<Memory>,
    steps: [Step; AREAS],
    readbacks: [Readback; AREAS],
    next_step: u64,
    /// On the way to the card or from it; kept for their memory.
    words: Vec<u32>,
}

/// What the host knows of a slot.
#[derive(Debug, Default)]
struct Slot {
    is_used: bool,
    logprobs: Option<u8>,
    counts: Option<Memory>,
    /// Biases and stops; stays with the slot.
    lists: Option<Memory>,
}

/// A step whose results are to be collected.
#[derive(Debug)]
#[must_use]
pub struct SampleTicket {
    number: u64,
}

impl DeviceSampler {
    /// A sampler of no sequences.
    ///
    /// # Errors
    /// When the card's memory does not suffice or the vocabulary is too large.
    pub(crate) fn new(gpu: Arc<Gpu>, sizes: SamplerSizes) -> Result<Self> {
        let space = Workspace::new(gpu, sizes)?;
        let slots = (0..sizes.max_slots).map(|_| Slot::default()).collect();
        let readback = || space.gpu.readback(4 * sizes.max_rows * (HEAD_WORDS + ROW_ALTERNATIVES));
        Ok(Self {
            readbacks: [readback()?, readback()?],
            space,
            slots,
            free_counts: Vec::new(),
            steps: Default::default(),
            next_step: 0,
            words: Vec::new(),
        })
    }

    /// u32 `(max_slots)` on the card: the last token that was chosen for each sequence.
    pub fn last_tokens(&self) -> &Tensor {
        &self.space.last_tokens
    }

    /// Gives a slot to a sequence. `output`: what it generated before a preemption.
    ///
    /// # Errors
    /// When the slot is in use or does not exist, more alternatives are asked for than can be told, or the card fails.
    pub fn start(&mut self, slot: usize, params: &SamplerParams<'_>, prompt: &[u32], output: &[u32]) -> Result<()> {
        if self.slots.get(slot).is_none_or(|slot| slot.is_used) {
            return Err(Error::shape("sampler", format!("slot {slot} is not free")));
        }
        check_alternatives(params.logprobs)?;
        let repetition = (params.repetition_penalty - 1.0).abs() > 0.0;
        let has_penalty = repetition || params.frequency_penalty != 0.0 || params.presence_penalty != 0.0;
        let counts = if has_penalty { Some(self.count(if repetition { prompt } else { &[] }, output)?) } else { None };
        let counts_address = counts.as_ref().map_or(Address::NULL, |counts| counts.address);
        self.slots[slot].counts = counts;
        let num_biases = fill_lists(params, self.space.sizes.vocab, &mut self.words);
        let biases = self.upload_lists(slot)?;
        let memory = SlotMemory {
            counts: counts_address,
            biases,
            num_biases,
            stops: biases.offset(8 * num_biases),
            num_stops: self.words.len() - 2 * num_biases,
        };
        let record = SlotRecord::new(params, self.space.sizes.vocab, &memory, output.len());
        let to = self.space.record.slots.offset(slot * size_of::<SlotRecord>());
        // SAFETY: there are `max_slots` records.
        unsafe { self.space.gpu.upload(SlotRecord::bytes(&[record]), to)? };
        self.slots[slot].is_used = true;
        self.slots[slot].logprobs = params.logprobs;
        Ok(())
    }

    /// Takes the slot back. Steps that are under way with it may still be collected.
    pub fn end(&mut self, slot: usize) {
        if let Some(slot) = self.slots.get_mut(slot) {
            slot.is_used = false;
            // The card does what it is told in order: whoever uses the table next, does so behind those steps.
            self.free_counts.extend(slot.counts.take());
        }
    }

    /// Puts masks at rows from `first` on, `(rows, vocab / 32 rounded up)`: bit `i % 32` of word `i / 32` allows token
    /// `i`. They are for the next step and stay until they are replaced.
    ///
    /// # Errors
    /// When there are more than rows of a step, or the card fails.
    pub fn set_masks(&mut self, first: usize, masks: &[u32]) -> Result<()> {
        let words = self.space.sizes.vocab.div_ceil(32);
        let rows = masks.len() / words;
        if rows * words != masks.len() || first + rows > self.space.sizes.max_rows {
            return Err(Error::shape("sampler", format!("{} words are no masks of rows from {first} on", masks.len())));
        }
        // SAFETY: there are `max_rows` masks.
        unsafe { self.space.gpu.upload(u32::bytes(masks), self.space.record.masks.offset(4 * first * words)) }
    }

    /// Stages a step, launches it and begins to collect it.
    ///
    /// # Errors
    /// As [`Self::stage`] and [`Self::launch`].
    pub fn run<'a>(
        &mut self,
        tasks: impl IntoIterator<Item = SampleTask<'a>>,
        logits: &Tensor,
    ) -> Result<SampleTicket> {
        let ticket = self.stage(tasks)?;
        let rows = self.step(&ticket)?.num_rows;
        self.launch(logits, rows)?;
        self.begin_collecting(&ticket)?;
        Ok(ticket)
    }

    /// Brings a step's tasks to the card, for the next [`Self::launch`] or its replay. A slot has at most one task that
    /// samples. At most two steps may wait to be collected.
    ///
    /// # Errors
    /// When a task's slot is not in use, the step has too many rows, or the card fails.
    fn stage<'a>(&mut self, tasks: impl IntoIterator<Item = SampleTask<'a>>) -> Result<SampleTicket> {
        let number = self.next_step;
        let area = (number % AREAS as u64) as usize;
        let step = &mut self.steps[area];
        (step.number, step.num_rows, step.logit_rows, step.has_logprobs) = (number, 0, 0, false);
        step.tasks.clear();
        self.words.clear();
        self.words.resize(ROW_WORDS, 0);
        for task in tasks {
            let Some(slot) = self.slots.get(task.slot).filter(|slot| slot.is_used) else {
                return Err(Error::shape("sampler", format!("slot {} is not in use", task.slot)));
            };
            step.add(&task, slot, &mut self.words)?;
        }
        if step.num_rows > self.space.sizes.max_rows {
            let message = format!("{} rows where there is room for {}", step.num_rows, self.space.sizes.max_rows);
            return Err(Error::shape("sampler", message));
        }
        self.words[0] = step.num_rows as u32;
        self.words[1] = area as u32;
        // SAFETY: there is room for `max_rows` rows and what stands before them.
        unsafe { self.space.gpu.upload(u32::bytes(&self.words), self.space.record.step)? };
        self.next_step += 1;
        Ok(SampleTicket { number })
    }

    /// Launches the kernels for the step staged last. `logits`: f32 `(logit rows, vocab)`. `rows`: of the tasks of this
    /// step, and of those with which a recording of the launch will be replayed.
    ///
    /// # Errors
    /// When the logits are not of this shape or not on the card, or the card fails.
    fn launch(&self, logits: &Tensor, rows: usize) -> Result<()> {
        let (logit_rows, vocab) = rows::matrix("sampler", "logits", logits)?;
        let last = &self.steps[(self.next_step.wrapping_sub(1) % AREAS as u64) as usize];
        let SamplerSizes { vocab: expected, max_rows, .. } = self.space.sizes;
        if vocab != expected || logit_rows < last.logit_rows || rows < last.num_rows || rows > max_rows {
            let message = format!("logits ({logit_rows}, {vocab}) and {rows} rows are not enough for the step");
            return Err(Error::shape("sampler", message));
        }
        if rows == 0 {
            return Ok(());
        }
        let logits = self.space.gpu.address(logits)?;
        let record = self.space.record;
        for kernel in ["sample_scan", "sample_weigh"] {
            let launch = self.space.gpu.kernel(kernel).grid(record.chunks as usize, rows).threads(THREADS);
            // SAFETY: all memory has the sizes that `cuda/sample.cuh` documents, and all rows are the tensor's.
            unsafe { launch.arg(record).arg(logits).run()? };
        }
        let launch = self.space.gpu.kernel("sample_finish").grid(rows, 1).threads(THREADS);
        // SAFETY: as above.
        unsafe { launch.arg(record).arg(logits).run() }
    }

    /// Begins to bring the results of a step that was launched, before the next one is.
    fn begin_collecting(&mut self, ticket: &SampleTicket) -> Result<()> {
        let step = self.step(ticket)?;
        let (num_rows, max_rows) = (step.num_rows, self.space.sizes.max_rows);
        let words =
            if step.has_logprobs { HEAD_WORDS * max_rows + ROW_ALTERNATIVES * num_rows } else { HEAD_WORDS * num_rows };
        let area = (ticket.number % AREAS as u64) as usize;
        let from = self.space.record.output.offset(4 * area * max_rows * (HEAD_WORDS + ROW_ALTERNATIVES));
        // SAFETY: so many words are the area's.
        unsafe { self.space.gpu.begin_readback(from, 4 * words, &mut self.readbacks[area]) }
    }

    /// Waits for a step and reads what came of it.
    ///
    /// # Errors
    /// When two later steps were staged since, or the card fails.
    #[expect(clippy::needless_pass_by_value, reason = "a step is collected once")]
    pub fn collect(&mut self, ticket: SampleTicket, results: &mut SampleResults) -> Result<()> {
        results.outcomes.clear();
        results.tokens.clear();
        self.step(&ticket)?;
        let area = (ticket.number % AREAS as u64) as usize;
        let bytes = self.space.gpu.end_readback(&self.readbacks[area])?;
        self.words.clear();
        self.words.extend(bytes.as_chunks().0.iter().map(|&word| u32::from_ne_bytes(word)));
        let output = Output { words: &self.words, sizes: self.space.sizes };
        for &task in &self.steps[area].tasks {
            output.read(task, results);
        }
        Ok(())
    }

    fn step(&self, ticket: &SampleTicket) -> Result<&Step> {
        let step = &self.steps[(ticket.number % AREAS as u64) as usize];
        if step.number != ticket.number {
            return Err(Error::shape("sampler", "the results of this step are gone"));
        }
        Ok(step)
    }

    /// A table of counts of these tokens.
    fn count(&mut self, prompt: &[u32], output: &[u32]) -> Result<Memory> {
        let vocab = self.space.sizes.vocab;
        let table = match self.free_counts.pop() {
            Some(table) => table,
            None => Memory::new(&self.space.gpu, vocab)?,
        };
        let launch = |tokens: &[u32], in_prompt: usize, reset: u32| {
            let to = &self.space.tokens;
            // SAFETY: chunks are no longer than that.
            unsafe { self.space.gpu.upload(u32::bytes(tokens), to.address)? };
            let launch = self.space.gpu.kernel("sample_count").threads(THREADS).arg(table.address).arg(vocab as u32);
            let launch = launch.arg(to.address).arg(in_prompt as u32).arg(tokens.len() as u32).arg(reset);
            // SAFETY: a table has `vocab` entries.
            unsafe { launch.run() }
        };
        launch(&[], 0, 1)?;
        prompt.chunks(COUNTED_TOKENS).try_for_each(|tokens| launch(tokens, tokens.len(), 0))?;
        output.chunks(COUNTED_TOKENS).try_for_each(|tokens| launch(tokens, 0, 0))?;
        Ok(table)
    }

    /// Copies `words` to the slot's lists.
    fn upload_lists(&mut self, slot: usize) -> Result<Address> {
        let lists = &mut self.slots[slot].lists;
        let memory = match lists.take() {
            Some(memory) if memory.words() >= self.words.len() => memory,
            _ => Memory::new(&self.space.gpu, self.words.len().next_power_of_two())?,
        };
        // SAFETY: there is room for them.
        unsafe { self.space.gpu.upload(u32::bytes(&self.words), memory.address)? };
        Ok(lists.insert(memory).address)
    }
}
