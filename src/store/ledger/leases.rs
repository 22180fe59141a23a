//! Leases of the processes that share a PostgreSQL: what was held by one that has died is void when its lease has ended.
//! Times are the server's, so that the clocks of replicas do not matter.

use sqlx::Row as _;

use super::{Result, Store, holds};
use crate::store::Write;

const NOW: &str = "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)";

impl Store {
    /// Makes or renews a lease for so many milliseconds.
    pub async fn renew_lease(&self, owner: &str, milliseconds: i64) -> Result<()> {
        let statement = sqlx::AssertSqlSafe(format!(
            "INSERT INTO leases (owner, expires_at) VALUES ($1, {NOW} + $2) \
             ON CONFLICT (owner) DO UPDATE SET expires_at = excluded.expires_at"
        ));
        sqlx::query(statement).bind(owner).bind(milliseconds).execute(&self.pool).await?;
        Ok(())
    }

    /// Gives a lease back before its time.
    pub async fn end_lease(&self, owner: &str) -> Result<()> {
        sqlx::query("DELETE FROM leases WHERE owner = $1").bind(owner).execute(&self.pool).await?;
        Ok(())
    }

    /// Voids the holds of owners that have no lease, and says of how many requests.
    pub async fn void_orphaned_holds(&self) -> Result<usize> {
        let statement = sqlx::AssertSqlSafe(format!("DELETE FROM leases WHERE expires_at <= {NOW}"));
        sqlx::query(statement).execute(&self.pool).await?;
        let statement = "SELECT DISTINCT request_id FROM holds WHERE owner NOT IN (SELECT owner FROM leases)";
        let orphans = sqlx::query(statement).fetch_all(&self.pool).await?;
        for orphan in &orphans {
            let request_id: String = orphan.try_get("request_id")?;
            self.write_apart(Write::new(request_id, |connection, id| Box::pin(holds::void(connection, id)))).await?;
        }
        Ok(orphans.len())
    }
}
