//! One run of a request, and everybody who watches it. Whoever joins hears what has been told, then what is told next. When
//! nobody is left, the run ends; when it ends, the oldest who is still there pays for it, and hears the end only when that
//! is written down.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::bill::{Account, Bill, total};
use super::{GenerateError, Piece};
use crate::engine::{EngineHandle, Standing, TokenUsage};
use crate::ledger::Outcome;

/// A piece of the answer of this index.
pub(super) type Told = (usize, Piece);

/// A run under way.
#[derive(Debug)]
pub(super) struct Flight {
    state: Mutex<State>,
    course: Course,
    /// Answers to each prompt.
    choices: usize,
    /// What is asked; empty where nobody may join.
    identity: String,
    /// Nobody is left; the answers end.
    abandoned: watch::Sender<bool>,
}

/// What runs in the engine for it.
#[derive(Debug)]
pub(super) struct Course {
    pub engine: EngineHandle,
    /// One per answer.
    pub requests: Vec<u64>,
}

#[derive(Debug)]
struct State {
    /// Everything so far, for those who join; none where nobody may.
    told: Option<Vec<Told>>,
    /// The texts so far, where the audit log is told.
    texts: Option<Vec<String>>,
    /// Oldest first.
    seats: Vec<Seat>,
    next_number: u64,
    /// Answers that have not ended.
    running: usize,
    /// What each answer has used, once it has ended.
    usages: Vec<TokenUsage>,
    account: Account,
    outcome: Outcome,
    /// Of the last who has left.
    left: Option<Bill>,
}

/// Somebody who watches.
#[derive(Debug)]
struct Seat {
    number: u64,
    out: mpsc::UnboundedSender<Told>,
    bill: Bill,
    standing: Standing,
}

/// A place in a flight, kept as long as somebody watches.
#[derive(Debug)]
pub(super) struct Place {
    flight: Arc<Flight>,
    number: u64,
}

/// How an answer has ended.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Ended {
    pub usage: TokenUsage,
    pub queue_wait: Option<Duration>,
    pub first_token: Option<Duration>,
}

impl Flight {
    /// A run of `choices` answers to each prompt; others may join one that has an identity. The audit log is told what was
    /// answered if it is `audited`.
    pub fn new(course: Course, choices: usize, identity: Option<String>, audited: bool) -> Arc<Self> {
        let answers = course.requests.len();
        let state = State {
            told: identity.is_some().then(Vec::new),
            texts: audited.then(|| vec![String::new(); answers]),
            seats: Vec::new(),
            next_number: 0,
            running: answers,
            usages: vec![TokenUsage::default(); answers],
            account: Account::default(),
            outcome: Outcome::Completed,
            left: None,
        };
        let identity = identity.unwrap_or_default();
        Arc::new(Self { state: Mutex::new(state), course, choices, identity, abandoned: watch::Sender::new(false) })
    }

    /// What is asked.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Turns true when nobody is left.
    pub fn abandoned(&self) -> watch::Receiver<bool> {
        self.abandoned.subscribe()
    }

    /// Ends it though nobody has left.
    pub fn abandon(&self) {
        self.abandoned.send_replace(true);
    }

    /// Takes a place. Where the run is over, the bill comes back.
    pub fn board(
        self: &Arc<Self>,
        bill: Bill,
        standing: Standing,
    ) -> Result<(Place, mpsc::UnboundedReceiver<Told>), Box<Bill>> {
        let mut state = self.state();
        if state.running == 0 || *self.abandoned.borrow() {
            return Err(Box::new(bill));
        }
        let (out, receiver) = mpsc::unbounded_channel();
        for told in state.told.iter().flatten() {
            let _ = out.send(told.clone());
        }
        let number = state.next_number;
        state.next_number += 1;
        state.seats.push(Seat { number, out, bill, standing });
        Ok((Place { flight: Arc::clone(self), number }, receiver))
    }

    /// Whether every answer has ended.
    pub fn is_over(&self) -> bool {
        self.state().running == 0
    }

    /// One more piece, for everybody.
    pub fn tell(&self, index: usize, piece: Piece) {
        let mut state = self.state();
        match &piece {
            Piece::Failed(GenerateError::Deadline) => state.outcome = Outcome::Cancelled,
            Piece::Failed(_) => state.outcome = Outcome::Failed,
            _ => {}
        }
        for seat in &state.seats {
            let _ = seat.out.send((index, piece.clone()));
        }
        if let (Some(texts), Piece::Text { text, .. }) = (&mut state.texts, &piece) {
            texts[index].push_str(text);
        }
        if let Some(told) = &mut state.told {
            told.push((index, piece));
        }
    }

    /// An answer has ended. After the last one every bill is settled; complete answers that others may have are returned.
    pub fn ended(&self, index: usize, ended: Ended) -> Option<Vec<Told>> {
        let mut state = self.state();
        state.usages[index] = ended.usage;
        state.account.queue_wait = state.account.queue_wait.max(ended.queue_wait);
        state.account.first_token = [state.account.first_token, ended.first_token].into_iter().flatten().min();
        state.running -= 1;
        if state.running > 0 {
            return None;
        }
        let answers = state.texts.take().map(Into::into);
        let mut account = Account { usage: total(&state.usages, self.choices), answers, ..state.account.clone() };
        let outcome = if state.left.is_some() { Outcome::Cancelled } else { state.outcome };
        if outcome == Outcome::Failed {
            // Nothing was reported, and nothing is charged.
            account.usage = TokenUsage::default();
        }
        if let Some(bill) = state.left.take() {
            tokio::spawn(bill.settle(account.clone(), outcome));
        }
        for (position, Seat { out, bill, .. }) in state.seats.drain(..).enumerate() {
            let account = account.clone();
            tokio::spawn(async move {
                if position == 0 {
                    bill.settle(account, outcome).await;
                } else {
                    bill.settle_as_hit(account, outcome).await;
                }
                // The end is heard now.
                drop(out);
            });
        }
        state.told.take().filter(|_| outcome == Outcome::Completed)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.flight.state();
        let Some(index) = state.seats.iter().position(|seat| seat.number == self.number) else { return };
        let Seat { bill, .. } = state.seats.remove(index);
        if state.seats.is_empty() {
            state.left = Some(bill);
            drop(state);
            self.flight.abandoned.send_replace(true);
            return;
        }
        // The next who pays is served in their own turn.
        if index == 0 {
            let Course { engine, requests } = &self.flight.course;
            let standing = state.seats[0].standing;
            for &request in requests {
                engine.take_over(request, standing);
            }
        }
        drop(state);
        // Outside a runtime nothing is under way any more, and the bill is void.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(bill.settle_as_hit(Account::default(), Outcome::Cancelled));
        }
    }
}
