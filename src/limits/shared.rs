//! Counts in Redis, shared by replicas: one round trip of one script admits or refuses. What requests hold goes back
//! through a [`worker`](super::worker), so that their end waits for nobody.

use std::sync::LazyLock;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use super::admission::{Admission, Hold, Part};
use super::check::Check;
use super::claim::Limit;
use super::rates::{Rates, Refusal};
use super::worker::{self, Message, Settled};
use crate::kv_store::{KvError, Redis, Script};

static ADMIT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("admit.lua")));

#[derive(Debug, Clone)]
pub(super) struct Shared {
    redis: Redis,
    lease: Duration,
    worker: UnboundedSender<Message>,
}

impl Shared {
    pub fn new(redis: Redis, lease: Duration) -> Self {
        Self { worker: worker::spawn(redis.clone(), lease), redis, lease }
    }

    /// At `now`, in milliseconds, or on the server's clock for 0. The outer error says that nobody knows.
    pub async fn admit(&self, now: i64, checks: &[Check<'_>]) -> Result<Result<Admission, Refusal>, KvError> {
        let lease = i64::from(rand::random::<u32>()) << 31 | i64::from(rand::random::<u32>() >> 1);
        let keys: Vec<String> = checks.iter().map(|check| self.key(check)).collect();
        let mut arguments = Vec::with_capacity(3 + 3 * checks.len());
        arguments.extend([now, lease, self.lease.as_millis() as i64]);
        for check in checks {
            arguments.extend([check.limit.period(), check.most, check.cost]);
        }
        // Made before the call: whoever leaves in the middle of it leaves no lease behind.
        let mut hold = SharedHold { worker: self.worker.clone(), lease, parts: Vec::new(), end: End::Unknown };
        hold.parts = checks.iter().zip(&keys).filter_map(|(check, key)| Some((key.clone(), check.part()?))).collect();
        let mut reply: Vec<i64> = self.redis.script(&ADMIT, &keys, &arguments).await?;
        if reply.len() != checks.len() + 1 {
            return Err(KvError::Nonsense);
        }
        let readings = reply.split_off(1);
        if reply == [0] {
            hold.end = End::Refused;
            return Ok(Err(Refusal::of(checks, &readings)));
        }
        hold.admitted();
        let after = checks.iter().zip(&readings).map(|(check, reading)| reading + check.weight());
        Ok(Ok(Admission::new(Rates::of(checks, after), Hold::Shared(hold))))
    }

    /// Waits until what has ended is given back.
    pub async fn flush(&self) {
        let (done, told) = oneshot::channel();
        if self.worker.send(Message::Flush(done)).is_ok() {
            let _worker_has_ended = told.await;
        }
    }

    fn key(&self, check: &Check) -> String {
        self.redis.key(check.limit.as_str(), &format!("{}:{}", check.kind.as_str(), check.id))
    }
}

/// What a request holds in Redis.
#[derive(Debug)]
pub(super) struct SharedHold {
    worker: UnboundedSender<Message>,
    /// Name of its places in the sets of parallel requests.
    lease: i64,
    /// By key.
    parts: Vec<(String, Part)>,
    end: End,
}

/// What is known of a request that ends.
#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    /// It may have been admitted or not.
    Unknown,
    /// It holds nothing.
    Refused,
    /// It was admitted, and nobody says what it took.
    Dropped,
    /// It took so many tokens.
    Finished(u64),
}

impl SharedHold {
    fn admitted(&mut self) {
        self.end = End::Dropped;
        let keys: Vec<String> = self.leased().cloned().collect();
        if !keys.is_empty() {
            self.send(Message::Holds(self.lease, keys));
        }
    }

    pub fn finished(&mut self, actual_tokens: u64) {
        self.end = End::Finished(actual_tokens);
    }

    fn leased(&self) -> impl Iterator<Item = &String> {
        self.parts.iter().filter(|(_, part)| part.limit == Limit::ParallelRequests).map(|(key, _)| key)
    }

    /// When the worker is gone the runtime is, and leases end by themselves.
    fn send(&self, message: Message) {
        let _worker_is_there = self.worker.send(message);
    }
}

impl Drop for SharedHold {
    fn drop(&mut self) {
        let actual_tokens = match self.end {
            End::Refused => return,
            End::Unknown | End::Dropped => None,
            End::Finished(tokens) => Some(tokens),
        };
        let settled = |(key, part): (String, Part)| {
            let refund = part.refund(actual_tokens);
            (refund > 0).then_some(Settled { key, period: part.limit.period(), refund })
        };
        let settled: Vec<Settled> = std::mem::take(&mut self.parts).into_iter().filter_map(settled).collect();
        if !settled.is_empty() {
            self.send(Message::Ended(self.lease, settled));
        }
    }
}
