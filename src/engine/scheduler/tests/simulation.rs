//! Clients, a mock executor and a clock around a scheduler: whole days of service in milliseconds, the books checked
//! after every step and every answer compared with what the request gives alone.
#![expect(clippy::unwrap_used, reason = "tests")]

mod client;

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use kernels::BLOCK_SIZE;
use tokio::sync::mpsc;

pub use self::client::{Client, End};
use crate::engine::{
    CacheScope, EngineOptions, EngineRequest, Executor, FinishReason, MockExecutor, MockOptions, SamplingParams,
    SequenceOutput, SequenceStep, Standing, StepCost, StepOutput,
    admission::Admission,
    batch::StepBatch,
    block_pool::{Block, BlockId},
    mock_executor::device::MockDevice,
    pipeline::{CollectedStep, Pipeline},
    scheduler::Scheduler,
    sequence::Submission,
};

pub const VOCAB: u32 = 50_000;

pub struct Simulation {
    pub scheduler: Scheduler,
    pub clients: Vec<Client>,
    /// Tokens computed so far, by user.
    pub served: HashMap<u64, usize>,
    pub cost: StepCost,
    pub host: HostCost,
    pub num_steps: usize,
    /// Rows computed, those that nobody wanted included.
    pub num_rows: usize,
    /// How long the device has stood still between two steps, in all.
    pub idle: Duration,
    device: MockDevice,
    in_flight: VecDeque<StepOnDevice>,
    /// End of the last step submitted.
    last_end: Option<Instant>,
    mock: MockOptions,
    executor: MockExecutor,
    pipeline: Pipeline<<MockExecutor as Executor>::Ticket>,
    admission: Arc<Admission>,
    started: Instant,
    now: Instant,
    /// Clients that are not at their end.
    live: Vec<usize>,
}

/// A step in flight.
struct StepOnDevice {
    end: Instant,
    /// Blocks that it writes to.
    writes: Vec<BlockId>,
}

/// The time of the host for each step; the device's is [`StepCost`].
#[derive(Default)]
pub struct HostCost {
    /// Until the step is submitted.
    pub schedule: Duration,
    /// From when it is collected until everybody has been told.
    pub commit: Duration,
}

pub fn options() -> EngineOptions {
    EngineOptions {
        max_tokens_per_step: 512,
        max_sequences: 32,
        num_blocks: 1024,
        max_context: 8192,
        vocab_size: VOCAB as usize,
        queue_capacity: 100_000,
        max_stall: Duration::from_millis(100),
        prefix_cache: true,
        speculation: true,
        seed: 0,
    }
}

/// A machine: 5 ms to read the weights, 2,000 tokens/s of prefill.
pub fn cost() -> StepCost {
    StepCost { step: Duration::from_millis(5), token: Duration::from_micros(500), attention: Duration::from_micros(20) }
}

/// A prompt that shares nothing with one of another `seed`.
pub fn prompt(seed: u64, len: usize) -> Vec<u32> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..len).map(|_| random.u32(0..VOCAB)).collect()
}

pub fn request(user: u64, prompt: Vec<u32>, max_tokens: usize) -> EngineRequest {
    EngineRequest {
        prompt,
        sampling: SamplingParams::default(),
        max_tokens,
        min_tokens: 0,
        stop_token_ids: Vec::new(),
        user,
        weight: 1,
        priority: 0,
        scope: CacheScope::default(),
        deadline: None,
        prompt_logprobs: None,
    }
}

impl Simulation {
    pub fn new(options: EngineOptions) -> Self {
        Self::with_mock(options, MockOptions::default())
    }

    pub fn with_mock(options: EngineOptions, mock: MockOptions) -> Self {
        options.validate().unwrap();
        let mock = MockOptions { num_blocks: options.num_blocks, vocab_size: VOCAB, ..mock };
        let now = Instant::now();
        Self {
            pipeline: Pipeline::new(1 + mock.steps_ahead),
            executor: MockExecutor::new(mock.clone()),
            admission: Admission::new(options.max_sequences, options.queue_capacity),
            scheduler: Scheduler::new(options),
            clients: Vec::new(),
            served: HashMap::new(),
            cost: cost(),
            host: HostCost::default(),
            num_steps: 0,
            num_rows: 0,
            idle: Duration::ZERO,
            device: MockDevice::default(),
            in_flight: VecDeque::new(),
            last_end: None,
            mock,
            started: now,
            now,
            live: Vec::new(),
        }
    }

    pub fn time(&self) -> Duration {
        self.now - self.started
    }

    /// What the executor was made with.
    pub fn mock(&self) -> &MockOptions {
        &self.mock
    }

    /// The instant so long after the beginning.
    pub fn instant(&self, time: Duration) -> Instant {
        self.started + time
    }

    pub fn submit(&mut self, request: EngineRequest) -> usize {
        let (permit, place) = self.admission.enter(request.priority, request.user).unwrap();
        let (sender, events) = mpsc::unbounded_channel();
        self.scheduler.add(Submission {
            id: self.clients.len() as u64 + 1,
            request: request.clone(),
            events: sender,
            submitted_at: self.now,
            permit,
        });
        self.live.push(self.clients.len());
        self.clients.push(Client::new(request, self.time(), place.expected_wait, events));
        self.clients.len() - 1
    }

    /// The client's request becomes somebody else's.
    pub fn take_over(&mut self, client: usize, to: Standing) {
        self.scheduler.take_over(client as u64 + 1, to);
        self.check();
    }

    /// The client goes away.
    pub fn leave(&mut self, client: usize) {
        self.clients[client].leave();
    }

    /// A turn of the step loop: schedules a step where one may be in flight, then ends the oldest if there is no room for
    /// more or nothing to schedule. False if there was nothing to do.
    pub fn step(&mut self) -> bool {
        if self.pipeline.has_room() && self.submit_step() && self.pipeline.has_room() {
            self.poll();
            return true;
        }
        self.collect_step()
    }

    pub fn submit_step(&mut self) -> bool {
        let started = self.now;
        let mut batch = self.pipeline.spare_batch();
        self.scheduler.schedule(started, &mut batch);
        self.check();
        if batch.sequences.is_empty() {
            self.pipeline.recycle(batch);
            return false;
        }
        self.check_step(&batch);
        self.num_steps += 1;
        self.num_rows += batch.token_ids.len();
        assert!(self.num_steps < 200_000, "steps without end: {:?}", self.scheduler.stats());
        self.now += self.host.schedule;
        let time = self.device.run(self.now, self.cost.of(&batch));
        self.idle += self.last_end.map_or(Duration::ZERO, |end| time.start - end);
        self.last_end = Some(time.end);
        let writes = self.blocks_written_by(&batch);
        self.in_flight.push_back(StepOnDevice { end: time.end, writes });
        self.pipeline.submit(&mut self.executor, batch, started);
        true
    }

    pub fn collect_step(&mut self) -> bool {
        if let Some(StepOnDevice { end, .. }) = self.in_flight.pop_front() {
            self.now = self.now.max(end);
        }
        let Some(step) = self.pipeline.collect(&mut self.executor, || self.now) else {
            assert!(self.scheduler.is_idle(), "requests wait and none can run");
            self.poll();
            return false;
        };
        let CollectedStep { batch, output, elapsed, collected_at } = step;
        match output {
            Ok(output) => {
                self.note_served(&batch, &output);
                self.scheduler.commit(&batch, output, elapsed, collected_at);
            }
            Err(error) => self.scheduler.fail(&batch, &error.to_string()),
        }
        self.pipeline.recycle(batch);
        self.check();
        self.now += self.host.commit;
        self.admission.set_start_interval(self.scheduler.start_interval());
        self.poll();
        true
    }

    fn blocks_written_by(&self, batch: &StepBatch) -> Vec<BlockId> {
        let mut writes = Vec::new();
        for step in &batch.sequences {
            let table = &self.scheduler.slots[step.slot].as_ref().unwrap().block_table;
            let end = step.first_position + step.num_tokens;
            writes.extend(
                table.blocks()[step.first_position / BLOCK_SIZE..end.div_ceil(BLOCK_SIZE)].iter().map(Block::id),
            );
        }
        writes
    }

    fn note_served(&mut self, batch: &StepBatch, output: &StepOutput) {
        let sampled = |step: &SequenceStep| usize::from(step.logits.samples()) + step.logits.num_drafts();
        let sampled = batch.sequences.iter().map(sampled).sum::<usize>();
        assert!(sampled + output.prompt_logprobs.len() <= self.scheduler.options.max_logit_rows());
        for (step, outcome) in batch.sequences.iter().zip(&output.sequences) {
            // Of one that has ended meanwhile nothing counts.
            let Some(sequence) = &self.scheduler.slots[step.slot] else { continue };
            let SequenceOutput::Tokens(sampled) = *outcome else { continue };
            let computed = step.num_tokens - step.logits.num_drafts() + sampled.saturating_sub(1);
            *self.served.entry(sequence.user).or_default() += computed;
        }
    }

    /// Every stream is in the step. No drafts beside a prompt, but that of one who came in where another did not fit; none
    /// ahead of a step in flight; none beyond what the requests may become.
    fn check_step(&self, batch: &StepBatch) {
        let options = &self.scheduler.options;
        assert!(batch.token_ids.len() <= options.max_tokens_per_step && batch.sequences.len() <= options.max_sequences);
        let is_written = |block: &BlockId| self.in_flight.iter().any(|step| step.writes.contains(block));
        assert!(!batch.new_blocks.iter().any(is_written), "a block given to another while a step writes to it");
        let in_step = |slot: usize| batch.sequences.iter().any(|step| step.slot == slot);
        for (slot, sequence) in self.scheduler.slots.iter().enumerate() {
            let is_stream = sequence.as_ref().is_some_and(|sequence| sequence.is_decoding());
            assert!(!is_stream || in_step(slot), "a stream is left out of a step");
        }
        let is_drafting = batch.sequences.iter().any(|step| step.logits.num_drafts() > 0);
        let is_ahead = !self.pipeline.is_empty();
        assert!(!is_drafting || !is_ahead, "drafts behind what is not known");
        for step in &batch.sequences {
            let sequence = self.scheduler.slots[step.slot].as_ref().unwrap();
            let num_own = step.num_tokens - step.logits.num_drafts();
            let is_last = step.first_position + num_own >= sequence.token_ids.len();
            let is_stream = num_own == 1 && is_last && step.first_position >= sequence.prompt_len;
            assert_eq!(step.is_pending, step.first_position >= sequence.token_ids.len());
            assert!(is_ahead || !step.is_pending, "nothing is pending");
            let has_come = batch.started.iter().any(|start| start.slot == step.slot);
            assert!(!is_drafting || is_stream || has_come, "drafts beside a prompt");
            let longest = sequence.prompt_len + sequence.max_tokens;
            assert!(step.first_position + step.num_tokens <= longest, "drafts beyond the end of an answer");
            assert!(sequence.block_table.len() <= longest.div_ceil(BLOCK_SIZE), "blocks beyond the end of an answer");
        }
    }

    fn check(&self) {
        self.scheduler.check_integrity().unwrap();
        let pool = self.scheduler.cache.pool();
        let mut written = self.in_flight.iter().flat_map(|step| &step.writes);
        assert!(
            written.all(|&block| pool.references(block) == 1),
            "what a step writes to is one owner's until it ends"
        );
        let stats = self.scheduler.stats();
        assert_eq!(self.scheduler.queue.num_inside(), stats.running + stats.waiting, "accounts of those inside");
    }

    pub fn run(&mut self) {
        while self.step() {}
    }

    pub fn run_until(&mut self, mut condition: impl FnMut(&Self) -> bool) {
        while !condition(self) {
            assert!(self.step(), "everything ended and what was waited for did not come");
        }
    }

    fn poll(&mut self) {
        let time = self.now - self.started;
        let clients = &mut self.clients;
        self.live.retain(|&index| clients[index].poll(time));
    }

    /// What must hold when everything is over: the right tokens, one end each, the pool whole.
    pub fn check_ends(&self) {
        assert!(self.scheduler.is_idle() && self.pipeline.is_empty());
        for (index, client) in self.clients.iter().enumerate() {
            let end = client.end.as_ref().unwrap_or_else(|| panic!("client {index} never came to its end"));
            let answer = MockExecutor::answer(&self.mock, &client.request.prompt, client.request.max_tokens);
            assert_eq!(client.tokens, answer[..client.tokens.len()], "client {index} got another's tokens");
            if let End::Finished(reason, usage) = end {
                let stopped = usize::from(*reason == FinishReason::Stop);
                assert_eq!(usage.completion_tokens, client.tokens.len() + stopped);
                assert_eq!(*reason == FinishReason::Length, client.tokens.len() == client.request.max_tokens);
                assert_eq!(usage.prompt_tokens, client.request.prompt.len());
            }
        }
        let stats = self.scheduler.stats();
        assert_eq!((stats.running, stats.waiting, stats.kv_blocks_used), (0, 0, 0));
        assert_eq!(self.scheduler.cache.pool().num_available(), self.scheduler.options.num_blocks);
        assert_eq!(self.admission.num_waiting(), 0);
    }
}
