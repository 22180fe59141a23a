//! Why the ledger did not do what it was asked to.

use super::{Account, Unit};
use crate::store::{Moment, StoreError};

/// Why a request may not run, or an amount was not posted.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// An account cannot pay.
    #[error("{account} is short of {missing} {}", if account.unit() == Unit::Money { "millionths" } else { "tokens" })]
    Short {
        /// Which.
        account: Account,
        /// By how much, in the account's unit.
        missing: i64,
        /// When it is full again; never by itself when none.
        resets_at: Option<Moment>,
    },
    /// There is a hold for this request already.
    #[error("request {0} has a hold already")]
    Duplicate(String),
    /// An amount that cannot be posted.
    #[error("an amount of {0} cannot be posted")]
    Amount(i64),
    /// Another process keeps this ledger.
    #[error("another process keeps the ledger in {0}")]
    InUse(String),
    /// The database failed: nobody can say what is left, and nothing may run.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The database has not answered in time. What was to be settled is being tried further.
    #[error("the database has not answered in time")]
    Late,
    /// The lock file could not be made.
    #[error("the lock file {path} could not be made: {source}")]
    File {
        /// The file.
        path: String,
        /// The system's error.
        source: std::io::Error,
    },
}
