//! Why somebody is not let in. Deliberately few words: an attacker learns nothing from them.

use std::time::Duration;

use crate::store::StoreError;

/// Why a credential was not taken or not given.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// There is no credential, and one is required.
    #[error("there is no credential")]
    Missing,
    /// The credential is not good: unknown, expired, revoked, or its user is disabled.
    #[error("the credential is not valid")]
    Invalid,
    /// Name and password do not belong together.
    #[error("Incorrect username or password")]
    WrongPassword,
    /// Too many failed logins; one may try again after this.
    #[error("too many failed logins")]
    TooMany(Duration),
    /// A name that nobody can have.
    #[error("a user name has 1 to 128 bytes, no control characters and no space around it")]
    BadName,
    /// A password that is too short to be one.
    #[error("a password needs at least {0} characters")]
    WeakPassword(usize),
    /// A secret in the database or the configuration cannot be used.
    #[error("the {0} cannot be used: {1}")]
    Secret(&'static str, String),
    /// Somebody outside who must be asked does not answer.
    #[error("the {0} cannot be asked: {1}")]
    Unavailable(&'static str, String),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The operating system gives no random numbers, or a task was lost.
    #[error("{0}")]
    System(String),
}

impl AuthError {
    /// Whether the credential could not be checked, good or not.
    pub fn is_ours(&self) -> bool {
        matches!(self, Self::Unavailable(..) | Self::Store(_) | Self::Secret(..) | Self::System(_))
    }
}
