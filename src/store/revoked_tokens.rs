//! Access tokens that were revoked before their end, by `jti`.

use super::{Moment, Result, Store, now};

impl Store {
    /// Notes that a token which would be good until `expires_at` is not.
    pub async fn revoke_token(&self, jti: &str, expires_at: Moment) -> Result<()> {
        let statement = "INSERT INTO revoked_tokens (jti, expires_at) VALUES ($1, $2) ON CONFLICT (jti) DO NOTHING";
        sqlx::query(statement).bind(jti).bind(expires_at).execute(&self.pool).await?;
        Ok(())
    }

    /// Whether a token was revoked.
    pub async fn is_revoked(&self, jti: &str) -> Result<bool> {
        let statement = "SELECT 1 FROM revoked_tokens WHERE jti = $1";
        Ok(self.row(|| sqlx::query(statement).bind(jti)).await?.is_some())
    }

    /// Forgets access and refresh tokens that have ended by themselves.
    pub async fn prune_tokens(&self) -> Result<u64> {
        Ok(self.prune_revoked_tokens().await? + self.prune_refresh_tokens().await?)
    }

    /// Forgets tokens that have ended by themselves.
    pub(super) async fn prune_revoked_tokens(&self) -> Result<u64> {
        let pruned = sqlx::query("DELETE FROM revoked_tokens WHERE expires_at <= $1").bind(now());
        Ok(pruned.execute(&self.pool).await?.rows_affected())
    }
}
