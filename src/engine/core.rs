//! The step loop of the engine thread: schedule, submit, collect, commit, encode. Owns scheduler, steps in flight, queue of
//! the encoder and executor; hears the world through one channel, and sleeps on it when there is nothing to do.
//!
//! Where the executor takes two steps, the next one is scheduled and submitted before the last one is collected, and
//! everything that the host does for either is done while the device computes the other.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, TryRecvError},
    },
    time::Instant,
};

use anyhow::bail;

use super::{
    EngineError, EngineOptions, Executor,
    admission::Admission,
    encoding::EncodeQueue,
    pipeline::{CollectedStep, Pipeline},
    replica::Command,
    scheduler::Scheduler,
    status::LatestStats,
};

/// Whether the loop goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Running,
    Draining,
    Stopping,
}

struct StepLoop<E: Executor> {
    scheduler: Scheduler,
    encodings: EncodeQueue,
    pipeline: Pipeline<E::Ticket>,
    executor: E,
    /// Why no step can be expected to succeed any more.
    fatal: Option<String>,
}

/// Runs until told to end, or until every handle is gone and all requests have ended.
///
/// # Errors
/// When the executor has failed for good.
///
/// # Panics
/// When the bookkeeping contradicts itself: going on would give one request another's tokens.
pub(super) fn run<E: Executor>(
    executor: E,
    options: EngineOptions,
    inbox: &Receiver<Command>,
    admission: &Arc<Admission>,
    stats: &LatestStats,
) -> anyhow::Result<()> {
    let mut engine = StepLoop {
        scheduler: Scheduler::new(options),
        encodings: EncodeQueue::default(),
        pipeline: Pipeline::new(executor.max_steps_in_flight()),
        executor,
        fatal: None,
    };
    let mut mode = Mode::Running;
    loop {
        mode = engine.receive(inbox, mode);
        if mode == Mode::Stopping {
            engine.scheduler.fail_all(&EngineError::Stopped);
            engine.encodings.clear();
        }
        if mode != Mode::Running && engine.is_idle() {
            stats.publish(engine.scheduler.stats());
            return Ok(());
        }
        engine.step();
        if let Some(message) = engine.fatal {
            engine.scheduler.fail_all(&EngineError::Step(message.clone()));
            engine.encodings.clear();
            stats.publish(engine.scheduler.stats());
            bail!("{message}");
        }
        engine.encodings.step(&mut engine.executor);
        admission.set_start_interval(engine.scheduler.start_interval());
        stats.publish(engine.scheduler.stats());
    }
}

impl<E: Executor> StepLoop<E> {
    /// Whether there is nothing to do. A step in flight is waited for even if all its requests have left.
    fn is_idle(&self) -> bool {
        self.scheduler.is_idle() && self.pipeline.is_empty() && self.encodings.is_empty()
    }

    /// Takes everything that has arrived; waits for something when there is nothing to do.
    fn receive(&mut self, inbox: &Receiver<Command>, mut mode: Mode) -> Mode {
        while mode != Mode::Stopping {
            let command = if self.is_idle() && mode == Mode::Running {
                let balance = self.scheduler.check_integrity();
                balance.unwrap_or_else(|error| panic!("the engine's books do not balance: {error}"));
                inbox.recv().map_err(|_| TryRecvError::Disconnected)
            } else {
                inbox.try_recv()
            };
            match command {
                Ok(Command::Submit(submission)) => self.scheduler.add(*submission),
                Ok(Command::TakeOver { request, standing }) => self.scheduler.take_over(request, standing),
                Ok(Command::Encode(encoding)) => self.encodings.add(encoding),
                Ok(Command::Drain) | Err(TryRecvError::Disconnected) if mode == Mode::Running => mode = Mode::Draining,
                Ok(Command::Drain) => {}
                Ok(Command::Stop) => mode = Mode::Stopping,
                Err(_) => break,
            }
        }
        mode
    }

    /// Submits a step if one can run and may be in flight. Then waits for the oldest one, unless the device would be left
    /// without a step meanwhile and there is room for another: that one is scheduled first.
    fn step(&mut self) {
        if self.pipeline.has_room() && self.submit() && self.pipeline.has_room() {
            return;
        }
        match self.pipeline.collect(&mut self.executor, Instant::now) {
            Some(step) => self.commit(step),
            None => assert!(self.scheduler.is_idle(), "requests wait and none can run"),
        }
    }

    /// Whether there was a step to submit.
    fn submit(&mut self) -> bool {
        let started = Instant::now();
        let mut batch = self.pipeline.spare_batch();
        self.scheduler.schedule(started, &mut batch);
        if batch.sequences.is_empty() {
            self.pipeline.recycle(batch);
            return false;
        }
        self.pipeline.submit(&mut self.executor, batch, started);
        true
    }

    fn commit(&mut self, step: CollectedStep) {
        let CollectedStep { batch, output, elapsed, collected_at } = step;
        match output {
            Ok(output) => self.scheduler.commit(&batch, output, elapsed, collected_at),
            Err(error) => {
                let message = format!("{error:#}");
                tracing::error!("a step of {} sequences failed: {message}", batch.sequences.len());
                self.scheduler.fail(&batch, &message);
                self.fatal = self.executor.is_fatal(&error).then_some(message);
            }
        }
        self.pipeline.recycle(batch);
    }
}
