//! The audit log: what happened is queued without waiting, appended in batches to a chain of sealed rows, and told to a file
//! and a syslog server. Knows the store; must not know HTTP.

mod event;
mod line;
mod log;
mod outlet;
mod seal;
#[cfg(test)]
mod tests;
mod verify;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::{mpsc, oneshot};

pub use crate::store::audit::{AuditFilter, AuditRow};
use crate::store::{Moment, Store, StoreError, now};
pub use event::{Actor, Event, Kind};
pub use line::{Format, parse_moment, timestamp};
pub use log::Log;
pub use outlet::SyslogAddress;
use outlet::{Outlet, Target};
pub use verify::{Anchor, Broken, Proof};
use writer::{Message, Writer};

/// Bytes of events that wait.
const MOST_BYTES: usize = 64 << 20;

/// How much is written down of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// No text.
    Metadata,
    /// What was asked, too.
    Request,
    /// What was asked and what was answered, too.
    Full,
}

/// How the log is kept.
#[derive(Debug, Clone)]
pub struct AuditSettings {
    /// Whether it is.
    pub enabled: bool,
    /// How much of requests.
    pub level: Level,
    /// How long; none is for ever.
    pub retention: Option<Duration>,
    /// Nothing is done that cannot be written down.
    pub required: bool,
    /// Seals the log, and is not in the database.
    pub key: Option<SecretString>,
    /// Where else it goes.
    pub syslog: Option<SyslogAddress>,
    /// Where else it goes, as JSON Lines.
    pub file: Option<PathBuf>,
    /// Events that wait at most while the database is slow or away.
    pub queue: usize,
}

impl Default for AuditSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            level: Level::Metadata,
            retention: None,
            required: false,
            key: None,
            syslog: None,
            file: None,
            queue: 8192,
        }
    }
}

/// Why the log cannot be kept or proven.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// It is not as it was written.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A key cannot be used.
    #[error("the key of the audit log cannot be used: {0}")]
    Key(String),
    /// No thread, or no file.
    #[error("the audit log: {0}")]
    System(#[from] std::io::Error),
}

/// The way into the log. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Audit {
    /// None where no log is kept.
    inner: Option<Arc<Inner>>,
}

#[derive(Debug)]
struct Inner {
    log: Log,
    level: Level,
    required: bool,
    queue: mpsc::Sender<Message>,
    shared: Arc<Shared>,
}

/// What the way in and the writer both know.
#[derive(Debug)]
struct Shared {
    /// Bytes that wait.
    bytes: AtomicUsize,
    written: AtomicU64,
    lost: AtomicU64,
    /// From then on nothing can be written.
    blocked_from: AtomicI64,
    /// Rows that did not reach a file or server.
    not_sent: Arc<AtomicU64>,
}

/// What the log has come to in this process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AuditCounts {
    /// Events written.
    pub written: u64,
    /// Events that nobody will ever know.
    pub lost: u64,
    /// Rows that did not reach a file or server.
    pub not_sent: u64,
}

impl Audit {
    /// Keeps no log.
    pub fn off() -> Self {
        Self { inner: None }
    }

    /// Keeps a log in this database.
    ///
    /// # Errors
    /// When the database fails, or a file cannot be written.
    pub async fn open(store: Store, settings: &AuditSettings) -> Result<Self, AuditError> {
        if !settings.enabled {
            return Ok(Self::off());
        }
        let log = Log::open(store, settings.key.as_ref().map(SecretString::expose_secret)).await?;
        let shared = Arc::new(Shared {
            bytes: AtomicUsize::new(0),
            written: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            blocked_from: AtomicI64::new(Moment::MAX),
            not_sent: Arc::default(),
        });
        let targets = [settings.file.clone().map(Target::File), settings.syslog.clone().map(Target::Syslog)];
        let outlets = targets.into_iter().flatten().map(|target| Outlet::start(target, Arc::clone(&shared.not_sent)));
        let outlets = outlets.collect::<Result<Vec<_>, _>>()?;
        let (queue, messages) = mpsc::channel(settings.queue);
        let writer = Writer::new(log.clone(), Arc::clone(&shared), outlets, settings.retention);
        tokio::spawn(writer.run(messages));
        let inner = Inner { log, level: settings.level, required: settings.required, queue, shared };
        Ok(Self { inner: Some(Arc::new(inner)) })
    }

    /// Writes an event down, soon. Never waits: where too much waits already, the event is lost and counted.
    pub fn record(&self, event: Event) {
        let Some(Inner { queue, shared, .. }) = self.inner.as_deref() else { return };
        let row = event.into_row();
        let size = row.details.len();
        let waiting = shared.bytes.fetch_add(size, Ordering::Relaxed);
        if waiting + size > MOST_BYTES && waiting > 0 || queue.try_send(Message::Row(Box::new(row))).is_err() {
            shared.bytes.fetch_sub(size, Ordering::Relaxed);
            shared.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether a request must be refused, because nobody could write down what became of it.
    pub fn is_blocked(&self) -> bool {
        self.inner.as_deref().is_some_and(|Inner { required, queue, shared, .. }| {
            *required && (queue.capacity() == 0 || now() >= shared.blocked_from.load(Ordering::Relaxed))
        })
    }

    /// How much is written down of requests; none where no log is kept.
    pub fn level(&self) -> Option<Level> {
        self.inner.as_ref().map(|inner| inner.level)
    }

    /// The log in the database, where one is kept.
    pub fn log(&self) -> Option<&Log> {
        self.inner.as_ref().map(|inner| &inner.log)
    }

    /// What was written and lost so far.
    pub fn counts(&self) -> AuditCounts {
        self.inner.as_deref().map_or_else(AuditCounts::default, |Inner { shared, .. }| AuditCounts {
            written: shared.written.load(Ordering::Relaxed),
            lost: shared.lost.load(Ordering::Relaxed),
            not_sent: shared.not_sent.load(Ordering::Relaxed),
        })
    }

    /// Waits until everything so far is written and sent, at most so long; false when it is not.
    pub async fn flush(&self, patience: Duration) -> bool {
        let Some(inner) = self.inner.as_deref() else { return true };
        let (done, answered) = oneshot::channel();
        let flushed = async { inner.queue.send(Message::Flush(done)).await.is_ok() && answered.await.is_ok() };
        tokio::time::timeout(patience, flushed).await.unwrap_or(false)
    }
}
