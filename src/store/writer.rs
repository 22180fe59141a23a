//! One task that writes: what many callers ask for at the same time shares a transaction and its one wait for the disk
//! (group commit). Work that fails is undone alone. Must not know what the work does.

use std::sync::Arc;
use std::time::Duration;

use futures_core::future::BoxFuture;
use sqlx::Connection as _;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::connections::Connector;
use super::guard::SERVER_PATIENCE;
use super::{Connection, Result, StoreError};

/// So many share a transaction at the most.
const BATCH: usize = 256;
/// What nobody waits for is written so much later, unless something comes that somebody waits for.
const SOON: Duration = Duration::from_millis(20);
/// A transaction of a server's that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is to be written, and how. It may be done more than once, each time after all it did before was undone.
pub type Work<A, T> = for<'c> fn(&'c mut Connection, &'c A) -> BoxFuture<'c, Result<T>>;

/// Something to be written.
#[derive(Debug)]
pub struct Write<A, T> {
    what: A,
    work: Work<A, T>,
    accounts: Vec<String>,
    soon: bool,
}

impl<A, T> Write<A, T> {
    /// `work` is done with `what`, and with nothing else that changes.
    pub fn new(what: A, work: Work<A, T>) -> Self {
        Self { what, work, accounts: Vec::new(), soon: false }
    }

    /// It changes these accounts. They are locked for the transaction in an order that all replicas share, so that none of
    /// them waits for another in a circle.
    #[must_use]
    pub fn locking(self, accounts: Vec<String>) -> Self {
        Self { accounts, ..self }
    }

    /// Nobody waits for it.
    #[must_use]
    pub fn soon(self) -> Self {
        Self { soon: true, ..self }
    }

    /// Does it here and now.
    pub(super) fn run<'c>(&'c self, connection: &'c mut Connection) -> BoxFuture<'c, Result<T>> {
        (self.work)(connection, &self.what)
    }
}

/// Locks accounts in an order that all replicas share, until the transaction ends.
pub(super) type Lock = for<'c> fn(&'c mut Connection, &'c [&'c str]) -> BoxFuture<'c, Result<()>>;

/// What transactions are like in a database.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dialect {
    pub begin: &'static str,
    /// How accounts are locked, where others may write at the same time.
    pub lock: Option<Lock>,
}

/// The way to the task, which ends with the last of its clones.
#[derive(Debug, Clone)]
pub(super) struct Writer {
    messages: mpsc::UnboundedSender<Message>,
}

enum Message {
    Job(Box<dyn Job>),
    /// Answered when everything before it is written.
    Close(oneshot::Sender<()>),
}

/// Something to be written, of any type.
trait Job: Send {
    /// Does the work; false when it failed and is to be undone.
    fn run<'c>(&'c mut self, connection: &'c mut Connection) -> BoxFuture<'c, bool>;

    fn accounts(&self) -> &[String];

    fn can_wait(&self) -> bool;

    /// The transaction was committed, or not.
    fn finish(self: Box<Self>, committed: std::result::Result<(), Arc<StoreError>>);
}

struct Task<A, T, F> {
    write: Write<A, T>,
    then: F,
    result: Option<Result<T>>,
    answer: oneshot::Sender<Result<T>>,
}

impl<A, T, F> Job for Task<A, T, F>
where
    A: Send + Sync,
    T: Send,
    F: FnOnce(&Result<T>) + Send,
{
    fn run<'c>(&'c mut self, connection: &'c mut Connection) -> BoxFuture<'c, bool> {
        Box::pin(async move {
            let result = self.write.run(connection).await;
            self.result.insert(result).is_ok()
        })
    }

    fn accounts(&self) -> &[String] {
        &self.write.accounts
    }

    fn can_wait(&self) -> bool {
        self.write.soon
    }

    fn finish(self: Box<Self>, committed: std::result::Result<(), Arc<StoreError>>) {
        let result = match (self.result, committed) {
            (Some(Err(error)), _) => Err(error),
            (_, Err(error)) => Err(StoreError::NotWritten(error)),
            (Some(done), Ok(())) => done,
            (None, Ok(())) => Err(StoreError::Database(sqlx::Error::WorkerCrashed)),
        };
        (self.then)(&result);
        // Whoever asked may have gone.
        self.answer.send(result).ok();
    }
}

impl Writer {
    /// Starts the task on a connection that is open already. `written` hears of every commit.
    pub fn start(connector: Connector, first: Connection, dialect: Dialect, written: watch::Sender<()>) -> Self {
        let (messages, queue) = mpsc::unbounded_channel();
        tokio::spawn(Committer { connector, dialect, written, kept: Some(first) }.run(queue));
        Self { messages }
    }

    /// See [`super::Store::write`].
    pub fn write<A: Send + Sync + 'static, T: Send + 'static>(
        &self,
        write: Write<A, T>,
        then: impl FnOnce(&Result<T>) + Send + 'static,
    ) -> BoxFuture<'static, Result<T>> {
        let (answer, answered) = oneshot::channel();
        let task = Task { write, then, result: None, answer };
        if let Err(refused) = self.messages.send(Message::Job(Box::new(task)))
            && let Message::Job(job) = refused.0
        {
            job.finish(Err(Arc::new(sqlx::Error::PoolClosed.into())));
        }
        Box::pin(async move { answered.await.unwrap_or(Err(StoreError::Database(sqlx::Error::WorkerCrashed))) })
    }

    /// Waits until everything is written, and takes nothing more.
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.messages.send(Message::Close(done)).is_ok() {
            closed.await.ok();
        }
    }
}

/// The task.
struct Committer {
    connector: Connector,
    dialect: Dialect,
    written: watch::Sender<()>,
    /// From one transaction to the next.
    kept: Option<Connection>,
}

impl Committer {
    async fn run(mut self, mut queue: mpsc::UnboundedReceiver<Message>) {
        let mut closed = None;
        while closed.is_none() {
            let (mut batch, open) = collect(&mut queue, &mut closed).await;
            if !batch.is_empty() {
                let committed = self.commit(&mut batch).await.map_err(Arc::new);
                for job in batch {
                    job.finish(committed.clone());
                }
                self.written.send_replace(());
            }
            if !open {
                break;
            }
        }
        queue.close();
        if let Some(connection) = self.kept {
            connection.close().await.ok();
        }
        if let Some(closed) = closed {
            let _ = closed.send(());
        }
    }

    /// Commits everything that does not fail.
    async fn commit(&mut self, batch: &mut [Box<dyn Job>]) -> Result<()> {
        // Work fails rarely: only when it has does each get a savepoint to go back to.
        if self.attempt(batch, false).await? || batch.len() == 1 {
            return Ok(());
        }
        self.attempt(batch, true).await.map(drop)
    }

    /// One transaction; false when work failed and all was undone.
    async fn attempt(&mut self, batch: &mut [Box<dyn Job>], savepoints: bool) -> Result<bool> {
        let mut connection = self.connection().await?;
        let done = transaction(&mut connection, self.dialect, batch, savepoints);
        let done = if self.dialect.lock.is_some() { within(PATIENCE, done).await } else { done.await };
        if done.is_ok() {
            self.kept = Some(connection);
        }
        done
    }

    /// The one that was kept, or another.
    async fn connection(&mut self) -> Result<Connection> {
        let is_file = self.dialect.lock.is_none();
        if let Some(mut kept) = self.kept.take() {
            // One that a server has closed meanwhile shows it now, while nothing is lost by it.
            if is_file || within(SERVER_PATIENCE, async { Ok(kept.ping().await?) }).await.is_ok() {
                return Ok(kept);
            }
        }
        let connection = async { Ok(self.connector.connect().await?) };
        if is_file { connection.await } else { within(SERVER_PATIENCE, connection).await }
    }
}

async fn within<T>(patience: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(patience, work).await.unwrap_or(Err(sqlx::Error::PoolTimedOut.into()))
}

/// What has come, as soon as somebody waits for any of it; false when nothing will come any more.
async fn collect(
    queue: &mut mpsc::UnboundedReceiver<Message>,
    closed: &mut Option<oneshot::Sender<()>>,
) -> (Vec<Box<dyn Job>>, bool) {
    let (mut batch, mut messages): (Vec<Box<dyn Job>>, _) = (Vec::new(), Vec::new());
    let mut until = None;
    while closed.is_none() && batch.iter().all(|job| job.can_wait()) {
        let come = queue.recv_many(&mut messages, BATCH);
        let count = match until {
            None => come.await,
            Some(until) => match tokio::time::timeout_at(until, come).await {
                Ok(count) => count,
                Err(_) => return (batch, true),
            },
        };
        if count == 0 {
            return (batch, false);
        }
        until.get_or_insert_with(|| Instant::now() + SOON);
        for message in messages.drain(..) {
            match message {
                Message::Job(job) => batch.push(job),
                Message::Close(done) => *closed = Some(done),
            }
        }
    }
    (batch, true)
}

async fn transaction(
    connection: &mut Connection,
    dialect: Dialect,
    batch: &mut [Box<dyn Job>],
    savepoints: bool,
) -> Result<bool> {
    let mut transaction = connection.begin_with(dialect.begin).await?;
    if let Some(lock) = dialect.lock {
        let mut accounts: Vec<&str> = batch.iter().flat_map(|job| job.accounts()).map(String::as_str).collect();
        accounts.sort_unstable();
        accounts.dedup();
        if !accounts.is_empty() {
            lock(&mut transaction, &accounts).await?;
        }
    }
    for job in batch {
        if savepoints {
            let mut savepoint = transaction.begin().await?;
            if job.run(&mut savepoint).await { savepoint.commit().await? } else { savepoint.rollback().await? }
        } else if !job.run(&mut transaction).await {
            transaction.rollback().await?;
            return Ok(false);
        }
    }
    transaction.commit().await?;
    Ok(true)
}
