//! The task that gives back to Redis what ended requests held, many at a time, and renews the leases of those that run.
//! It ends with the limits and the last request. What it cannot give back drains or expires by itself.

use std::collections::HashMap;
use std::sync::LazyLock;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::time::{MissedTickBehavior, interval};

use crate::kv_store::{Redis, Script};

static SETTLE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("settle.lua")));
static RENEW: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("renew.lua")));

/// A script takes so many keys at most, for Redis answers nobody else meanwhile.
const BATCH: usize = 200;

#[derive(Debug)]
pub(super) enum Message {
    /// A request has this lease in the sets under these keys.
    Holds(i64, Vec<String>),
    /// It has ended.
    Ended(i64, Vec<Settled>),
    /// Somebody wants to know when everything before is done.
    Flush(oneshot::Sender<()>),
}

/// Units to give back to one limit.
#[derive(Debug)]
pub(super) struct Settled {
    pub key: String,
    pub period: i64,
    pub refund: i64,
}

pub(super) fn spawn(redis: Redis, lease: Duration) -> UnboundedSender<Message> {
    let (sender, receiver) = unbounded_channel();
    let worker = Worker { redis, lease, running: HashMap::new() };
    tokio::spawn(worker.run(receiver));
    sender
}

struct Worker {
    redis: Redis,
    lease: Duration,
    /// Leases with the keys of their sets.
    running: HashMap<i64, Vec<String>>,
}

impl Worker {
    async fn run(mut self, mut messages: UnboundedReceiver<Message>) {
        let mut renewal = interval((self.lease / 3).max(Duration::from_millis(1)));
        renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut received = Vec::new();
        loop {
            tokio::select! {
                count = messages.recv_many(&mut received, BATCH) => {
                    if count == 0 {
                        return;
                    }
                    self.settle(received.drain(..)).await;
                }
                _ = renewal.tick() => self.renew().await,
            }
        }
    }

    async fn settle(&mut self, messages: impl Iterator<Item = Message>) {
        let (mut settled, mut waiting) = (Vec::new(), Vec::new());
        for message in messages {
            match message {
                Message::Holds(lease, keys) => {
                    self.running.insert(lease, keys);
                }
                Message::Ended(lease, parts) => {
                    self.running.remove(&lease);
                    settled.extend(parts.into_iter().map(|part| (lease, part)));
                }
                Message::Flush(done) => waiting.push(done),
            }
        }
        for batch in settled.chunks(BATCH) {
            let keys: Vec<String> = batch.iter().map(|(_, part)| part.key.clone()).collect();
            let arguments: Vec<i64> =
                batch.iter().flat_map(|(lease, part)| [part.period, part.refund, *lease]).collect();
            if let Err(error) = self.redis.script::<bool>(&SETTLE, &keys, &arguments).await {
                tracing::debug!(%error, "what requests held was not given back");
            }
        }
        for done in waiting {
            let _nobody_waits_any_more = done.send(());
        }
    }

    async fn renew(&self) {
        let leases: Vec<(&String, i64)> =
            self.running.iter().flat_map(|(lease, keys)| keys.iter().map(|key| (key, *lease))).collect();
        for batch in leases.chunks(BATCH) {
            let keys: Vec<String> = batch.iter().map(|(key, _)| (*key).clone()).collect();
            let mut arguments = vec![0, self.lease.as_millis() as i64];
            arguments.extend(batch.iter().map(|(_, lease)| lease));
            if let Err(error) = self.redis.script::<bool>(&RENEW, &keys, &arguments).await {
                tracing::debug!(%error, "leases of running requests were not renewed");
                return;
            }
        }
    }
}
