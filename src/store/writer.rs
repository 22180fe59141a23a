//! One task that writes: what many callers ask for at the same time shares a transaction and its one wait for the disk
//! (group commit). Work that fails is undone alone. Must not know what the work does.

use std::sync::Arc;

use futures_core::future::BoxFuture;
use sqlx::{AnyPool, Connection as _};
use tokio::sync::{mpsc, oneshot};

use super::{Connection, Result, StoreError};

/// So many share a transaction at the most.
const BATCH: usize = 256;

/// The way to the task, which ends with the last of its clones.
#[derive(Debug, Clone)]
pub(super) struct Writer {
    jobs: mpsc::UnboundedSender<Box<dyn Job>>,
}

/// Work of any type.
trait Job: Send {
    /// Does the work; false when it failed and is to be undone.
    fn run<'c>(&'c mut self, connection: &'c mut Connection) -> BoxFuture<'c, bool>;

    /// The transaction was committed, or not.
    fn finish(self: Box<Self>, committed: std::result::Result<(), Arc<sqlx::Error>>);
}

struct Task<T, W, F> {
    work: Option<W>,
    then: F,
    result: Option<Result<T>>,
    answer: oneshot::Sender<Result<T>>,
}

impl<T, W, F> Job for Task<T, W, F>
where
    T: Send,
    W: for<'c> FnOnce(&'c mut Connection) -> BoxFuture<'c, Result<T>> + Send,
    F: FnOnce(&Result<T>) + Send,
{
    fn run<'c>(&'c mut self, connection: &'c mut Connection) -> BoxFuture<'c, bool> {
        Box::pin(async move {
            if let Some(work) = self.work.take() {
                self.result = Some(work(connection).await);
            }
            self.result.as_ref().is_some_and(Result::is_ok)
        })
    }

    fn finish(self: Box<Self>, committed: std::result::Result<(), Arc<sqlx::Error>>) {
        let lost = |error| Err(StoreError::NotWritten(error));
        let result = match (self.result, committed) {
            (Some(Err(error)), _) => Err(error),
            (_, Err(error)) => lost(error),
            (Some(done), Ok(())) => done,
            (None, Ok(())) => lost(Arc::new(sqlx::Error::WorkerCrashed)),
        };
        (self.then)(&result);
        // Whoever asked may have gone.
        self.answer.send(result).ok();
    }
}

impl Writer {
    /// Starts the task. `begin` begins a transaction.
    pub(super) fn start(pool: AnyPool, begin: &'static str) -> Self {
        let (jobs, mut queue) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut batch = Vec::new();
            while queue.recv_many(&mut batch, BATCH).await > 0 {
                let committed = commit(&pool, begin, &mut batch).await.map_err(Arc::new);
                for job in batch.drain(..) {
                    job.finish(committed.clone());
                }
            }
        });
        Self { jobs }
    }

    /// See [`super::Store::write`].
    pub(super) fn write<T: Send + 'static>(
        &self,
        work: impl for<'c> FnOnce(&'c mut Connection) -> BoxFuture<'c, Result<T>> + Send + 'static,
        then: impl FnOnce(&Result<T>) + Send + 'static,
    ) -> BoxFuture<'static, Result<T>> {
        let (answer, answered) = oneshot::channel();
        let task = Task { work: Some(work), then, result: None, answer };
        let gone = || Err(StoreError::NotWritten(Arc::new(sqlx::Error::WorkerCrashed)));
        if let Err(refused) = self.jobs.send(Box::new(task)) {
            refused.0.finish(Err(Arc::new(sqlx::Error::PoolClosed)));
        }
        Box::pin(async move { answered.await.unwrap_or_else(|_| gone()) })
    }
}

async fn commit(pool: &AnyPool, begin: &'static str, batch: &mut [Box<dyn Job>]) -> sqlx::Result<()> {
    let mut connection = pool.acquire().await?;
    let mut transaction = connection.begin_with(begin).await?;
    for job in batch {
        let mut savepoint = transaction.begin().await?;
        if job.run(&mut savepoint).await {
            savepoint.commit().await?;
        } else {
            savepoint.rollback().await?;
        }
    }
    transaction.commit().await
}
