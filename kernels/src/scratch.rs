//! Working memory of the compute threads, kept between operations so that a step allocates nothing of size.

use std::sync::{Mutex, TryLockError};

use crate::lines::{Line, f32s_mut};

/// One growing buffer per compute thread.
#[derive(Debug)]
pub(crate) struct Scratch {
    threads: Vec<Mutex<Buffer>>,
}

/// f32 memory that starts on a cache line and keeps its size between uses.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    lines: Vec<Line>,
}

impl Buffer {
    /// The first `len` elements; what they hold is left from earlier uses.
    pub fn get(&mut self, len: usize) -> &mut [f32] {
        let lines = len.div_ceil(Line::F32S);
        if self.lines.len() < lines {
            self.lines.resize(lines, Line::ZERO);
        }
        &mut f32s_mut(&mut self.lines)[..len]
    }
}

impl Scratch {
    pub fn new(threads: usize) -> Self {
        Self { threads: (0..threads).map(|_| Mutex::default()).collect() }
    }

    /// Lends `thread` its buffer. A thread that works on its own beside the pool's job gets a fresh one.
    pub fn with<R>(&self, thread: usize, task: impl FnOnce(&mut Buffer) -> R) -> R {
        match self.threads[thread].try_lock() {
            Ok(mut buffer) => task(&mut buffer),
            Err(TryLockError::Poisoned(buffer)) => task(&mut buffer.into_inner()),
            Err(TryLockError::WouldBlock) => task(&mut Buffer::default()),
        }
    }
}
