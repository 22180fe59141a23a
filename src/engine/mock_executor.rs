//! An executor without a model, for tests of everything above: the next token is a hash of the whole context.
//!
//! It keeps what a model would keep: a cache of slots, where each holds a token and the hash of all tokens up to it, found
//! through the block tables. A wrong block, a stale one or one shared by mistake gives wrong tokens, as it would in earnest.

use std::{collections::HashMap, sync::Arc, thread, time::Duration};

use anyhow::{bail, ensure};
use kernels::BLOCK_SIZE;

use super::{
    EncoderShape, Executor, TokenLogprob,
    batch::{LogitRows, SampledToken, SamplingSpec, SequenceOutput, SequenceStep, StepBatch, StepOutput},
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
    /// Answers recorded by prompt, given instead of hashes.
    pub replay: HashMap<Vec<u32>, Vec<u32>>,
    /// Seven tokens of eight, as their hash has it, are the one so many places before them.
    pub quotes: Option<usize>,
    /// A prompt with this token makes its step fail.
    pub failing_token: Option<u32>,
    /// A prompt with this token has logits that are not finite.
    pub not_finite_token: Option<u32>,
    /// A prompt with this token makes the executor panic.
    pub panicking_token: Option<u32>,
    /// What its encoder takes, if it has one.
    pub encoder: Option<EncoderShape>,
}

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

/// Computes tokens by hashing.
#[derive(Debug)]
pub struct MockExecutor {
    options: MockOptions,
    cache: Vec<Cached>,
    sequences: HashMap<usize, MockSequence>,
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
}

impl MockExecutor {
    /// An executor with an empty cache.
    pub fn new(options: MockOptions) -> Self {
        Self { cache: vec![Cached::default(); options.num_blocks * BLOCK_SIZE], sequences: HashMap::new(), options }
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
        for slot in &batch.ended {
            ensure!(self.sequences.remove(slot).is_some(), "slot {slot} ended and was not in use");
        }
        for start in &batch.started {
            let sequence = MockSequence {
                spec: Arc::clone(&start.spec),
                prompt: start.tokens[..start.prompt_len].to_vec(),
                num_generated: start.tokens.len() - start.prompt_len,
                block_table: Vec::new(),
            };
            ensure!(self.sequences.insert(start.slot, sequence).is_none(), "slot {} is taken", start.slot);
        }
        let mut output = StepOutput::default();
        let (mut tokens, mut new_blocks) = (&batch.token_ids[..], &batch.new_blocks[..]);
        for step in &batch.sequences {
            let (rows, blocks);
            (rows, tokens) = tokens.split_at(step.num_tokens);
            (blocks, new_blocks) = new_blocks.split_at(step.num_new_blocks);
            self.run_sequence(*step, rows, blocks, &mut output)?;
        }
        Ok(output)
    }

    fn run_sequence(
        &mut self,
        step: SequenceStep,
        rows: &[u32],
        new_blocks: &[u32],
        output: &mut StepOutput,
    ) -> anyhow::Result<()> {
        let Some(sequence) = self.sequences.get_mut(&step.slot) else { bail!("slot {} is not in use", step.slot) };
        sequence.block_table.extend_from_slice(new_blocks);
        let has = |token: Option<u32>| token.is_some_and(|token| sequence.prompt.contains(&token));
        assert!(!has(self.options.panicking_token), "the mock executor was asked to panic");
        ensure!(!has(self.options.failing_token), "the mock executor was asked to fail");
        let is_finite = |row: usize| self.options.not_finite_token != Some(rows[row]);
        let first_sampled = step.num_tokens - 1 - step.logits.num_drafts();
        if !(0..=first_sampled).all(is_finite) {
            output.sequences.push(SequenceOutput::NotFinite);
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
    type Ticket = StepOutput;

    fn submit(&mut self, batch: &StepBatch) -> anyhow::Result<StepOutput> {
        let output = self.run(batch)?;
        let time = self.options.cost.of(batch);
        if !time.is_zero() {
            thread::sleep(time);
        }
        Ok(output)
    }

    fn collect(&mut self, ticket: StepOutput) -> anyhow::Result<StepOutput> {
        Ok(ticket)
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

/// A bag of tokens: each moves one number of the vector up or down, so that texts are as near as the tokens they share.
fn vector_of(text: &[u32], dimensions: usize) -> Vec<f32> {
    let mut vector = vec![0_f32; dimensions];
    for &token in text {
        let hash = mix(0, token);
        vector[(hash >> 1) as usize % dimensions] += if hash & 1 == 0 { 1.0 } else { -1.0 };
    }
    let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    if length == 0.0 {
        vector[0] = 1.0;
        return vector;
    }
    vector.into_iter().map(|value| value / length).collect()
}

/// One round of `SplitMix64` (Steele, Lea and Flood 2014) over hash and token.
fn mix(hash: u64, token: u32) -> u64 {
    let mut z = hash.wrapping_add(u64::from(token) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn token_of(hash: u64, vocab_size: u32) -> u32 {
    (hash % u64::from(vocab_size.max(1))) as u32
}

fn logprob_of(hash: u64, id: u32, top: u8) -> TokenLogprob {
    let logprob = -((mix(hash, id) % 1000) as f32) / 1000.0;
    TokenLogprob { logprob, top: (0..u32::from(top)).map(|i| (id + i, logprob - i as f32)).collect() }
}
