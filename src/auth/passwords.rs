//! Passwords: Argon2id (RFC 9106) at OWASP's parameters. Checking one takes the same time whether the user exists or not.

use std::sync::Arc;

use argon2::Argon2;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use rand::distr::{Alphanumeric, SampleString as _};
use tokio::sync::Semaphore;

use super::AuthError;

const LEAST_CHARACTERS: usize = 8;
/// Each check takes 19 MiB and a core for some milliseconds; no more than this at once.
const AT_ONCE: usize = 2;

/// Checks passwords off the async threads.
#[derive(Debug)]
pub(super) struct Passwords {
    turns: Arc<Semaphore>,
    /// Checked in place of the hash of a user who does not exist.
    nobody: String,
}

impl Passwords {
    pub fn new() -> Self {
        let nobody = hash(&random()).unwrap_or_default();
        Self { turns: Arc::new(Semaphore::new(AT_ONCE)), nobody }
    }

    /// Whether the password belongs to this hash; never where there is no hash.
    pub async fn verify(&self, password: String, hash: Option<String>) -> Result<bool, AuthError> {
        let lost = |error: &dyn std::fmt::Display| AuthError::System(format!("a password was not checked: {error}"));
        let turn = Arc::clone(&self.turns).acquire_owned().await.map_err(|error| lost(&error))?;
        let (exists, hash) = (hash.is_some(), hash.unwrap_or_else(|| self.nobody.clone()));
        let check = move || {
            let _turn = turn;
            Argon2::default().verify_password(password.as_bytes(), hash.as_str()).is_ok() && exists
        };
        tokio::task::spawn_blocking(check).await.map_err(|error| lost(&error))
    }
}

/// The PHC string of a password, under a new salt.
///
/// # Errors
/// When it is too short.
pub fn hash(password: &str) -> Result<String, AuthError> {
    if password.chars().count() < LEAST_CHARACTERS {
        return Err(AuthError::WeakPassword(LEAST_CHARACTERS));
    }
    let hash = Argon2::default().hash_password(password.as_bytes());
    hash.map(|hash| hash.to_string()).map_err(|error| AuthError::System(error.to_string()))
}

/// A password nobody guesses: 119 bits.
pub fn random() -> String {
    Alphanumeric.sample_string(&mut rand::rng(), 20)
}
