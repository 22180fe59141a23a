//! Why the database did not do what it was asked to, and whether asking again may help.

use std::sync::Arc;

use super::guard;
use crate::resilience::BreakerOpen;

/// Why the database did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is one of this name already.
    #[error("`{0}` exists already")]
    Exists(String),
    /// There is none of this name.
    #[error("there is no {0}")]
    NotFound(String),
    /// What is stored makes no sense to this version of the program.
    #[error("the database holds {0}, which this version does not understand")]
    Foreign(String),
    /// The schema could not be brought up to date.
    #[error("the database could not be brought up to date: {0}")]
    Migration(#[from] sqlx::migrate::MigrateError),
    /// The database failed.
    #[error("the database failed: {0}")]
    Database(#[from] sqlx::Error),
    /// The transaction that this operation was part of was undone, or the database was not reached.
    #[error(transparent)]
    NotWritten(Arc<StoreError>),
    /// The database failed lately and was not asked.
    #[error(transparent)]
    Resting(#[from] BreakerOpen),
    /// The file of the database could not be made.
    #[error("the database file {path} could not be made: {source}")]
    File {
        /// The file.
        path: String,
        /// The system's error.
        source: std::io::Error,
    },
}

/// What a call gives.
pub type Result<T> = std::result::Result<T, StoreError>;

impl StoreError {
    /// Whether a row of this key exists.
    pub fn is_duplicate(&self) -> bool {
        matches!(self, Self::Database(error) if is_duplicate(error))
    }

    /// Whether the same operation may succeed later: the database is away or busy, but does not object.
    pub fn may_pass(&self) -> bool {
        let error = match self {
            Self::Database(error) => error,
            Self::NotWritten(error) => return error.may_pass(),
            Self::Resting(_) => return true,
            _ => return false,
        };
        guard::is_away(error)
    }
}

/// Whether an error says that a row of this key exists.
pub(super) fn is_duplicate(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(sqlx::error::DatabaseError::is_unique_violation)
}
