//! Clients, a mock executor and a clock around a scheduler: whole days of service in milliseconds, the books checked
//! after every step and every answer compared with what the request gives alone.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use kernels::BLOCK_SIZE;
use tokio::sync::mpsc;

use crate::engine::{
    CacheScope, EngineError, EngineOptions, EngineRequest, Executor, FinishReason, MockExecutor, MockOptions,
    SamplingParams, SequenceOutput, SequenceStep, Standing, StepCost, TokenEvent, TokenUsage, admission::Admission,
    batch::StepBatch, scheduler::Scheduler, sequence::Submission,
};

pub const VOCAB: u32 = 50_000;

pub struct Simulation {
    pub scheduler: Scheduler,
    pub clients: Vec<Client>,
    /// Tokens computed so far, by user.
    pub served: HashMap<u64, usize>,
    pub cost: StepCost,
    pub num_steps: usize,
    mock: MockOptions,
    executor: MockExecutor,
    admission: Arc<Admission>,
    batch: StepBatch,
    started: Instant,
    now: Instant,
    /// Clients that are not at their end.
    live: Vec<usize>,
}

pub struct Client {
    pub request: EngineRequest,
    pub submitted: Duration,
    pub started: Option<Duration>,
    pub expected_wait: Duration,
    pub cached_tokens: usize,
    pub token_times: Vec<Duration>,
    pub tokens: Vec<u32>,
    pub end: Option<End>,
    /// The log-probabilities of the prompt have come.
    prompt_told: bool,
    /// Drops the receiver once so many tokens have come.
    pub leaves_after: Option<usize>,
    events: Option<mpsc::UnboundedReceiver<TokenEvent>>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum End {
    Finished(FinishReason, TokenUsage),
    Failed(EngineError),
    Left,
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
            executor: MockExecutor::new(mock.clone()),
            admission: Admission::new(options.max_sequences, options.queue_capacity),
            scheduler: Scheduler::new(options),
            clients: Vec::new(),
            served: HashMap::new(),
            cost: cost(),
            num_steps: 0,
            mock,
            batch: StepBatch::default(),
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
        self.clients.push(Client {
            request,
            submitted: self.time(),
            started: None,
            expected_wait: place.expected_wait,
            cached_tokens: 0,
            token_times: Vec::new(),
            tokens: Vec::new(),
            end: None,
            prompt_told: false,
            leaves_after: None,
            events: Some(events),
        });
        self.clients.len() - 1
    }

    /// The client's request becomes somebody else's.
    pub fn take_over(&mut self, client: usize, to: Standing) {
        self.scheduler.take_over(client as u64 + 1, to);
        self.check();
    }

    /// The client goes away.
    pub fn leave(&mut self, client: usize) {
        let client = &mut self.clients[client];
        if client.events.take().is_some() && client.end.is_none() {
            client.end = Some(End::Left);
        }
    }

    /// One step; false if there was nothing to do.
    pub fn step(&mut self) -> bool {
        self.scheduler.schedule(self.now, &mut self.batch);
        self.check();
        let rows = self.batch.token_ids.len();
        let options = &self.scheduler.options;
        assert!(rows <= options.max_tokens_per_step && self.batch.sequences.len() <= options.max_sequences);
        if self.batch.sequences.is_empty() {
            assert!(self.scheduler.is_idle(), "requests wait and none can run");
            self.poll();
            return false;
        }
        let in_step = |slot: usize| self.batch.sequences.iter().any(|step| step.slot == slot);
        for (slot, sequence) in self.scheduler.slots.iter().enumerate() {
            let is_stream = sequence.as_ref().is_some_and(|sequence| sequence.is_decoding());
            assert!(!is_stream || in_step(slot), "a stream is left out of a step");
        }
        self.check_drafts();
        let elapsed = self.cost.of(&self.batch);
        self.now += elapsed;
        self.num_steps += 1;
        assert!(self.num_steps < 200_000, "steps without end: {:?}", self.scheduler.stats());
        match self.executor.submit(&self.batch) {
            Ok(output) => {
                let sampled = |step: &SequenceStep| usize::from(step.logits.samples()) + step.logits.num_drafts();
                let sampled = self.batch.sequences.iter().map(sampled).sum::<usize>();
                assert!(sampled + output.prompt_logprobs.len() <= self.scheduler.options.max_logit_rows());
                for (step, outcome) in self.batch.sequences.iter().zip(&output.sequences) {
                    let SequenceOutput::Tokens(sampled) = *outcome else { continue };
                    let user = self.scheduler.slots[step.slot].as_ref().unwrap().user;
                    let computed = step.num_tokens - step.logits.num_drafts() + sampled.saturating_sub(1);
                    *self.served.entry(user).or_default() += computed;
                }
                self.scheduler.commit(&self.batch, output, elapsed, self.now);
            }
            Err(error) => self.scheduler.fail(&self.batch, &error.to_string()),
        }
        self.check();
        self.admission.set_start_interval(self.scheduler.start_interval());
        self.poll();
        true
    }

    /// No drafts beside a prompt, but that of one who came in where another did not fit; none beyond what the requests
    /// may become.
    fn check_drafts(&self) {
        let is_drafting = self.batch.sequences.iter().any(|step| step.logits.num_drafts() > 0);
        for step in &self.batch.sequences {
            let sequence = self.scheduler.slots[step.slot].as_ref().unwrap();
            let has_come = self.batch.started.iter().any(|start| start.slot == step.slot);
            assert!(!is_drafting || sequence.is_decoding() || has_come, "drafts beside a prompt");
            let longest = sequence.prompt_len + sequence.max_tokens;
            assert!(step.first_position + step.num_tokens <= longest, "drafts beyond the end of an answer");
            assert!(sequence.block_table.len() <= longest.div_ceil(BLOCK_SIZE), "blocks beyond the end of an answer");
        }
    }

    fn check(&self) {
        self.scheduler.check_integrity().unwrap();
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
        self.live.retain(|&index| {
            let client = &mut clients[index];
            while let Some(event) = client.events.as_mut().and_then(|events| events.try_recv().ok()) {
                client.take(event, time);
                if client.leaves_after == Some(client.tokens.len()) && client.end.is_none() {
                    client.events = None;
                    client.end = Some(End::Left);
                }
            }
            client.end.is_none()
        });
    }

    /// What must hold when everything is over: the right tokens, one end each, the pool whole.
    pub fn check_ends(&self) {
        assert!(self.scheduler.is_idle());
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

impl Client {
    fn take(&mut self, event: TokenEvent, time: Duration) {
        assert!(self.end.is_none(), "an event after the last one");
        match event {
            TokenEvent::Started { cached_tokens, queue_wait } => {
                assert!(self.started.is_none(), "started twice");
                self.started = Some(self.submitted + queue_wait);
                self.cached_tokens = cached_tokens;
            }
            TokenEvent::Prompt(logprobs) => {
                assert!(!self.prompt_told && self.tokens.is_empty());
                assert_eq!(logprobs.len(), self.request.prompt.len());
                self.prompt_told = true;
            }
            TokenEvent::Token { id, .. } => {
                assert!(self.started.is_some());
                assert_eq!(self.prompt_told, self.request.prompt_logprobs.is_some());
                self.tokens.push(id);
                self.token_times.push(time);
            }
            TokenEvent::Finished { reason, usage } => self.end = Some(End::Finished(reason, usage)),
            TokenEvent::Failed(error) => self.end = Some(End::Failed(error)),
        }
    }

    pub fn time_to_first_token(&self) -> Duration {
        self.token_times[0].saturating_sub(self.submitted)
    }

    /// The longest time between two tokens within a span of time.
    pub fn worst_gap(&self, from: Duration, to: Duration) -> Duration {
        let gaps = self.token_times.windows(2).filter(|pair| pair[1] >= from && pair[0] <= to);
        gaps.map(|pair| pair[1].saturating_sub(pair[0])).max().unwrap_or_default()
    }
}
