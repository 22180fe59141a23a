//! Secrets that every replica shares: made once, whoever comes first; rotated by adding a generation, while older ones
//! stay good for what was made under them.

use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::{Result, Store, now};

/// What a secret is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Signs access tokens.
    TokenKey,
    /// Hashes API keys and refresh tokens.
    KeyPepper,
    /// Authenticates entries of the prompt cache.
    CacheMac,
    /// Seals the audit log.
    AuditKey,
}

/// One generation of a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    /// From 1 up.
    pub generation: i64,
    /// As its maker wrote it.
    pub material: String,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secret").field("generation", &self.generation).finish_non_exhaustive()
    }
}

impl Purpose {
    fn as_str(self) -> &'static str {
        match self {
            Self::TokenKey => "token_key",
            Self::KeyPepper => "key_pepper",
            Self::CacheMac => "cache_mac",
            Self::AuditKey => "audit_key",
        }
    }
}

impl Store {
    /// All generations of a secret, the newest first; the first one is made by `make` when there is none. Replicas that
    /// start at the same time get the same one.
    pub async fn secrets(&self, purpose: Purpose, make: impl FnOnce() -> String) -> Result<Vec<Secret>> {
        let known = self.secrets_of(purpose).await?;
        if !known.is_empty() {
            return Ok(known);
        }
        self.insert_secret(purpose, 1, &make()).await?;
        self.secrets_of(purpose).await
    }

    /// Adds a generation to a secret, which is the one used from now on.
    pub async fn rotate_secret(&self, purpose: Purpose, material: &str) -> Result<Vec<Secret>> {
        let newest = self.secrets_of(purpose).await?.first().map_or(0, |secret| secret.generation);
        self.insert_secret(purpose, newest + 1, material).await?;
        self.secrets_of(purpose).await
    }

    async fn insert_secret(&self, purpose: Purpose, generation: i64, material: &str) -> Result<()> {
        let statement = "INSERT INTO secrets (purpose, generation, material, created_at) VALUES ($1, $2, $3, $4) \
                         ON CONFLICT (purpose, generation) DO NOTHING";
        let insert = sqlx::query(statement).bind(purpose.as_str()).bind(generation).bind(material).bind(now());
        insert.execute(&self.pool).await?;
        Ok(())
    }

    async fn secrets_of(&self, purpose: Purpose) -> Result<Vec<Secret>> {
        let statement = "SELECT generation, material FROM secrets WHERE purpose = $1 ORDER BY generation DESC";
        sqlx::query(statement).bind(purpose.as_str()).fetch_all(&self.pool).await?.iter().map(secret).collect()
    }
}

fn secret(row: &AnyRow) -> Result<Secret> {
    Ok(Secret { generation: row.try_get("generation")?, material: row.try_get("material")? })
}
