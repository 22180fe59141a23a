//! One request inside the engine: its tokens, how far they are computed, its blocks, and the line to whoever asked.
//! Must not know what else runs.

use std::{sync::Arc, time::Instant};

use kernels::BLOCK_SIZE;
use tokio::sync::mpsc;

use super::{
    CacheScope, EngineError, EngineRequest, FinishReason, Standing, TokenEvent, TokenLogprob, TokenUsage,
    admission::Permit,
    batch::{SampledToken, SamplingSpec, SequenceStart},
    block_pool::BlockTable,
    draft::Drafter,
    prefix_cache::{Chain, NodeId, Prefix},
};

/// A request on its way to the scheduler.
#[derive(Debug)]
pub(super) struct Submission {
    /// In order of arrival, distinct.
    pub id: u64,
    pub request: EngineRequest,
    pub events: mpsc::UnboundedSender<TokenEvent>,
    pub submitted_at: Instant,
    pub permit: Permit,
}

/// A request that waits or runs.
///
/// Invariant: KV exists for `token_ids[..num_computed_tokens]`, in `block_table`; when the steps in flight are over, for
/// `num_scheduled_tokens` of the sequence's then `num_tokens()` tokens. Where none is in flight, nothing is pending and
/// computed and scheduled are the same.
#[derive(Debug)]
pub(super) struct Sequence {
    /// In order of arrival.
    pub id: u64,
    pub user: u64,
    pub weight: u32,
    pub priority: i32,
    /// Prompt and what was generated, as far as it is known.
    pub token_ids: Vec<u32>,
    pub prompt_len: usize,
    pub max_tokens: usize,
    pub num_computed_tokens: usize,
    /// What `num_computed_tokens` is when the steps in flight are over, drafts not looked at.
    pub num_scheduled_tokens: usize,
    /// Tokens behind `token_ids` that steps in flight sample.
    pub num_pending_tokens: usize,
    /// Most that `num_computed_tokens` has been; more than it after a preemption.
    pub high_water: usize,
    pub block_table: BlockTable,
    /// Leading entries of the block table that the executor knows.
    pub num_sent_blocks: usize,
    pub chain: Chain,
    /// Another sequence's block that this one waits for.
    pub awaits: Option<NodeId>,
    pub scope: CacheScope,
    pub spec: Arc<SamplingSpec>,
    pub drafter: Drafter,
    pub deadline: Option<Instant>,
    pub output: Output,
}

/// What a request has been told, and the line to tell it more.
#[derive(Debug)]
pub(super) struct Output {
    events: mpsc::UnboundedSender<TokenEvent>,
    permit: Permit,
    submitted_at: Instant,
    started_at: Option<Instant>,
    cached_tokens: usize,
    prompt_logprobs: Vec<Option<TokenLogprob>>,
}

impl Sequence {
    /// A sequence from its request; `seed` is for a request without one.
    pub fn new(submission: Submission, seed: u64) -> Self {
        let Submission { id, request, events, submitted_at, permit } = submission;
        let spec = SamplingSpec {
            seed: request.sampling.seed.unwrap_or(seed),
            params: request.sampling,
            min_tokens: request.min_tokens,
            stop_token_ids: request.stop_token_ids,
            prompt_logprobs: request.prompt_logprobs,
        };
        let prompt_len = request.prompt.len();
        let drafter = Drafter::new(prompt_len, prompt_len + request.max_tokens);
        Self {
            id,
            user: request.user,
            weight: request.weight.max(1),
            priority: request.priority,
            prompt_len,
            token_ids: request.prompt,
            max_tokens: request.max_tokens,
            num_computed_tokens: 0,
            num_scheduled_tokens: 0,
            num_pending_tokens: 0,
            high_water: 0,
            block_table: BlockTable::default(),
            num_sent_blocks: 0,
            chain: Chain::default(),
            awaits: None,
            scope: request.scope,
            spec: Arc::new(spec),
            drafter,
            deadline: request.deadline,
            output: Output {
                events,
                permit,
                submitted_at,
                started_at: None,
                cached_tokens: 0,
                prompt_logprobs: Vec::new(),
            },
        }
    }

    /// It is somebody else's now.
    pub fn pass(&mut self, to: Standing) {
        self.user = to.user;
        self.weight = to.weight.max(1);
        self.priority = to.priority;
        self.output.permit.pass(to.priority, to.user);
    }

    /// Tokens, those pending included.
    pub fn num_tokens(&self) -> usize {
        self.token_ids.len() + self.num_pending_tokens
    }

    /// Tokens to be scheduled: 1 while decoding, more inside a prompt or after a preemption, none where the answer's last
    /// token is pending: nothing is sampled after that, whatever it is.
    pub fn num_remaining(&self) -> usize {
        if self.num_sampled() >= self.max_tokens { 0 } else { self.num_tokens() - self.num_scheduled_tokens }
    }

    /// Whether one token is to be scheduled and it was sampled, or is pending: a running stream.
    pub fn is_decoding(&self) -> bool {
        self.num_remaining() == 1 && self.num_sampled() > 0
    }

    /// Tokens generated so far, those pending not included.
    pub fn num_generated(&self) -> usize {
        self.token_ids.len() - self.prompt_len
    }

    /// Tokens generated so far, those pending included.
    pub fn num_sampled(&self) -> usize {
        self.num_tokens() - self.prompt_len
    }

    /// Blocks that hold all tokens so far.
    pub fn num_blocks_needed(&self) -> usize {
        self.num_tokens().div_ceil(BLOCK_SIZE)
    }

    /// Whether the next token needs a block that the table lacks.
    pub fn needs_block(&self) -> bool {
        self.block_table.len() < self.num_blocks_needed()
    }

    /// Blocks that prefix hits may provide: at least one token is left to compute.
    pub fn max_hit_blocks(&self) -> usize {
        if self.wants_prompt_logprobs() { 0 } else { (self.token_ids.len() - 1) / BLOCK_SIZE }
    }

    /// Whether log-probabilities of the prompt are still to be told.
    pub fn wants_prompt_logprobs(&self) -> bool {
        self.spec.prompt_logprobs.is_some() && self.num_sampled() == 0
    }

    /// The tokens as the prefix cache sees them.
    pub fn prefix(&self) -> Prefix<'_> {
        Prefix { tokens: &self.token_ids, scope: self.scope }
    }

    /// What an executor is told about it.
    pub fn start(&self, slot: usize) -> SequenceStart {
        let tokens = self.token_ids.clone();
        SequenceStart { slot, spec: Arc::clone(&self.spec), tokens, prompt_len: self.prompt_len }
    }

    /// Whether nobody listens any more.
    pub fn is_cancelled(&self) -> bool {
        self.output.events.is_closed()
    }

    /// Whether its time is over.
    pub fn is_late(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }

    /// Appends a sampled token and tells it; `Some` if it is the last.
    pub fn append(&mut self, token: SampledToken) -> Option<FinishReason> {
        self.token_ids.push(token.id);
        if self.spec.stop_token_ids.contains(&token.id) {
            return Some(FinishReason::Stop);
        }
        self.output.send(TokenEvent::Token { id: token.id, logprob: token.logprob });
        (self.num_generated() >= self.max_tokens).then_some(FinishReason::Length)
    }

    /// Notes log-probabilities of prompt tokens, and tells them with the last chunk: no preemption brings that again.
    pub fn append_prompt_logprobs(&mut self, logprobs: impl Iterator<Item = TokenLogprob>, is_last: bool) {
        let known = &mut self.output.prompt_logprobs;
        if known.is_empty() {
            known.push(None);
        }
        known.extend(logprobs.map(Some));
        if is_last {
            let known = std::mem::take(known);
            self.output.send(TokenEvent::Prompt(known));
        }
    }

    /// Tells the last word and the usage.
    pub fn finish(&self, reason: FinishReason) {
        let usage = TokenUsage {
            prompt_tokens: self.prompt_len,
            cached_tokens: self.output.cached_tokens,
            completion_tokens: self.num_generated(),
        };
        self.output.send(TokenEvent::Finished { reason, usage });
    }

    /// Tells that it failed.
    pub fn fail(&self, error: EngineError) {
        self.output.send(TokenEvent::Failed(error));
    }
}

impl Output {
    fn send(&self, event: TokenEvent) {
        // A receiver that is gone is noticed by the scheduler before the next step.
        let _ = self.events.send(event);
    }

    /// The sequence runs, for the first time or again; `cached_tokens` came from the prefix cache. Whether it is the
    /// first time.
    pub fn start(&mut self, now: Instant, cached_tokens: usize) -> bool {
        let first = self.started_at.is_none();
        if first {
            self.started_at = Some(now);
            self.cached_tokens = cached_tokens;
            self.permit.start();
            let queue_wait = now.saturating_duration_since(self.submitted_at);
            self.send(TokenEvent::Started { queue_wait, cached_tokens });
        }
        first
    }

    /// When it first ran.
    pub fn started_at(&self) -> Option<Instant> {
        self.started_at
    }

    /// Forgets log-probabilities told by a run that was broken off.
    pub fn restart_prompt(&mut self) {
        self.prompt_logprobs.clear();
    }
}
