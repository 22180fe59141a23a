//! The outside of an engine: starting its thread, submitting requests, stopping. Cheap to clone, usable from anywhere.
//! Must not know how requests are scheduled.

use std::{
    panic::{self, AssertUnwindSafe},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc as std_mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use super::{
    EncodeError, EncoderShape, EngineOptions, EngineRequest, Executor, Generation, Standing, SubmitError,
    admission::Admission,
    core,
    encoding::{Encoding, MAX_WAITING_TOKENS},
    sequence::Submission,
};

/// Starts engines.
#[derive(Debug)]
pub struct Engine;

/// A running engine. Dropping the last handle lets it finish what it has and end.
#[derive(Debug, Clone)]
pub struct EngineHandle {
    options: Arc<EngineOptions>,
    admission: Arc<Admission>,
    encoder: Option<EncoderShape>,
    /// Tokens that may still be sent to the encoder.
    pub(super) encoder_room: Arc<Semaphore>,
    shared: Arc<Shared>,
    commands: std_mpsc::Sender<Command>,
    state: watch::Receiver<EngineState>,
}

/// What the engine thread is told.
#[derive(Debug)]
pub(super) enum Command {
    /// A request.
    Submit(Box<Submission>),
    /// A request is somebody else's now.
    TakeOver { request: u64, standing: Standing },
    /// Texts for the encoder.
    Encode(Encoding),
    /// End when everything inside has.
    Drain,
    /// End now.
    Stop,
}

/// What handles and the engine thread share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    closed: AtomicBool,
    num_submitted: AtomicU64,
    stats: Mutex<EngineStats>,
}

/// Whether the engine thread lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineState {
    /// It does.
    Running,
    /// It was told to end, and has.
    Stopped,
    /// It has panicked, or its executor has failed for good; the message.
    Failed(String),
}

/// A snapshot after the last step. Totals count since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EngineStats {
    /// Sequences that run.
    pub running: usize,
    /// Requests that wait.
    pub waiting: usize,
    /// Blocks of the KV pool.
    pub kv_blocks: usize,
    /// Blocks that running sequences own.
    pub kv_blocks_used: usize,
    /// Unowned blocks kept for their contents.
    pub kv_blocks_cached: usize,
    /// Prompt tokens looked for in the prefix cache.
    pub prefix_queries: u64,
    /// Of these, tokens found.
    pub prefix_hits: u64,
    /// Running sequences sent back to the queue.
    pub preemptions: u64,
    /// Steps.
    pub steps: u64,
    /// Steps that failed.
    pub failed_steps: u64,
    /// Tokens computed, less drafts that were wrong.
    pub computed_tokens: u64,
    /// Of these, tokens computed before and given up by a preemption.
    pub recomputed_tokens: u64,
    /// Prompt tokens of requests that have started.
    pub prompt_tokens: u64,
    /// Tokens generated.
    pub generation_tokens: u64,
    /// Tokens drafted.
    pub drafted_tokens: u64,
    /// Of these, tokens that were right.
    pub accepted_tokens: u64,
}

impl EngineStats {
    /// Share of the KV pool that running sequences own, 0 to 1.
    pub fn kv_usage(&self) -> f64 {
        self.kv_blocks_used as f64 / self.kv_blocks.max(1) as f64
    }
}

impl Engine {
    /// Starts an engine thread. The executor is made inside it, which takes as long as loading a model does; this waits
    /// for it.
    ///
    /// # Errors
    /// When the options do not go together, or the executor cannot be made.
    pub fn start<E: Executor>(
        options: EngineOptions,
        make_executor: impl FnOnce() -> anyhow::Result<E> + Send + 'static,
    ) -> anyhow::Result<EngineHandle> {
        options.validate()?;
        let (commands, inbox) = std_mpsc::channel();
        let (made, is_made) = std_mpsc::channel();
        let (state_sender, state) = watch::channel(EngineState::Running);
        let admission = Admission::new(options.max_sequences, options.queue_capacity);
        let shared = Arc::new(Shared::default());
        let mut handle = EngineHandle {
            options: Arc::new(options.clone()),
            admission: Arc::clone(&admission),
            encoder: None,
            encoder_room: Arc::new(Semaphore::new(MAX_WAITING_TOKENS)),
            shared: Arc::clone(&shared),
            commands,
            state,
        };
        let body = move || {
            let executor = make_executor()?;
            // Nobody listens only if the starting thread is gone.
            let _ = made.send(executor.encoder());
            core::run(executor, options, &inbox, &admission, &shared)
        };
        let supervised = move || {
            // Requests inside are dropped by the unwinding, which their receivers notice.
            let state = match panic::catch_unwind(AssertUnwindSafe(body)) {
                Ok(Ok(())) => EngineState::Stopped,
                Ok(Err(error)) => EngineState::Failed(format!("{error:#}")),
                Err(panic) => EngineState::Failed(panic_message(panic.as_ref())),
            };
            state_sender.send_replace(state);
        };
        let thread = thread::Builder::new().name("engine".into()).spawn(supervised).context("cannot start a thread")?;
        let Ok(encoder) = is_made.recv() else {
            let _ = thread.join();
            return match &*handle.state.borrow() {
                EngineState::Failed(message) => Err(anyhow!("{message}")),
                _ => Err(anyhow!("the engine ended before it began")),
            };
        };
        handle.encoder = encoder;
        Ok(handle)
    }
}

impl EngineHandle {
    /// Takes a request in.
    ///
    /// # Errors
    /// When it can never run, when the queue is full, or when the engine takes no requests.
    pub fn submit(&self, request: EngineRequest) -> Result<Generation, SubmitError> {
        self.check(&request)?;
        if self.shared.closed.load(Ordering::Acquire) {
            return Err(SubmitError::Closed);
        }
        let entered = self.admission.enter(request.priority, request.user);
        let (permit, place) = entered.map_err(|retry_after| SubmitError::QueueFull { retry_after })?;
        let (sender, events) = mpsc::unbounded_channel();
        let id = self.shared.num_submitted.fetch_add(1, Ordering::Relaxed) + 1;
        let submission = Submission { id, request, events: sender, submitted_at: Instant::now(), permit };
        self.commands.send(Command::Submit(Box::new(submission))).map_err(|_| SubmitError::Closed)?;
        Ok(Generation { id, queue_position: place.position, expected_wait: place.expected_wait, events, ended: false })
    }

    /// Gives a request, known by [`Generation::id`], to somebody else, in whose turn it is served from now on. Nothing
    /// happens where it has ended.
    pub fn take_over(&self, request: u64, standing: Standing) {
        // With the engine every request has ended.
        let _ = self.commands.send(Command::TakeOver { request, standing });
    }

    /// One vector of length 1 for each text, from the encoder. Dropping the future cancels.
    ///
    /// # Errors
    /// When there is no encoder, when a text does not fit it, when too much waits, or when it or the engine fails.
    pub async fn encode(&self, texts: Vec<Vec<u32>>) -> Result<Vec<Vec<f32>>, EncodeError> {
        self.encoder.ok_or(EncodeError::NoEncoder)?.check(&texts)?;
        if self.shared.closed.load(Ordering::Acquire) {
            return Err(EncodeError::Stopped);
        }
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        let tokens = texts.iter().map(Vec::len).sum::<usize>();
        if tokens > MAX_WAITING_TOKENS {
            let message =
                format!("the texts have {tokens} tokens in all, at most {MAX_WAITING_TOKENS} are taken at once");
            return Err(EncodeError::Invalid(message));
        }
        let room = Arc::clone(&self.encoder_room).try_acquire_many_owned(tokens as u32);
        let permit = room.map_err(|_| EncodeError::Busy)?;
        let (reply, answer) = oneshot::channel();
        let command = Command::Encode(Encoding { texts, reply, permit });
        self.commands.send(command).map_err(|_| EncodeError::Stopped)?;
        answer.await.unwrap_or(Err(EncodeError::Stopped))
    }

    /// What the encoder takes, if there is one.
    pub fn encoder(&self) -> Option<EncoderShape> {
        self.encoder
    }

    fn check(&self, request: &EngineRequest) -> Result<(), SubmitError> {
        let invalid = |message: &str| Err(SubmitError::Invalid(message.to_owned()));
        if request.prompt.is_empty() {
            return invalid("the prompt has no tokens");
        }
        if request.max_tokens == 0 {
            return invalid("at least one token must be generated");
        }
        let needed = request.prompt.len().saturating_add(request.max_tokens);
        let limit = self.options.max_sequence_tokens();
        if needed > limit {
            return Err(SubmitError::TooLong { needed, limit });
        }
        match request.prompt.iter().find(|&&id| id as usize >= self.options.vocab_size) {
            Some(id) => Err(SubmitError::Invalid(format!(
                "token {id} is not in the vocabulary of {} tokens",
                self.options.vocab_size
            ))),
            None => Ok(()),
        }
    }

    /// What the engine was started with.
    pub fn options(&self) -> &EngineOptions {
        &self.options
    }

    /// Figures after the last step.
    pub fn stats(&self) -> EngineStats {
        let stats = *self.shared.stats.lock().unwrap_or_else(PoisonError::into_inner);
        EngineStats { waiting: self.admission.num_waiting().max(stats.waiting), ..stats }
    }

    /// Whether it takes no more requests.
    pub fn is_draining(&self) -> bool {
        self.shared.closed.load(Ordering::Acquire)
    }

    /// Takes no more requests; those inside go on.
    pub fn drain(&self) {
        self.shared.closed.store(true, Ordering::Release);
    }

    /// Takes no more requests, waits up to `grace` for those inside, then ends the rest with
    /// [`EngineError::Stopped`](super::EngineError). Returns when the engine thread is done, with its last state.
    pub async fn shutdown(&self, grace: Duration) -> EngineState {
        self.drain();
        // A thread that is gone hears nothing; its state says so.
        let _ = self.commands.send(Command::Drain);
        if let Ok(state) = tokio::time::timeout(grace, self.ended()).await {
            return state;
        }
        let _ = self.commands.send(Command::Stop);
        self.ended().await
    }

    /// Whether the engine thread lives.
    pub fn state(&self) -> EngineState {
        self.state.borrow().clone()
    }

    /// Waits until the engine thread has ended: told to, or by a panic.
    pub async fn ended(&self) -> EngineState {
        let mut state = self.state.clone();
        match state.wait_for(|state| *state != EngineState::Running).await {
            Ok(state) => state.clone(),
            Err(_) => EngineState::Failed("the engine thread has vanished".to_owned()),
        }
    }

    /// Waits until the engine thread has failed, and says why. Waits for ever if it never does.
    pub async fn failed(&self) -> String {
        match self.ended().await {
            EngineState::Failed(message) => message,
            _ => std::future::pending().await,
        }
    }
}

impl Shared {
    /// Publishes a snapshot.
    pub fn publish(&self, stats: EngineStats) {
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner) = stats;
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("the engine thread has panicked").to_owned()
}
