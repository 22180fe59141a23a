//! The step loop of the engine thread: schedule, execute, commit, encode. Owns scheduler, queue of the encoder and executor;
//! hears the world through one channel, and sleeps on it when there is nothing to do.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, TryRecvError},
    },
    time::Instant,
};

use super::{
    EngineError, EngineOptions, Executor,
    admission::Admission,
    batch::StepBatch,
    encoding::EncodeQueue,
    handle::{Command, Shared},
    scheduler::Scheduler,
};

/// Whether the loop goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Running,
    Draining,
    Stopping,
}

/// Runs until told to end, or until every handle is gone and all requests have ended.
///
/// # Panics
/// When the bookkeeping contradicts itself: going on would give one request another's tokens.
pub(super) fn run<E: Executor>(
    mut executor: E,
    options: EngineOptions,
    inbox: &Receiver<Command>,
    admission: &Arc<Admission>,
    shared: &Shared,
) {
    let mut scheduler = Scheduler::new(options);
    let mut encodings = EncodeQueue::default();
    let mut batch = StepBatch::default();
    let mut mode = Mode::Running;
    loop {
        mode = receive(&mut scheduler, &mut encodings, inbox, mode);
        if mode == Mode::Stopping {
            scheduler.fail_all(&EngineError::Stopped);
            encodings.clear();
        }
        if mode != Mode::Running && scheduler.is_idle() && encodings.is_empty() {
            shared.publish(scheduler.stats());
            return;
        }
        step(&mut scheduler, &mut executor, &mut batch);
        encodings.step(&mut executor);
        admission.set_start_interval(scheduler.start_interval());
        shared.publish(scheduler.stats());
    }
}

/// Takes everything that has arrived; waits for something when there is nothing to do.
fn receive(scheduler: &mut Scheduler, encodings: &mut EncodeQueue, inbox: &Receiver<Command>, mut mode: Mode) -> Mode {
    while mode != Mode::Stopping {
        let command = if scheduler.is_idle() && encodings.is_empty() && mode == Mode::Running {
            scheduler.check_integrity().unwrap_or_else(|error| panic!("the engine's books do not balance: {error}"));
            inbox.recv().map_err(|_| TryRecvError::Disconnected)
        } else {
            inbox.try_recv()
        };
        match command {
            Ok(Command::Submit(submission)) => scheduler.add(*submission),
            Ok(Command::TakeOver { request, standing }) => scheduler.take_over(request, standing),
            Ok(Command::Encode(encoding)) => encodings.add(encoding),
            Ok(Command::Drain) | Err(TryRecvError::Disconnected) if mode == Mode::Running => mode = Mode::Draining,
            Ok(Command::Drain) => {}
            Ok(Command::Stop) => mode = Mode::Stopping,
            Err(_) => break,
        }
    }
    mode
}

fn step<E: Executor>(scheduler: &mut Scheduler, executor: &mut E, batch: &mut StepBatch) {
    let started = Instant::now();
    scheduler.schedule(started, batch);
    if batch.sequences.is_empty() {
        assert!(scheduler.is_idle(), "requests wait and none can run");
        return;
    }
    match executor.submit(batch).and_then(|ticket| executor.collect(ticket)) {
        Ok(output) => {
            let now = Instant::now();
            scheduler.commit(batch, output, now - started, now);
        }
        Err(error) => {
            tracing::error!("a step of {} sequences failed: {error:#}", batch.sequences.len());
            scheduler.fail(batch, &format!("{error:#}"));
        }
    }
}
