//! Who asks: credentials become an [`Identity`], or nothing. Must not know HTTP.

mod accounts;
mod api_keys;
mod attempts;
mod directory;
mod error;
mod group_name;
mod issuer;
mod login;
mod outside;
mod passwords;
mod recheck;
mod scope;
mod tokens;

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use secrecy::ExposeSecret as _;

pub use accounts::{Account, AccountChange, FirstUser};
pub use api_keys::{KeyRequest, MadeKey};
pub use error::AuthError;
pub use login::Login;
pub use outside::Outside;
pub use scope::Scope;

use self::api_keys::KeyHasher;
use self::attempts::Attempts;
use self::passwords::Passwords;
use self::tokens::Tokens;
use crate::config::AuthConfig;
use crate::limits::Quota;
use crate::store::{Moment, Role, Source, Store, StoreError, User, now};

/// Somebody who may ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Who.
    pub user_id: String,
    /// Under what name.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// Department, if any, and its own limits.
    pub department: Option<(String, Quota)>,
    /// What they came with.
    pub credential: Credential,
}

/// What somebody came with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// Nothing, where nothing is required.
    Anonymous,
    /// The key of this installation's services.
    Internal,
    /// An access token, by its `jti`.
    Token(String),
    /// An API key.
    Key {
        /// Which.
        id: String,
        /// What it may be used for.
        scopes: Vec<String>,
        /// Models that it may use; none is all.
        models: Vec<String>,
        /// Its own limits.
        limits: Quota,
    },
}

/// Checks credentials and makes them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Authenticator {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    keys: KeyHasher,
    tokens: Tokens,
    passwords: Passwords,
    attempts: Attempts,
    outside: Outside,
    /// Users of the directory who have been looked up, or are being, a moment ago.
    rechecked: Cache<String, ()>,
    /// Requests without a credential are refused.
    required: bool,
    /// The keyed hash of what services send.
    internal: Option<String>,
}

/// What every API key begins with; other bearers are access tokens.
pub const KEY_PREFIX: &str = "sk-";
/// While the directory does not answer, it is asked about a user who keeps coming at most this often.
const RECHECK_PAUSE: Duration = Duration::from_mins(1);
const REMEMBERED: u64 = 100_000;

impl Authenticator {
    /// Reads the secrets, which are made when there are none. Nobody else vouches for users.
    ///
    /// # Errors
    /// When the database fails or holds secrets that make no sense.
    pub async fn open(store: Store, config: &AuthConfig) -> Result<Self, AuthError> {
        Self::open_with(store, config, Outside::default()).await
    }

    /// The same, where others may vouch for users.
    ///
    /// # Errors
    /// When the database fails or holds secrets that make no sense.
    pub async fn open_with(store: Store, config: &AuthConfig, outside: Outside) -> Result<Self, AuthError> {
        let keys = KeyHasher::open(&store).await?;
        let tokens = Tokens::open(&store, config).await?;
        let internal = config.internal_key.as_ref().map(|key| keys.hash(key.expose_secret()));
        let (passwords, attempts) = (Passwords::new(), Attempts::new());
        let rechecked = Cache::builder().max_capacity(REMEMBERED).time_to_live(RECHECK_PAUSE).build();
        let required = config.required;
        let inner = Inner { store, keys, tokens, passwords, attempts, outside, rechecked, required, internal };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The users, keys and secrets behind it.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// Who asks without a credential.
    ///
    /// # Errors
    /// [`AuthError::Missing`] where one is required.
    pub fn nobody(&self) -> Result<Identity, AuthError> {
        if self.inner.required { Err(AuthError::Missing) } else { Ok(Identity::unnamed(Credential::Anonymous)) }
    }

    /// Who sends this as `x-internal-auth`.
    ///
    /// # Errors
    /// [`AuthError::Invalid`] where it is wrong, or none is configured.
    pub fn internal(&self, presented: &str) -> Result<Identity, AuthError> {
        // Keyed hashes are compared: how far two of them agree says nothing about the key.
        let right = self.inner.internal.as_ref() == Some(&self.inner.keys.hash(presented));
        if right { Ok(Identity::unnamed(Credential::Internal)) } else { Err(AuthError::Invalid) }
    }

    /// Whose bearer credential this is.
    ///
    /// # Errors
    /// [`AuthError::Invalid`] for anything that is not good now, whatever the reason.
    pub async fn bearer(&self, credential: &str) -> Result<Identity, AuthError> {
        if credential.starts_with(KEY_PREFIX) { self.api_key(credential).await } else { self.token(credential).await }
    }

    /// The identity of a user for whom somebody acts, who keeps their own credential.
    ///
    /// # Errors
    /// When there is no such user, or they are disabled.
    pub async fn acting_for(&self, user_id: &str, actor: &Identity) -> Result<Identity, AuthError> {
        let user = self.find_user(user_id).await?;
        if user.is_out() {
            return Err(StoreError::NotFound(format!("user {user_id}")).into());
        }
        Ok(user.identity(actor.credential.clone()))
    }

    async fn api_key(&self, secret: &str) -> Result<Identity, AuthError> {
        let Inner { store, keys, .. } = &*self.inner;
        for hash in keys.hashes(secret) {
            if let Some(key) = store.api_key_hashed(&hash).await? {
                if !key.is_good(now()) {
                    return Err(AuthError::Invalid);
                }
                let user = self.active_user(&key.user_id).await?;
                return Ok(user.identity(Credential::Key {
                    id: key.id,
                    scopes: key.scopes,
                    models: key.models,
                    limits: quota(&key.limits),
                }));
            }
        }
        Err(AuthError::Invalid)
    }

    async fn token(&self, token: &str) -> Result<Identity, AuthError> {
        // What a token says of its issuer decides who checks it, and nothing else.
        if let Some(issuer) = self.inner.outside.issuer.as_ref().filter(|issuer| issuer.is_named_by(token)) {
            let token = issuer.verify(token).await?;
            let user = self.adopt(Source::Issuer, &token.person, &issuer.rules).await?;
            let revoked = self.inner.store.is_revoked(&token.id).await?;
            return bearer_of(user.ok_or(AuthError::Invalid)?, revoked, token.id, token.issued_at);
        }
        let claims = self.inner.tokens.verify(token)?;
        let found = self.inner.store.user_with_token(&claims.sub, &claims.jti).await?;
        let (user, revoked) = found.ok_or(AuthError::Invalid)?;
        let issued_at = claims.issued_at();
        bearer_of(self.active(user)?, revoked, claims.jti, issued_at)
    }

    async fn active_user(&self, id: &str) -> Result<User, AuthError> {
        self.active(self.inner.store.user(id).await?.ok_or(AuthError::Invalid)?)
    }

    fn active(&self, user: User) -> Result<User, AuthError> {
        if user.is_out() {
            return Err(AuthError::Invalid);
        }
        self.recheck_soon(&user);
        Ok(user)
    }
}

fn bearer_of(user: User, revoked: bool, token_id: String, issued_at: Moment) -> Result<Identity, AuthError> {
    if user.is_out() || issued_at < user.tokens_from || revoked {
        return Err(AuthError::Invalid);
    }
    Ok(user.identity(Credential::Token(token_id)))
}

impl Identity {
    /// Somebody who is no user of the database.
    fn unnamed(credential: Credential) -> Self {
        let name = if credential == Credential::Internal { "internal" } else { "anonymous" };
        Self { user_id: name.into(), name: name.into(), role: Role::User, department: None, credential }
    }
}

impl User {
    fn identity(self, credential: Credential) -> Identity {
        let Self { id, name, role, department_id, department_limits, .. } = self;
        let department = department_id.map(|id| (id, quota(&department_limits.unwrap_or_default())));
        Identity { user_id: id, name, role, department, credential }
    }
}

/// Limits as they are stored; what makes no sense limits nothing.
fn quota(json: &str) -> Quota {
    serde_json::from_str(json).unwrap_or_default()
}

#[cfg(test)]
mod tests;
