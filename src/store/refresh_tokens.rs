//! Refresh tokens: each is good for one use, which makes the next of its family. A second use means that somebody has
//! stolen one, and ends the family (RFC 9700, section 4.14.2).

use sqlx::Row as _;

use super::{Moment, Result, Store, now};

/// A refresh token to be stored.
#[derive(Debug, Clone, Copy)]
pub struct RefreshToken<'a> {
    /// The keyed hash of the token.
    pub hash: &'a str,
    /// All that descend from one login.
    pub family: &'a str,
    /// Whose it is.
    pub user_id: &'a str,
    /// When it ends to be good.
    pub expires_at: Moment,
}

/// What became of a refresh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rotation {
    /// The old token is used up, the new one stands in its place.
    Done {
        /// Whose they are.
        user_id: String,
    },
    /// The old token was used before: its family has been ended.
    Reused,
    /// There is no such token, or it has expired.
    Unknown,
}

impl Store {
    /// Begins a family.
    pub async fn add_refresh_token(&self, token: RefreshToken<'_>) -> Result<()> {
        insert(&self.pool, token).await
    }

    /// Whose token this is, as long as it can be used.
    pub async fn user_of_refresh_token(&self, hash: &str) -> Result<Option<String>> {
        let statement = "SELECT user_id FROM refresh_tokens WHERE hash = $1 AND used_at IS NULL AND expires_at > $2";
        let found = self.row(|| sqlx::query(statement).bind(hash).bind(now())).await?;
        Ok(found.map(|row| row.try_get("user_id")).transpose()?)
    }

    /// Uses a token up and puts one with the hash `new` in its place, which expires at `expires_at`. Of several that
    /// try at once, one succeeds.
    pub async fn rotate_refresh_token(&self, old: &str, new: &str, expires_at: Moment) -> Result<Rotation> {
        let mut transaction = self.pool.begin().await?;
        let statement = "UPDATE refresh_tokens SET used_at = $1 WHERE hash = $2 AND used_at IS NULL AND expires_at > $1 \
                         RETURNING family, user_id";
        let taken = sqlx::query(statement).bind(now()).bind(old).fetch_optional(&mut *transaction).await?;
        let rotation = if let Some(row) = taken {
            let (family, user_id): (String, String) = (row.try_get("family")?, row.try_get("user_id")?);
            insert(&mut *transaction, RefreshToken { hash: new, family: &family, user_id: &user_id, expires_at })
                .await?;
            Rotation::Done { user_id }
        } else {
            let statement = "DELETE FROM refresh_tokens WHERE family IN \
                             (SELECT family FROM refresh_tokens WHERE hash = $1 AND used_at IS NOT NULL)";
            let ended = sqlx::query(statement).bind(old).execute(&mut *transaction).await?;
            if ended.rows_affected() > 0 { Rotation::Reused } else { Rotation::Unknown }
        };
        transaction.commit().await?;
        Ok(rotation)
    }

    /// Ends the family of this token.
    pub async fn end_refresh_family(&self, hash: &str) -> Result<()> {
        let statement =
            "DELETE FROM refresh_tokens WHERE family IN (SELECT family FROM refresh_tokens WHERE hash = $1)";
        sqlx::query(statement).bind(hash).execute(&self.pool).await?;
        Ok(())
    }

    /// Forgets tokens that have expired.
    pub(super) async fn prune_refresh_tokens(&self) -> Result<u64> {
        let pruned = sqlx::query("DELETE FROM refresh_tokens WHERE expires_at <= $1").bind(now());
        Ok(pruned.execute(&self.pool).await?.rows_affected())
    }
}

async fn insert<'c>(executor: impl sqlx::Executor<'c, Database = sqlx::Any>, token: RefreshToken<'_>) -> Result<()> {
    sqlx::query("INSERT INTO refresh_tokens (hash, family, user_id, expires_at) VALUES ($1, $2, $3, $4)")
        .bind(token.hash)
        .bind(token.family)
        .bind(token.user_id)
        .bind(token.expires_at)
        .execute(executor)
        .await?;
    Ok(())
}
