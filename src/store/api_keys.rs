//! API keys. What is stored of one is a keyed hash: whoever reads the database has no key.

use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::{Moment, Result, Store, StoreError, new_id, now};

/// An API key as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Made by the program.
    pub id: String,
    /// Whose it is.
    pub user_id: String,
    /// What its owner calls it.
    pub name: String,
    /// The key's last characters, to tell it from others.
    pub hint: String,
    /// What it may be used for.
    pub scopes: Vec<String>,
    /// Models that it may use; none is all.
    pub models: Vec<String>,
    /// Its own limits, a JSON object.
    pub limits: String,
    /// When it was made.
    pub created_at: Moment,
    /// When it ends to be good.
    pub expires_at: Option<Moment>,
    /// When it was taken back.
    pub revoked_at: Option<Moment>,
}

/// An API key to be added.
#[derive(Debug, Clone, Copy)]
pub struct NewApiKey<'a> {
    /// Whose it is.
    pub user_id: &'a str,
    /// What its owner calls it.
    pub name: &'a str,
    /// The keyed hash.
    pub hash: &'a str,
    /// The key's last characters.
    pub hint: &'a str,
    /// What it may be used for.
    pub scopes: &'a [String],
    /// Models that it may use; none is all.
    pub models: &'a [String],
    /// Its own limits, a JSON object.
    pub limits: &'a str,
    /// When it ends to be good.
    pub expires_at: Option<Moment>,
}

const COLUMNS: &str = "id, user_id, name, hint, scopes, models, limits, created_at, expires_at, revoked_at";

impl ApiKey {
    /// Whether it is neither revoked nor expired.
    pub fn is_good(&self, now: Moment) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|end| now < end)
    }
}

impl Store {
    /// Adds a key.
    pub async fn add_api_key(&self, new: NewApiKey<'_>) -> Result<ApiKey> {
        let key = ApiKey {
            id: new_id("key"),
            user_id: new.user_id.to_owned(),
            name: new.name.to_owned(),
            hint: new.hint.to_owned(),
            scopes: new.scopes.to_vec(),
            models: new.models.to_vec(),
            limits: new.limits.to_owned(),
            created_at: now(),
            expires_at: new.expires_at,
            revoked_at: None,
        };
        sqlx::query(
            "INSERT INTO api_keys (id, user_id, name, hash, hint, scopes, models, limits, created_at, \
             expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        )
        .bind(&key.id)
        .bind(&key.user_id)
        .bind(&key.name)
        .bind(new.hash)
        .bind(&key.hint)
        .bind(written(&key.scopes))
        .bind(written(&key.models))
        .bind(&key.limits)
        .bind(key.created_at)
        .bind(key.expires_at)
        .execute(&self.pool)
        .await?;
        Ok(key)
    }

    /// The key with this hash, good or not.
    pub async fn api_key_hashed(&self, hash: &str) -> Result<Option<ApiKey>> {
        let statement = || sqlx::AssertSqlSafe(format!("SELECT {COLUMNS} FROM api_keys WHERE hash = $1"));
        self.row(|| sqlx::query(statement()).bind(hash)).await?.as_ref().map(api_key).transpose()
    }

    /// A user's keys, oldest first, revoked and expired ones too.
    pub async fn api_keys_of(&self, user_id: &str) -> Result<Vec<ApiKey>> {
        let statement =
            sqlx::AssertSqlSafe(format!("SELECT {COLUMNS} FROM api_keys WHERE user_id = $1 ORDER BY created_at, id"));
        sqlx::query(statement).bind(user_id).fetch_all(&self.pool).await?.iter().map(api_key).collect()
    }

    /// Takes a key of this user back; revoking it again changes nothing.
    ///
    /// # Errors
    /// When the user has no such key.
    pub async fn revoke_api_key(&self, user_id: &str, id: &str) -> Result<()> {
        let statement = "UPDATE api_keys SET revoked_at = COALESCE(revoked_at, $1) WHERE id = $2 AND user_id = $3";
        let changed = sqlx::query(statement).bind(now()).bind(id).bind(user_id).execute(&self.pool).await?;
        if changed.rows_affected() == 0 {
            return Err(StoreError::NotFound(format!("key {id}")));
        }
        Ok(())
    }
}

fn written(list: &[String]) -> String {
    serde_json::Value::from(list).to_string()
}

fn list(row: &AnyRow, column: &str) -> Result<Vec<String>> {
    let text: String = row.try_get(column)?;
    serde_json::from_str(&text).map_err(|_| StoreError::Foreign(format!("{column} that are no list")))
}

fn api_key(row: &AnyRow) -> Result<ApiKey> {
    Ok(ApiKey {
        id: row.try_get("id")?,
        user_id: row.try_get("user_id")?,
        name: row.try_get("name")?,
        hint: row.try_get("hint")?,
        scopes: list(row, "scopes")?,
        models: list(row, "models")?,
        limits: row.try_get("limits")?,
        created_at: row.try_get("created_at")?,
        expires_at: row.try_get("expires_at")?,
        revoked_at: row.try_get("revoked_at")?,
    })
}
