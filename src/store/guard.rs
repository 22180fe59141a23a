//! How long the database is waited for. Reads may be made twice, and are, within one deadline; while it does not answer, a
//! breaker keeps callers from waiting at all. Must not know what is read.

use std::sync::Arc;
use std::time::Duration;

use super::{Result, StoreError};
use crate::resilience::{Breaker, BreakerSettings, Permit, Retry};

/// A read of a server's database takes no longer, all attempts together. A file needs no such bound: its own statements wait
/// for other processes' locks for a while and no longer, and that many here want to read it is no fault of it.
pub(super) const SERVER_PATIENCE: Duration = Duration::from_secs(1);

/// Stands before calls that somebody waits for.
#[derive(Debug, Clone)]
pub(super) struct Guard {
    breaker: Arc<Breaker>,
    retry: Retry,
    patience: Option<Duration>,
}

impl Guard {
    /// With a breaker of its own.
    pub fn new(is_file: bool) -> Self {
        let breaker = Breaker::new("database", BreakerSettings::default());
        let patience = if is_file { None } else { Some(SERVER_PATIENCE) };
        Self { breaker, retry: Retry::default(), patience }
    }

    /// With this breaker, and attempts as often as this says.
    pub fn with(self, breaker: Arc<Breaker>, retry: Retry) -> Self {
        Self { breaker, retry, ..self }
    }

    /// Makes a call that changes nothing, as often as it may help.
    pub async fn read<T, F: Future<Output = sqlx::Result<T>>>(&self, call: impl FnMut() -> F) -> Result<T> {
        self.bounded(self.retry.run(is_away, call)).await
    }

    /// Makes a call once.
    pub async fn once<T>(&self, call: impl Future<Output = sqlx::Result<T>>) -> Result<T> {
        self.bounded(call).await
    }

    /// Lets a call begin that ends by itself, and whose outcome is told.
    pub fn admit(&self) -> Result<Permit> {
        Ok(self.breaker.admit()?)
    }

    async fn bounded<T>(&self, call: impl Future<Output = sqlx::Result<T>>) -> Result<T> {
        let permit = self.breaker.admit()?;
        let outcome = match self.patience {
            Some(patience) => tokio::time::timeout(patience, call).await.unwrap_or(Err(sqlx::Error::PoolTimedOut)),
            None => call.await,
        };
        if outcome.as_ref().is_err_and(is_away) {
            permit.fail();
        } else {
            permit.succeed();
        }
        outcome.map_err(StoreError::from)
    }
}

/// Tells the outcome of a call. A database that objects to a statement has answered.
pub(super) fn tell<T>(permit: Permit, outcome: &Result<T>) {
    match outcome {
        Ok(_) | Err(StoreError::Database(sqlx::Error::Database(_))) => permit.succeed(),
        Err(error) if error.may_pass() => permit.fail(),
        Err(_) => permit.succeed(),
    }
}

/// Whether the database is away or busy, but does not object.
pub(super) fn is_away(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => matches!(error.kind(), sqlx::error::ErrorKind::Other),
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::WorkerCrashed => true,
        _ => false,
    }
}
