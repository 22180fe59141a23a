//! The one task that appends: what waits goes into one transaction; while the database is away it is tried again and the
//! queue fills; what was lost meanwhile is said in the log itself. Old rows are removed from time to time.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Map, json};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::log::{Attempt, Log};
use super::outlet::Outlet;
use super::{Event, Shared};
use crate::store::audit::AuditRow;
use crate::store::{Moment, now};

/// Rows of one transaction at most.
const BATCH: usize = 512;
/// Nobody waits for a row: the first one waits so long for others, to be written with them.
const GATHERING: Duration = Duration::from_millis(25);
/// A transaction that takes longer is taken for a failure, as long as it does.
const SLOW: i64 = 5000;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
const BETWEEN_PRUNINGS: Duration = Duration::from_hours(1);

/// What the task is sent.
pub(super) enum Message {
    Row(Box<AuditRow>),
    /// Answered when everything before it is written and sent.
    Flush(oneshot::Sender<()>),
}

/// The task.
pub(super) struct Writer {
    log: Log,
    shared: Arc<Shared>,
    outlets: Vec<Outlet>,
    retention: Option<Duration>,
    /// Lost events that the log knows of.
    told: u64,
}

impl Writer {
    pub fn new(log: Log, shared: Arc<Shared>, outlets: Vec<Outlet>, retention: Option<Duration>) -> Self {
        Self { log, shared, outlets, retention, told: 0 }
    }

    /// Until the last way in is gone.
    pub async fn run(mut self, mut queue: mpsc::Receiver<Message>) {
        let mut messages = Vec::new();
        let mut next_pruning = Instant::now();
        loop {
            tokio::select! {
                count = queue.recv_many(&mut messages, BATCH) => if count == 0 { break },
                () = tokio::time::sleep_until(next_pruning), if self.retention.is_some() => {
                    next_pruning = Instant::now() + BETWEEN_PRUNINGS;
                    self.prune(&queue).await;
                    continue;
                }
            }
            if messages.len() < BATCH && messages.iter().all(|message| matches!(message, Message::Row(_))) {
                tokio::time::sleep(GATHERING).await;
                while messages.len() < BATCH
                    && let Ok(message) = queue.try_recv()
                {
                    messages.push(message);
                }
            }
            let (mut rows, mut waiting) = (Vec::new(), Vec::new());
            for message in messages.drain(..) {
                match message {
                    Message::Row(row) => rows.push(*row),
                    Message::Flush(done) => waiting.push(done),
                }
            }
            self.append(rows, &queue).await;
            if !waiting.is_empty() {
                self.flush(waiting);
            }
        }
    }

    /// Appends, and then says what was lost.
    async fn append(&mut self, rows: Vec<AuditRow>, queue: &mpsc::Receiver<Message>) {
        let size = rows.iter().map(|row| row.details.len()).sum();
        if !rows.is_empty() {
            self.commit(rows, queue).await;
        }
        self.shared.bytes.fetch_sub(size, Ordering::Relaxed);
        let lost = self.shared.lost.load(Ordering::Relaxed);
        if lost > self.told && self.commit(vec![gap(lost - self.told)], queue).await {
            self.told = lost;
        }
    }

    /// Tries until it has succeeded; false when nobody is left who could wait for it.
    async fn commit(&self, rows: Vec<AuditRow>, queue: &mpsc::Receiver<Message>) -> bool {
        let (attempt, mut pause) = (Attempt::default(), FIRST_PAUSE);
        let blocked_from = &self.shared.blocked_from;
        loop {
            blocked_from.fetch_min(now() + SLOW, Ordering::Relaxed);
            match self.log.append(rows.clone(), &attempt).await {
                Ok(written) => {
                    blocked_from.store(Moment::MAX, Ordering::Relaxed);
                    self.shared.written.fetch_add(written.len() as u64, Ordering::Relaxed);
                    let written = Arc::new(written);
                    self.outlets.iter().for_each(|outlet| outlet.send(&written));
                    return true;
                }
                Err(error) => {
                    blocked_from.store(0, Ordering::Relaxed);
                    if pause == FIRST_PAUSE {
                        tracing::error!("the audit log cannot be written, and waits: {error}");
                    }
                }
            }
            if queue.is_closed() {
                tracing::error!("{} events are not in the audit log", rows.len() + queue.len());
                return false;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Answers when the files and servers have everything.
    fn flush(&self, waiting: Vec<oneshot::Sender<()>>) {
        let answers: Vec<_> = self.outlets.iter().filter_map(Outlet::flush).collect();
        tokio::task::spawn_blocking(move || {
            if answers.iter().all(|answer| answer.recv().is_ok()) {
                for done in waiting {
                    let _ = done.send(());
                }
            }
        });
    }

    async fn prune(&self, queue: &mpsc::Receiver<Message>) {
        let Some(retention) = self.retention else { return };
        let moment = now() - retention.as_millis() as i64;
        match self.log.prune(moment).await {
            Ok(None) => {}
            Ok(Some(last)) => {
                let details = Map::from_iter([("last_removed".to_owned(), json!(last))]);
                self.commit(vec![Event::system("retention", details).into_row()], queue).await;
            }
            Err(error) => tracing::error!("old rows of the audit log are not removed: {error}"),
        }
    }
}

/// Says that events were lost.
fn gap(lost: u64) -> AuditRow {
    let details = Map::from_iter([("lost_events".to_owned(), json!(lost))]);
    Event { outcome: "lost".into(), ..Event::system("gap", details) }.into_row()
}
