//! Moves what SQLite's write-ahead log holds into the database file, beside the commits and not within one of them.

use std::time::Duration;

use sqlx::{Connection as _, Executor as _};
use tokio::sync::watch;

use super::Connection;
use super::connections::Connector;

/// At most so often.
const PAUSE: Duration = Duration::from_secs(1);
/// Works after commits, until nobody can commit any more.
pub(super) async fn run(connector: Connector, mut written: watch::Receiver<()>) {
    let mut kept = None;
    while written.changed().await.is_ok() {
        tokio::time::sleep(PAUSE).await;
        written.mark_unchanged();
        match checkpoint(&connector, kept.take()).await {
            Ok(connection) => kept = Some(connection),
            Err(error) => tracing::warn!(%error, "the database's log is not moved into its file"),
        }
    }
    if let Some(connection) = kept {
        connection.close().await.ok();
    }
}

async fn checkpoint(connector: &Connector, kept: Option<Connection>) -> sqlx::Result<Connection> {
    let mut connection = match kept {
        Some(connection) => connection,
        None => connector.connect().await?,
    };
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").await?;
    Ok(connection)
}
