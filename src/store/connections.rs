//! How connections are opened, and those that reads use which a request waits for. The pool asks a connection whether it
//! lives whenever one is given back, which doubles the way to the database; here one whose last statement ended well
//! is taken to live, and one whose statement failed or was left alone is closed.

use std::sync::{Arc, Mutex, PoisonError};

use sqlx::any::{AnyArguments, AnyConnectOptions, AnyRow};
use sqlx::query::Query;
use sqlx::{Any, Connection as _, Executor as _};
use tokio::sync::Semaphore;

use super::{Connection, guard};

/// Opens connections.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    pub options: AnyConnectOptions,
    /// Statements that each connection begins with.
    pub settings: &'static str,
}

impl Connector {
    pub async fn connect(&self) -> sqlx::Result<Connection> {
        let mut connection = Connection::connect_with(&self.options).await?;
        connection.execute(self.settings).await?;
        Ok(connection)
    }
}

/// Connections for reads of one row. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Readers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    connector: Connector,
    /// As many as may be open.
    most: u32,
    permits: Semaphore,
    /// The one used last is used next.
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    /// So many at most, which are opened when they are needed.
    pub fn new(connector: Connector, most: u32) -> Self {
        Self(Arc::new(Inner { connector, most, permits: Semaphore::new(most as usize), idle: Mutex::default() }))
    }

    /// The row, if there is one.
    pub async fn row(&self, query: Query<'_, Any, AnyArguments>) -> sqlx::Result<Option<AnyRow>> {
        let Inner { connector, permits, idle, .. } = &*self.0;
        let _permit = permits.acquire().await.map_err(|_| sqlx::Error::PoolClosed)?;
        let kept = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut connection = match kept {
            Some(connection) => connection,
            None => connector.connect().await?,
        };
        let row = query.fetch_optional(&mut connection).await;
        let mut idle = idle.lock().unwrap_or_else(PoisonError::into_inner);
        match &row {
            // What this one has lost, the others have as well.
            Err(error) if guard::is_away(error) => idle.clear(),
            _ => idle.push(connection),
        }
        row
    }

    /// Waits for reads that run, and closes.
    pub async fn close(&self) {
        let Inner { most, permits, idle, .. } = &*self.0;
        let all = permits.acquire_many(*most).await;
        let connections = std::mem::take(&mut *idle.lock().unwrap_or_else(PoisonError::into_inner));
        for connection in connections {
            connection.close().await.ok();
        }
        permits.close();
        drop(all);
    }
}
