//! The outside of one engine thread: starting it, telling it things, the door to it. An engine has one for each whole copy
//! of the model. Must not know how requests are scheduled, nor that there are other replicas.

use std::{
    panic::{self, AssertUnwindSafe},
    sync::{
        Arc,
        mpsc::{self, RecvError},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, anyhow};
use tokio::sync::watch;

use super::{
    EncoderShape, EngineOptions, EngineState, EngineStats, Executor, Standing, SubmitError,
    admission::{Admission, Permit, QueuePlace},
    core,
    encoding::Encoding,
    sequence::Submission,
    status::LatestStats,
};

/// What an engine thread is told.
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

/// One engine thread, from outside. Dropping it lets the thread finish what it has and end.
#[derive(Debug)]
pub(super) struct Replica {
    commands: mpsc::Sender<Command>,
    admission: Arc<Admission>,
    stats: Arc<LatestStats>,
    encoder: Option<EncoderShape>,
}

impl Replica {
    /// Starts the thread and waits until it has made its executor. What becomes of it is told in `states`, at `index`.
    ///
    /// # Errors
    /// When the executor cannot be made.
    pub fn start<E: Executor>(
        options: EngineOptions,
        make_executor: impl FnOnce() -> anyhow::Result<E> + Send + 'static,
        (states, index): (watch::Sender<Vec<EngineState>>, usize),
    ) -> anyhow::Result<Self> {
        let (commands, inbox) = mpsc::channel();
        let (made, is_made) = mpsc::channel();
        let admission = Admission::new(options.max_sequences, options.queue_capacity);
        let stats = Arc::new(LatestStats::default());
        let body = {
            let (admission, stats) = (Arc::clone(&admission), Arc::clone(&stats));
            move || {
                let executor = make_executor()?;
                // Nobody listens only if the starting thread is gone.
                let _ = made.send(executor.encoder());
                core::run(executor, options, &inbox, &admission, &stats)
            }
        };
        let supervised = move || {
            // Requests inside are dropped by the unwinding, which their receivers notice.
            let ended = panic::catch_unwind(AssertUnwindSafe(body));
            let result = ended.unwrap_or_else(|panic| Err(anyhow!(panic_message(panic.as_ref()))));
            let state = match &result {
                Ok(()) => EngineState::Stopped,
                Err(error) => EngineState::Failed(format!("{error:#}")),
            };
            states.send_modify(|states| states[index] = state);
            result
        };
        let thread = thread::Builder::new().name("engine".into()).spawn(supervised).context("cannot start a thread")?;
        match is_made.recv() {
            Ok(encoder) => Ok(Self { commands, admission, stats, encoder }),
            Err(RecvError) => match thread.join() {
                Ok(Err(error)) => Err(error),
                _ => Err(anyhow!("the engine ended before it began")),
            },
        }
    }

    /// What its encoder takes, if it has one.
    pub fn encoder(&self) -> Option<EncoderShape> {
        self.encoder
    }

    /// A place inside for a request of this user and priority, or the wait that it would have had.
    pub fn enter(&self, priority: i32, user: u64) -> Result<(Permit, QueuePlace), Duration> {
        self.admission.enter(priority, user)
    }

    /// Requests that run or wait.
    pub fn num_inside(&self) -> usize {
        self.admission.num_inside()
    }

    /// Tells the thread something.
    ///
    /// # Errors
    /// When it has ended, and everything inside with it.
    pub fn tell(&self, command: Command) -> Result<(), SubmitError> {
        self.commands.send(command).map_err(|_| SubmitError::Closed)
    }

    /// Figures after the last step.
    pub fn stats(&self) -> EngineStats {
        let stats = self.stats.get();
        EngineStats { waiting: self.admission.num_waiting().max(stats.waiting), ..stats }
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("the engine thread has panicked").to_owned()
}
