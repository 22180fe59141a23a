//! The front of an engine: one or more replicas, each a thread with a whole copy of the model. Submitting requests, asking
//! how it is, stopping. Cheap to clone, usable from anywhere. Must not know how requests are scheduled.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::ensure;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use super::{
    EncodeError, EncoderShape, EngineOptions, EngineRequest, EngineState, EngineStats, Executor, Generation, Standing,
    SubmitError,
    admission::{Permit, QueuePlace},
    encoding::{Encoding, MAX_WAITING_TOKENS},
    prefix_cache::Prefix,
    replica::{Command, Replica},
    routing::Router,
    sequence::Submission,
};

/// Starts engines.
#[derive(Debug)]
pub struct Engine;

/// A running engine. Dropping the last handle lets it finish what it has and end.
#[derive(Debug, Clone)]
pub struct EngineHandle {
    options: Arc<EngineOptions>,
    replicas: Arc<[Replica]>,
    router: Arc<Router>,
    /// Tokens that may still be sent to the encoder.
    pub(super) encoder_room: Arc<Semaphore>,
    entrance: Arc<Entrance>,
    /// Of each replica.
    states: watch::Receiver<Vec<EngineState>>,
}

/// What all handles count together.
#[derive(Debug, Default)]
struct Entrance {
    closed: AtomicBool,
    num_submitted: AtomicU64,
}

impl Engine {
    /// Starts an engine of one thread. The executor is made inside it, which takes as long as loading a model does; this
    /// waits for it.
    ///
    /// # Errors
    /// When the options do not go together, or the executor cannot be made.
    pub fn start<E: Executor>(
        options: EngineOptions,
        make_executor: impl FnOnce() -> anyhow::Result<E> + Send + 'static,
    ) -> anyhow::Result<EngineHandle> {
        Self::start_replicas(options, vec![make_executor])
    }

    /// Starts an engine of a thread for each of `make_executors`, one after the other, each with `options` of its own. All
    /// executors have the same model; an encoder, if there is one, the first.
    ///
    /// # Errors
    /// When the options do not go together, there is nothing to start, or an executor cannot be made.
    pub fn start_replicas<E: Executor>(
        options: EngineOptions,
        make_executors: Vec<impl FnOnce() -> anyhow::Result<E> + Send + 'static>,
    ) -> anyhow::Result<EngineHandle> {
        options.validate()?;
        ensure!(!make_executors.is_empty(), "an engine has one replica at least");
        let (sender, states) = watch::channel(vec![EngineState::Running; make_executors.len()]);
        let start = |(index, make_executor)| Replica::start(options.clone(), make_executor, (sender.clone(), index));
        let replicas: Arc<[Replica]> = make_executors.into_iter().enumerate().map(start).collect::<Result<_, _>>()?;
        let cached_blocks = if options.prefix_cache { options.num_blocks } else { 0 };
        Ok(EngineHandle {
            router: Arc::new(Router::new(replicas.len(), cached_blocks)),
            options: Arc::new(options),
            replicas,
            encoder_room: Arc::new(Semaphore::new(MAX_WAITING_TOKENS)),
            entrance: Arc::default(),
            states,
        })
    }
}

impl EngineHandle {
    /// Takes a request in, at the replica that suits it best.
    ///
    /// # Errors
    /// When it can never run, when the queues of all replicas are full, or when the engine takes no requests.
    pub fn submit(&self, request: EngineRequest) -> Result<Generation, SubmitError> {
        self.check(&request)?;
        let blocks = self.router.blocks(Prefix { tokens: &request.prompt, scope: request.scope });
        let inside: Vec<usize> = self.replicas.iter().map(Replica::num_inside).collect();
        let mut retry_after = Duration::MAX;
        for index in self.router.order(&blocks, &inside) {
            match self.replicas[index].enter(request.priority, request.user) {
                Ok(place) => {
                    self.router.gave(index, &blocks);
                    return self.submit_to(index, place, request);
                }
                Err(wait) => retry_after = retry_after.min(wait),
            }
        }
        Err(SubmitError::QueueFull { retry_after })
    }

    /// Takes a request in once for each replica, whatever else they have: to see that all of them work.
    ///
    /// # Errors
    /// As [`submit`](Self::submit), when one queue is full.
    pub fn submit_to_each(&self, request: &EngineRequest) -> Result<Vec<Generation>, SubmitError> {
        self.check(request)?;
        let submit = |(index, replica): (usize, &Replica)| {
            let place = replica.enter(request.priority, request.user);
            let place = place.map_err(|retry_after| SubmitError::QueueFull { retry_after })?;
            self.submit_to(index, place, request.clone())
        };
        self.replicas.iter().enumerate().map(submit).collect()
    }

    fn submit_to(
        &self,
        index: usize,
        (permit, place): (Permit, QueuePlace),
        request: EngineRequest,
    ) -> Result<Generation, SubmitError> {
        let (sender, events) = mpsc::unbounded_channel();
        let number = self.entrance.num_submitted.fetch_add(1, Ordering::Relaxed) + 1;
        // Distinct among all replicas, and says which one has it.
        let id = number * self.replicas.len() as u64 + index as u64;
        let submission = Submission { id, request, events: sender, submitted_at: Instant::now(), permit };
        self.replicas[index].tell(Command::Submit(Box::new(submission)))?;
        Ok(Generation { id, queue_position: place.position, expected_wait: place.expected_wait, events, ended: false })
    }

    /// Gives a request, known by [`Generation::id`], to somebody else, in whose turn it is served from now on. Nothing
    /// happens where it has ended.
    pub fn take_over(&self, request: u64, standing: Standing) {
        let index = request % self.replicas.len() as u64;
        // With its thread every request has ended.
        let _ = self.replicas[index as usize].tell(Command::TakeOver { request, standing });
    }

    /// One vector of length 1 for each text, from the encoder. Dropping the future cancels.
    ///
    /// # Errors
    /// When there is no encoder, when a text does not fit it, when too much waits, or when it or the engine fails.
    pub async fn encode(&self, texts: Vec<Vec<u32>>) -> Result<Vec<Vec<f32>>, EncodeError> {
        self.encoder().ok_or(EncodeError::NoEncoder)?.check(&texts)?;
        if !self.is_open() {
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
        self.replicas[0].tell(command).map_err(|_| EncodeError::Stopped)?;
        answer.await.unwrap_or(Err(EncodeError::Stopped))
    }

    /// What the encoder takes, if there is one.
    pub fn encoder(&self) -> Option<EncoderShape> {
        self.replicas[0].encoder()
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
        if let Some(id) = request.prompt.iter().find(|&&id| id as usize >= self.options.vocab_size) {
            let size = self.options.vocab_size;
            return Err(SubmitError::Invalid(format!("token {id} is not in the vocabulary of {size} tokens")));
        }
        if self.is_open() { Ok(()) } else { Err(SubmitError::Closed) }
    }

    /// Whether requests are taken: they are not while draining, nor when a replica has ended.
    fn is_open(&self) -> bool {
        !self.is_draining() && self.states.borrow().iter().all(|state| *state == EngineState::Running)
    }

    /// What each replica was started with.
    pub fn options(&self) -> &EngineOptions {
        &self.options
    }

    /// Replicas, each a whole copy of the model.
    pub fn num_replicas(&self) -> usize {
        self.replicas.len()
    }

    /// Figures after the last steps, of all replicas together.
    pub fn stats(&self) -> EngineStats {
        self.replicas.iter().map(Replica::stats).sum()
    }

    /// Whether it takes no more requests.
    pub fn is_draining(&self) -> bool {
        self.entrance.closed.load(Ordering::Acquire)
    }

    /// Takes no more requests; those inside go on.
    pub fn drain(&self) {
        self.entrance.closed.store(true, Ordering::Release);
    }

    /// Takes no more requests, waits up to `grace` for those inside, then ends the rest with
    /// [`EngineError::Stopped`](super::EngineError); at once where a replica has failed. Returns when all threads are done,
    /// with the last state.
    pub async fn shutdown(&self, grace: Duration) -> EngineState {
        self.drain();
        self.tell_all(|| Command::Drain);
        let _ = tokio::time::timeout(grace, self.ended()).await;
        self.tell_all(|| Command::Stop);
        self.wait_for(|states| !states.contains(&EngineState::Running)).await
    }

    fn tell_all(&self, command: impl Fn() -> Command) {
        for replica in self.replicas.iter() {
            // A thread that is gone hears nothing; its state says so.
            let _ = replica.tell(command());
        }
    }

    /// Whether it lives. One replica that has failed fails it.
    pub fn state(&self) -> EngineState {
        EngineState::of(&self.states.borrow())
    }

    /// Waits until it has ended: all threads as they were told, or one by a panic or for good.
    pub async fn ended(&self) -> EngineState {
        self.wait_for(|states| EngineState::of(states) != EngineState::Running).await
    }

    async fn wait_for(&self, condition: impl Fn(&[EngineState]) -> bool) -> EngineState {
        match self.states.clone().wait_for(|states| condition(states)).await {
            Ok(states) => EngineState::of(&states),
            Err(_) => EngineState::Failed("the engine thread has vanished".to_owned()),
        }
    }

    /// Waits until it has failed, and says why. Waits for ever if it never does.
    pub async fn failed(&self) -> String {
        match self.ended().await {
            EngineState::Failed(message) => message,
            _ => std::future::pending().await,
        }
    }
}
