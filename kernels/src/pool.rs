//! A persistent fork-join pool: one job at a time, its indices handed out through an atomic counter, the calling thread
//! taking part. Threads that wait spin for a moment, then sleep, so that an idle server uses no CPU.
//! Must not know what a job computes.

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::{Builder, JoinHandle, yield_now};
use std::time::{Duration, Instant};

/// How long a thread without work spins before it sleeps: longer than the gaps between the operations of a step.
const SPIN: Duration = Duration::from_micros(80);
/// Spins between two looks at the clock, each followed by a yield in case the machine has other work.
const SPINS_PER_YIELD: usize = 64;
/// Chunks that each thread should get of a job, so that a slow thread holds nobody up for long.
const CHUNKS_PER_THREAD: usize = 8;

/// The pool's threads; dropping it ends and joins them.
#[derive(Debug)]
pub(crate) struct Pool {
    shared: Arc<Shared>,
    submit: Mutex<()>,
    workers: Vec<JoinHandle<()>>,
}

/// [`Shared::state`] is `epoch << 32 | flags | members`: members are the workers inside the current job.
const MEMBERS: u64 = 0xffff;
const OPEN: u64 = 1 << 16;
const STOP: u64 = 1 << 17;
const EPOCH: u64 = 1 << 32;

#[derive(Debug)]
struct Shared {
    state: Padded<AtomicU64>,
    next: Padded<AtomicUsize>,
    /// Invariant: written only by the submitting thread while the job is closed and has no members.
    job: UnsafeCell<Job>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    sleepers: AtomicUsize,
    sleep: Mutex<()>,
    wake: Condvar,
}

// SAFETY: `job` is the only field that is not `Sync`; its invariant makes reads and writes of it exclusive.
unsafe impl Sync for Shared {}
// SAFETY: the pointer in `job` is only followed while the submitting thread keeps its target alive.
unsafe impl Send for Shared {}

/// A value on a cache line of its own.
#[derive(Debug)]
#[repr(align(128))]
struct Padded<T>(T);

/// A borrowed closure without its type.
#[derive(Debug, Clone, Copy)]
struct Job {
    task: *const (),
    /// Calls the closure behind `task` with a thread's number and an index.
    call: unsafe fn(*const (), usize, usize),
    count: usize,
    chunk: usize,
}

impl Pool {
    /// A pool of `threads` threads, the calling one included.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        let idle = Job { task: std::ptr::null(), call: |_, _, _| {}, count: 0, chunk: 1 };
        let shared = Arc::new(Shared {
            state: Padded(AtomicU64::new(0)),
            next: Padded(AtomicUsize::new(0)),
            job: UnsafeCell::new(idle),
            panic: Mutex::new(None),
            sleepers: AtomicUsize::new(0),
            sleep: Mutex::new(()),
            wake: Condvar::new(),
        });
        let mut pool = Self { shared, submit: Mutex::new(()), workers: Vec::new() };
        for thread in 1..threads.min(MEMBERS as usize) {
            let shared = pool.shared.clone();
            pool.workers.push(Builder::new().name(format!("compute-{thread}")).spawn(move || shared.work(thread))?);
        }
        Ok(pool)
    }

    /// Threads that compute, the calling one included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `task(thread, i)` for every `i` in `0..count`; `thread` is below [`Pool::threads`], and 0 is the caller.
    /// A panic is raised again here once every started task has ended; tasks not started by then are left out.
    ///
    /// Called from inside a task, or while another thread's job runs, it does all the work on the calling thread.
    pub fn run<F: Fn(usize, usize) + Sync>(&self, count: usize, task: &F) {
        if count <= 1 || self.workers.is_empty() {
            return (0..count).for_each(|i| task(0, i));
        }
        let turn = match self.submit.try_lock() {
            Ok(turn) => turn,
            Err(TryLockError::Poisoned(turn)) => turn.into_inner(),
            Err(TryLockError::WouldBlock) => return (0..count).for_each(|i| task(0, i)),
        };
        let chunk = (count / (self.threads() * CHUNKS_PER_THREAD)).max(1);
        let job = Job { task: std::ptr::from_ref(task).cast(), call: call_task::<F>, count, chunk };
        let panic = self.shared.run(job);
        drop(turn);
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.state.0.fetch_or(STOP, Ordering::SeqCst);
        self.shared.wake_sleepers();
        for worker in self.workers.drain(..) {
            // A worker catches its tasks' panics, so it has none of its own to report.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// Opens the job, takes part, closes it and waits for its members. The caller holds the only turn to submit.
    fn run(&self, job: Job) -> Option<Box<dyn Any + Send>> {
        // SAFETY: the last job is closed and without members (this function waits for that), so nobody reads it.
        unsafe { *self.job.get() = job };
        self.next.0.store(0, Ordering::Relaxed);
        let epoch = (self.state.0.load(Ordering::Relaxed) & !(EPOCH - 1)).wrapping_add(EPOCH);
        self.state.0.store(epoch | OPEN, Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            self.wake_sleepers();
        }
        self.take_part(job, 0);
        self.state.0.fetch_and(!OPEN, Ordering::AcqRel);
        while self.state.0.load(Ordering::Acquire) & MEMBERS != 0 {
            for _ in 0..SPINS_PER_YIELD {
                if self.state.0.load(Ordering::Acquire) & MEMBERS == 0 {
                    break;
                }
                std::hint::spin_loop();
            }
            if self.state.0.load(Ordering::Acquire) & MEMBERS != 0 {
                yield_now();
            }
        }
        lock(&self.panic).take()
    }

    /// Runs chunks of the job until none is left.
    fn take_part(&self, job: Job, thread: usize) {
        let chunks = AssertUnwindSafe(|| {
            loop {
                let start = self.next.0.fetch_add(job.chunk, Ordering::Relaxed);
                if start >= job.count {
                    break;
                }
                for i in start..(start + job.chunk).min(job.count) {
                    // SAFETY: the submitting thread keeps the closure alive until the job has no members.
                    unsafe { (job.call)(job.task, thread, i) };
                }
            }
        });
        if let Err(payload) = catch_unwind(chunks) {
            self.next.0.fetch_max(job.count, Ordering::Relaxed);
            lock(&self.panic).get_or_insert(payload);
        }
    }

    /// The life of a worker.
    fn work(&self, thread: usize) {
        let mut seen = 0;
        loop {
            let state = self.wait_for_job(seen);
            if state & STOP != 0 {
                return;
            }
            seen = state & !(EPOCH - 1);
            // Joins unless the job was closed meanwhile.
            let join = |now: u64| (now & !(EPOCH - 1) == seen && now & OPEN != 0).then(|| now + 1);
            if self.state.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, join).is_ok() {
                // SAFETY: as a member of the open job this thread reads what the submitting thread wrote before opening.
                let job = unsafe { *self.job.get() };
                self.take_part(job, thread);
                self.state.0.fetch_sub(1, Ordering::Release);
            }
        }
    }

    /// Spins, then sleeps, until a job other than `seen` is open or the pool ends.
    fn wait_for_job(&self, seen: u64) -> u64 {
        let ready = |state: u64| state & STOP != 0 || (state & OPEN != 0 && state & !(EPOCH - 1) != seen);
        let start = Instant::now();
        while start.elapsed() < SPIN {
            for _ in 0..SPINS_PER_YIELD {
                let state = self.state.0.load(Ordering::Acquire);
                if ready(state) {
                    return state;
                }
                std::hint::spin_loop();
            }
            yield_now();
        }
        let mut guard = lock(&self.sleep);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let state = loop {
            let state = self.state.0.load(Ordering::SeqCst);
            if ready(state) {
                break state;
            }
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        };
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
        state
    }

    /// Wakes every thread that sleeps, or is about to and has not looked at the state since it changed.
    fn wake_sleepers(&self) {
        drop(lock(&self.sleep));
        self.wake.notify_all();
    }
}

/// [`Job::call`] of a closure of type `F`.
///
/// # Safety
/// `task` must have been made from an `&F` that is still borrowed.
unsafe fn call_task<F: Fn(usize, usize)>(task: *const (), thread: usize, i: usize) {
    // SAFETY: the caller's promise.
    unsafe { (*task.cast::<F>())(thread, i) }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn every_index_runs_exactly_once() {
        for threads in [1, 2, 3, 8] {
            let pool = Pool::new(threads).unwrap();
            for round in 0..2000 {
                let count = fastrand::usize(0..70);
                let hits: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
                pool.run(count, &|thread, i| {
                    assert!(thread < threads);
                    hits[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(hits.iter().all(|hit| hit.load(Ordering::Relaxed) == 1), "round {round} of {count}");
            }
        }
    }

    #[test]
    fn threads_share_a_long_job() {
        let pool = Pool::new(4).unwrap();
        let used: Vec<AtomicUsize> = (0..4).map(|_| AtomicUsize::new(0)).collect();
        pool.run(64, &|thread, _| {
            used[thread].fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(1));
        });
        assert!(used.iter().all(|tasks| tasks.load(Ordering::Relaxed) > 0), "{used:?}");
    }

    #[test]
    fn nested_and_concurrent_calls_finish() {
        let pool = Pool::new(3).unwrap();
        let total = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        pool.run(10, &|_, _| {
                            pool.run(5, &|_, _| {
                                total.fetch_add(1, Ordering::Relaxed);
                            });
                        });
                    }
                });
            }
        });
        assert_eq!(total.into_inner(), 4 * 200 * 50);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(3).unwrap();
        for round in 0..50 {
            let running = AtomicUsize::new(0);
            let result = catch_unwind(AssertUnwindSafe(|| {
                pool.run(32, &|_, i| {
                    running.fetch_add(1, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_micros(20));
                    running.fetch_sub(1, Ordering::SeqCst);
                    assert!(i != round % 32, "task {i}");
                });
            }));
            let payload = result.unwrap_err();
            assert_eq!(payload.downcast_ref::<String>().map(String::as_str), Some(&*format!("task {}", round % 32)));
            assert_eq!(running.load(Ordering::SeqCst), 0, "a task outlived the job");
        }
        let sum = AtomicUsize::new(0);
        pool.run(100, &|_, i| {
            sum.fetch_add(i, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 4950);
    }

    #[test]
    fn an_idle_pool_sleeps_and_wakes() {
        let pool = Pool::new(4).unwrap();
        for _ in 0..20 {
            let deadline = Instant::now() + Duration::from_secs(10);
            while pool.shared.sleepers.load(Ordering::SeqCst) != 3 {
                assert!(Instant::now() < deadline, "the threads never sleep");
                std::thread::sleep(Duration::from_millis(1));
            }
            let hits = AtomicUsize::new(0);
            pool.run(50, &|_, _| {
                hits.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_micros(100));
            });
            assert_eq!(hits.into_inner(), 50);
        }
    }
}
