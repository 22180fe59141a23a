//! The door: how many requests are inside, who waits, and how long a newcomer will. Shared by all handles and its
//! engine thread; must not know what a request contains.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Whose turn a waiting request is: priority and user.
type Class = (i32, u64);

/// Counts the requests inside, bounds them, and foretells waits.
#[derive(Debug)]
pub(super) struct Admission {
    max_sequences: usize,
    capacity: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    inside: usize,
    waiting: HashMap<Class, usize>,
    num_waiting: usize,
    /// Mean time between two requests' starts while others wait.
    start_interval: Duration,
}

/// A place inside, given back on drop.
#[derive(Debug)]
pub(super) struct Permit {
    admission: Arc<Admission>,
    class: Class,
    waiting: bool,
}

/// Where a newcomer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct QueuePlace {
    pub position: usize,
    pub expected_wait: Duration,
}

impl Admission {
    /// `max_sequences` run and `queue_capacity` wait at most.
    pub fn new(max_sequences: usize, queue_capacity: usize) -> Arc<Self> {
        Arc::new(Self { max_sequences, capacity: max_sequences + queue_capacity, state: Mutex::default() })
    }

    /// A place for a request of this user and priority, or the wait it would have had.
    pub fn enter(self: &Arc<Self>, priority: i32, user: u64) -> Result<(Permit, QueuePlace), Duration> {
        let class = (priority, user);
        let mut state = self.lock();
        let place = state.place(class, self.max_sequences);
        if state.inside >= self.capacity {
            return Err(place.expected_wait.max(state.start_interval));
        }
        state.inside += 1;
        state.start_waiting(class);
        Ok((Permit { admission: Arc::clone(self), class, waiting: true }, place))
    }

    /// Tells how often requests start while others wait.
    pub fn set_start_interval(&self, interval: Duration) {
        self.lock().start_interval = interval;
    }

    /// Requests that run or wait.
    pub fn num_inside(&self) -> usize {
        self.lock().inside
    }

    /// Requests that have not started.
    pub fn num_waiting(&self) -> usize {
        self.lock().num_waiting
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Fair queueing lets everyone of higher priority go first and, of equal priority, as many of each other user as
    /// this user has waiting itself.
    fn place(&self, class: Class, max_sequences: usize) -> QueuePlace {
        let own = self.waiting.get(&class).copied().unwrap_or(0);
        let ahead = |(other, &count): (&Class, &usize)| match other.0.cmp(&class.0) {
            std::cmp::Ordering::Greater => count,
            std::cmp::Ordering::Equal if *other == class => count,
            std::cmp::Ordering::Equal => count.min(own + 1),
            std::cmp::Ordering::Less => 0,
        };
        let position = self.waiting.iter().map(ahead).sum::<usize>();
        let running = self.inside - self.num_waiting;
        let free_slots = max_sequences.saturating_sub(running);
        let starts = (position + 1).saturating_sub(free_slots);
        QueuePlace { position, expected_wait: self.start_interval.saturating_mul(starts as u32) }
    }

    fn start_waiting(&mut self, class: Class) {
        self.num_waiting += 1;
        *self.waiting.entry(class).or_default() += 1;
    }

    fn stop_waiting(&mut self, class: Class) {
        self.num_waiting -= 1;
        if let Some(count) = self.waiting.get_mut(&class) {
            *count -= 1;
            if *count == 0 {
                self.waiting.remove(&class);
            }
        }
    }
}

impl Permit {
    /// The request has left the queue.
    pub fn start(&mut self) {
        if std::mem::take(&mut self.waiting) {
            self.admission.lock().stop_waiting(self.class);
        }
    }

    /// The request waits in another's turn.
    pub fn pass(&mut self, priority: i32, user: u64) {
        let class = (priority, user);
        let before = std::mem::replace(&mut self.class, class);
        if self.waiting {
            let mut state = self.admission.lock();
            state.stop_waiting(before);
            state.start_waiting(class);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.admission.lock();
        state.inside -= 1;
        if self.waiting {
            state.stop_waiting(self.class);
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn bounded_and_given_back() {
        let admission = Admission::new(2, 1);
        admission.set_start_interval(Duration::from_secs(3));
        let mut permits: Vec<_> = (0..3).map(|user| admission.enter(0, user).unwrap().0).collect();
        assert!(admission.enter(0, 9).is_err());
        permits[0].start();
        assert_eq!(admission.num_waiting(), 2);
        assert!(admission.enter(0, 9).is_err(), "a running request still takes its place");
        permits.remove(0);
        assert!(admission.enter(0, 9).is_ok());
        permits.clear();
        assert_eq!(admission.num_waiting(), 0);
        assert!(admission.lock().waiting.is_empty());
    }

    #[test]
    fn a_newcomer_stands_behind_one_of_each_user_not_behind_all() {
        let admission = Admission::new(1, 100);
        admission.set_start_interval(Duration::from_secs(2));
        let (mut running, place) = admission.enter(0, 1).unwrap();
        assert_eq!(place, QueuePlace { position: 0, expected_wait: Duration::ZERO });
        running.start();
        let crowd: Vec<_> = (0..30).map(|_| admission.enter(0, 1).unwrap()).collect();
        assert_eq!(crowd[29].1.position, 29);
        assert_eq!(crowd[29].1.expected_wait, Duration::from_mins(1));
        let (_permit, place) = admission.enter(0, 2).unwrap();
        assert_eq!(place, QueuePlace { position: 1, expected_wait: Duration::from_secs(4) });
        assert_eq!(admission.enter(1, 3).unwrap().1.position, 0, "higher priority goes first");
        assert_eq!(admission.enter(-1, 3).unwrap().1.position, 31, "lower priority goes last");
    }

    #[test]
    fn who_takes_over_waits_in_their_own_turn() {
        let admission = Admission::new(1, 100);
        let (mut low, _) = admission.enter(-1, 1).unwrap();
        assert_eq!(admission.enter(0, 2).unwrap().1.position, 0);
        low.pass(1, 3);
        assert_eq!(admission.enter(0, 2).unwrap().1.position, 1);
        assert_eq!(admission.num_waiting(), 1);
        low.start();
        low.pass(0, 2);
        drop(low);
        assert!(admission.lock().waiting.is_empty());
    }
}
