//! Making and recognising API keys: 256 random bits behind `sk-`, shown once, stored as HMAC-SHA-256 under a pepper.

use hmac::{Hmac, KeyInit as _, Mac as _};
use rand::distr::{Alphanumeric, SampleString as _};
use sha2::Sha256;

use super::{AuthError, Authenticator, KEY_PREFIX, Scope};
use crate::limits::Quota;
use crate::store::{ApiKey, Moment, NewApiKey, Purpose, Store};

/// 62^43 > 2^256.
const KEY_CHARACTERS: usize = 43;
const HINT_CHARACTERS: usize = 4;

/// A key that somebody wants.
#[derive(Debug, Clone, Default)]
pub struct KeyRequest {
    /// What its owner calls it.
    pub name: String,
    /// What it may be used for; none is what is ordinary.
    pub scopes: Vec<Scope>,
    /// Models that it may use; none is all.
    pub models: Vec<String>,
    /// Limits of its own.
    pub limits: Quota,
    /// When it ends to be good.
    pub expires_at: Option<Moment>,
}

/// A key that has just been made.
pub struct MadeKey {
    /// What is stored.
    pub key: ApiKey,
    /// The key itself, which nobody can ever show again.
    pub secret: String,
}

impl Authenticator {
    /// Makes a key for a user.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn make_key(&self, user_id: &str, request: KeyRequest) -> Result<MadeKey, AuthError> {
        let secret = format!("{KEY_PREFIX}{}", Alphanumeric.sample_string(&mut rand::rng(), KEY_CHARACTERS));
        let KeyRequest { name, mut scopes, models, limits, expires_at } = request;
        let limits = serde_json::to_string(&limits).unwrap_or_default();
        if scopes.is_empty() {
            scopes.extend(Scope::ORDINARY);
        }
        let scopes: Vec<String> = scopes.into_iter().map(|scope| scope.as_str().to_owned()).collect();
        let new = NewApiKey {
            user_id,
            name: &name,
            hash: &self.inner.keys.hash(&secret),
            hint: &secret[secret.len() - HINT_CHARACTERS..],
            scopes: &scopes,
            models: &models,
            limits: &limits,
            expires_at,
        };
        let key = self.inner.store.add_api_key(new).await?;
        Ok(MadeKey { key, secret })
    }
}

/// Hashes secrets that are stored only as hashes.
pub(super) struct KeyHasher {
    /// The newest first.
    peppers: Vec<Hmac<Sha256>>,
}

impl std::fmt::Debug for KeyHasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyHasher").field("peppers", &self.peppers.len()).finish()
    }
}

impl KeyHasher {
    pub async fn open(store: &Store) -> Result<Self, AuthError> {
        let make = || Alphanumeric.sample_string(&mut rand::rng(), KEY_CHARACTERS);
        let pepper = |secret: &crate::store::Secret| {
            Hmac::new_from_slice(secret.material.as_bytes())
                .map_err(|error| AuthError::Secret("pepper of API keys", error.to_string()))
        };
        let secrets = store.secrets(Purpose::KeyPepper, make).await?;
        Ok(Self { peppers: secrets.iter().map(pepper).collect::<Result<_, _>>()? })
    }

    /// The hash to store.
    pub fn hash(&self, secret: &str) -> String {
        self.hashes(secret).next().unwrap_or_default()
    }

    /// All hashes that may have been stored of a secret, the likeliest first.
    pub fn hashes(&self, secret: &str) -> impl Iterator<Item = String> {
        self.peppers.iter().map(move |pepper| {
            let mut mac = pepper.clone();
            mac.update(secret.as_bytes());
            hex::encode(mac.finalize().into_bytes())
        })
    }
}
