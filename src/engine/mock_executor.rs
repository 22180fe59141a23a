//! An executor without a model, for tests of everything above: the next token is a hash of the whole context.
//!
//! It keeps what a model would keep: a cache of slots, where each holds a token and the hash of all tokens up to it, found
//! through the block tables. A wrong block, a stale one or one shared by mistake gives wrong tokens, as it would in earnest.

pub(super) mod device;
mod hash;

use std::{
    collections::HashMap,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{bail, ensure};
use kernels::BLOCK_SIZE;

pub use self::device::StepCost;
use self::{
    device::MockDevice,
    hash::{logprob_of, mix, token_of, vector_of},
};
use super::{
    EncoderShape, Executor,
    batch::{
        LogitRows, PENDING_TOKEN, SampledToken, SamplingSpec, SequenceOutput, SequenceStep, StepBatch, StepOutput,
    },
};

/// What a [`MockExecutor`] pretends to be.
#[derive(Debug, Clone, Default)]
pub struct MockOptions {
    /// Blocks of its cache.
    pub num_blocks: usize,
    /// Tokens are below this.
    pub vocab_size: u32,
    /// What a step takes; [`MockExecutor`] sleeps for so long.
    pub cost: StepCost,
    /// Steps that it takes before the oldest is collected. Where there are any, it is a device that works by itself: its
    /// time passes whatever its host does, and what goes wrong in a step is noticed when that is collected.
    pub steps_ahead: usize,
    /// Answers recorded by prompt, given instead of hashes.
    pub replay: HashMap<Vec<u32>, Vec<u32>>,
    /// Seven tokens of eight, as their hash has it, are the one so many places before them.
    pub quotes: Option<usize>,
    /// A prompt with this token makes its step fail.
    pub failing_token: Option<u32>,
    /// After a failed step nothing more can be expected.
    pub fails_for_good: bool,
    /// A prompt with this token has logits that are not finite.
    pub not_finite_token: Option<u32>,
    /// A prompt with this token makes the executor panic.
    pub panicking_token: Option<u32>,
    /// What its encoder takes, if it has one.
    pub encoder: Option<EncoderShape>,
}

/// Computes tokens by hashing.
#[derive(Debug)]
pub struct MockExecutor {
    options: MockOptions,
    cache: Vec<Cached>,
    sequences: HashMap<usize, MockSequence>,
    device: MockDevice,
}

/// A step of a [`MockExecutor`].
#[derive(Debug)]
pub struct MockTicket {
    output: anyhow::Result<StepOutput>,
    ready_at: Option<Instant>,
}

/// What a slot of the cache holds.
#[derive(Debug, Clone, Copy, Default)]
struct Cached {
    token: u32,
    /// Of all tokens up to and including this one.
    hash: u64,
}

#[derive(Debug)]
struct MockSequence {
    spec: Arc<SamplingSpec>,
    prompt: Vec<u32>,
    num_generated: usize,
    block_table: Vec<u32>,
    /// What its latest step has sampled, if that was one token. Any token if the step went wrong.
    sampled: Option<u32>,
}

impl MockExecutor {
    /// An executor with an empty cache.
    pub fn new(options: MockOptions) -> Self {
        let cache = vec![Cached::default(); options.num_blocks * BLOCK_SIZE];
        Self { cache, sequences: HashMap::new(), device: MockDevice::default(), options }
    }

    /// What it answers to `prompt` alone: the first `num_tokens` tokens, end tokens not looked at.
    pub fn answer(options: &MockOptions, prompt: &[u32], num_tokens: usize) -> Vec<u32> {
        if let Some(recorded) = options.replay.get(prompt) {
            return recorded.iter().copied().take(num_tokens).collect();
        }
        let mut hash = prompt.iter().fold(0, |hash, &token| mix(hash, token));
        let mut tokens = prompt.to_vec();
        for len in prompt.len()..prompt.len() + num_tokens {
            let token = options.next_token(hash, len, |position| tokens[position]);
            hash = mix(hash, token);
            tokens.push(token);
        }
        tokens.split_off(prompt.len())
    }

    fn run(&mut self, batch: &StepBatch) -> anyhow::Result<StepOutput> {
        self.take_news(batch)?;
        let output = self.run_sequences(batch);
        for step in batch.sequences.iter().filter(|_| output.is_err()) {
            if let Some(sequence) = self.sequences.get_mut(&step.slot) {
                sequence.sampled = Some(PENDING_TOKEN);
            }
        }
        output
    }

    fn run_sequences(&mut self, batch: &StepBatch) -> anyhow::Result<StepOutput> {
        let mut output = StepOutput::default();
        let mut tokens = &batch.token_ids[..];
        for step in &batch.sequences {
            let rows;
            (rows, tokens) = tokens.split_at(step.num_tokens);
            self.run_sequence(*step, rows, &mut output)?;
        }
        Ok(output)
    }

    /// Takes in which sequences have ended and started, and their new blocks: known from now on even if the step fails.
    fn take_news(&mut self, batch: &StepBatch) -> anyhow::Result<()> {
        for slot in &batch.ended {
            ensure!(self.sequences.remove(slot).is_some(), "slot {slot} ended and was not in use");
        }
        for start in &batch.started {
            let sequence = MockSequence {
                spec: Arc::clone(&start.spec),
                prompt: start.tokens[..start.prompt_len].to_vec(),
                num_generated: start.tokens.len() - start.prompt_len,
                block_table: Vec::new(),
                sampled: None,
            };
            ensure!(self.sequences.insert(start.slot, sequence).is_none(), "slot {} is taken", start.slot);
        }
        let mut new_blocks = &batch.new_blocks[..];
        for step in &batch.sequences {
            let Some(sequence) = self.sequences.get_mut(&step.slot) else { bail!("slot {} is not in use", step.slot) };
            let blocks;
            (blocks, new_blocks) = new_blocks.split_at(step.num_new_blocks);
            sequence.block_table.extend_from_slice(blocks);
        }
        Ok(())
    }

    fn run_sequence(&mut self, step: SequenceStep, rows: &[u32], output: &mut StepOutput) -> anyhow::Result<()> {
        let Some(sequence) = self.sequences.get_mut(&step.slot) else { bail!("slot {} is not in use", step.slot) };
        let has = |token: Option<u32>| token.is_some_and(|token| sequence.prompt.contains(&token));
        assert!(!has(self.options.panicking_token), "the mock executor was asked to panic");
        // One that has failed has a row in the step behind, too, if that was scheduled ahead.
        ensure!(step.is_pending || !has(self.options.failing_token), "the mock executor was asked to fail");
        let sampled = sequence.sampled.take();
        let pending = match (step.is_pending, sampled, rows) {
            (false, ..) => None,
            (true, Some(token), [PENDING_TOKEN]) => Some([token]),
            _ => bail!("slot {} has no pending token, or more than its row", step.slot),
        };
        let rows = pending.as_ref().map_or(rows, |row| &row[..]);
        let is_finite = |row: usize| self.options.not_finite_token != Some(rows[row]);
        let first_sampled = step.num_tokens - 1 - step.logits.num_drafts();
        if !(0..=first_sampled).all(is_finite) {
            output.sequences.push(SequenceOutput::NotFinite);
            sequence.sampled = Some(PENDING_TOKEN);
            return Ok(());
        }
        let slot =
            |position: usize| sequence.block_table[position / BLOCK_SIZE] as usize * BLOCK_SIZE + position % BLOCK_SIZE;
        let mut hash = if step.first_position == 0 { 0 } else { self.cache[slot(step.first_position - 1)].hash };
        for (row, &token) in rows.iter().enumerate() {
            hash = mix(hash, token);
            let position = step.first_position + row;
            self.cache[slot(position)] = Cached { token, hash };
            if let LogitRows::All { .. } = step.logits
                && position + 1 < sequence.prompt.len()
            {
                let top = sequence.spec.prompt_logprobs.unwrap_or(0);
                output.prompt_logprobs.push(logprob_of(hash, sequence.prompt[position + 1], top));
            }
        }
        let sampled = if step.logits.samples() { first_sampled..step.num_tokens } else { 0..0 };
        let num_tokens = output.tokens.len();
        for row in sampled.take_while(|&row| row == first_sampled || is_finite(row)) {
            if row > first_sampled && output.tokens.last().is_some_and(|token| token.id != rows[row]) {
                break;
            }
            let position = step.first_position + row;
            let hash = self.cache[slot(position)].hash;
            let recorded = self.options.replay.get(&sequence.prompt);
            let id = match recorded.and_then(|answer| answer.get(sequence.num_generated)) {
                Some(&id) => id,
                None => self.options.next_token(hash, position + 1, |position| self.cache[slot(position)].token),
            };
            sequence.num_generated += 1;
            let logprob = sequence.spec.params.logprobs.map(|top| logprob_of(hash, id, top));
            output.tokens.push(SampledToken { id, logprob });
        }
        if let ([sampled], 0) = (&output.tokens[num_tokens..], step.logits.num_drafts()) {
            sequence.sampled = Some(sampled.id);
        }
        output.sequences.push(SequenceOutput::Tokens(output.tokens.len() - num_tokens));
        Ok(())
    }
}

impl MockOptions {
    /// The token at position `len`, behind tokens with this hash.
    fn next_token(&self, hash: u64, len: usize, token_at: impl Fn(usize) -> u32) -> u32 {
        match self.quotes.and_then(|distance| len.checked_sub(distance)) {
            Some(position) if hash >> 61 != 0 => token_at(position),
            _ => token_of(hash, self.vocab_size),
        }
    }
}

impl Executor for MockExecutor {
    type Ticket = MockTicket;

    fn is_fatal(&self, _: &anyhow::Error) -> bool {
        self.options.fails_for_good
    }

    fn max_steps_in_flight(&self) -> usize {
        1 + self.options.steps_ahead
    }

    fn submit(&mut self, batch: &StepBatch) -> anyhow::Result<MockTicket> {
        let output = self.run(batch);
        let time = self.options.cost.of(batch);
        if self.options.steps_ahead > 0 {
            let ready_at = self.device.run(Instant::now(), time).end;
            return Ok(MockTicket { output, ready_at: Some(ready_at) });
        }
        let output = output?;
        if !time.is_zero() {
            thread::sleep(time);
        }
        Ok(MockTicket { output: Ok(output), ready_at: None })
    }

    fn collect(&mut self, ticket: MockTicket) -> anyhow::Result<StepOutput> {
        let left = ticket.ready_at.map_or(Duration::ZERO, |end| end.saturating_duration_since(Instant::now()));
        if !left.is_zero() {
            thread::sleep(left);
        }
        ticket.output
    }

    fn encoder(&self) -> Option<EncoderShape> {
        self.options.encoder
    }

    fn encode(&mut self, texts: &[&[u32]]) -> anyhow::Result<Vec<Vec<f32>>> {
        let MockOptions { encoder, cost, failing_token, panicking_token, .. } = &self.options;
        let Some(EncoderShape { dimensions, .. }) = encoder else { bail!("the mock executor has no encoder") };
        let has = |token: &Option<u32>| token.is_some_and(|token| texts.iter().any(|text| text.contains(&token)));
        assert!(!has(panicking_token), "the mock executor was asked to panic");
        ensure!(!has(failing_token), "the mock executor was asked to fail");
        let time = cost.step + cost.token * texts.iter().map(|text| text.len()).sum::<usize>() as u32;
        if !time.is_zero() {
            thread::sleep(time);
        }
        Ok(texts.iter().map(|text| vector_of(text, *dimensions)).collect())
    }
}
