//! The SQL database: SQLite in the data directory, or PostgreSQL by URL. Statements and migrations are the same text for
//! both. One file per kind of row. Must not know HTTP, or what a secret is good for.

mod api_keys;
pub mod audit;
mod checkpoints;
mod connections;
mod departments;
mod error;
mod guard;
pub mod ledger;
mod migrations;
mod refresh_tokens;
mod revoked_tokens;
mod secrets;
mod users;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_core::future::BoxFuture;
use sqlx::any::{AnyArguments, AnyConnectOptions, AnyPoolOptions, AnyRow};
use sqlx::query::Query;
use sqlx::{Any, AnyPool, Executor as _};
use tokio::sync::watch;

pub use api_keys::{ApiKey, NewApiKey};
pub use departments::Department;
pub use error::{Result, StoreError};
pub use refresh_tokens::{RefreshToken, Rotation};
pub use secrets::{Purpose, Secret};
pub use sqlx::AnyConnection as Connection;
pub use users::{NewUser, Role, Source, User, Vouched};

use self::connections::{Connector, Readers};
use self::guard::Guard;
use self::writer::{Dialect, Writer};
pub use self::writer::{Work, Write};
use crate::resilience::{Breaker, Retry};

/// Milliseconds since 1970.
pub type Moment = i64;

/// A statement waits so long for a connection, and a connection for another's transaction.
const PATIENCE: Duration = Duration::from_secs(5);
const SQLITE_CONNECTIONS: u32 = 4;
const POSTGRES_CONNECTIONS: u32 = 16;
/// Of each of them, for the reads that requests wait for.
const READERS: u32 = 4;

/// The database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    pool: AnyPool,
    readers: Readers,
    writer: Writer,
    guard: Guard,
    file: Option<PathBuf>,
}

impl Store {
    /// Opens SQLite in this file, which is made when it is absent, readable for its owner only.
    ///
    /// # Errors
    /// When the file cannot be made or is no database of ours.
    pub async fn sqlite(path: &Path) -> Result<Self> {
        private_file(path).map_err(|source| StoreError::File { path: path.display().to_string(), source })?;
        // A path may hold anything, a URL may not.
        let encoded: String = path.display().to_string().bytes().map(url_byte).collect();
        let store = Self::open(&format!("sqlite:{encoded}"), SQLITE_CONNECTIONS).await?;
        Ok(Self { file: Some(path.to_owned()), ..store })
    }

    /// Connects to PostgreSQL.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses.
    pub async fn postgres(url: &str) -> Result<Self> {
        Self::open(url, POSTGRES_CONNECTIONS).await
    }

    async fn open(url: &str, connections: u32) -> Result<Self> {
        sqlx::any::install_default_drivers();
        let options: AnyConnectOptions = url.parse()?;
        let sqlite = url.starts_with("sqlite:");
        // A pool tries again until its patience ends; one connection says at once what is wrong.
        let connector = Connector { options, settings: if sqlite { SQLITE_SETTINGS } else { POSTGRES_SETTINGS } };
        // A pool tries again until its patience ends; one connection says at once what is wrong.
        let mut first = connector.connect().await?;
        migrations::all().run(&mut first).await?;
        let settings = connector.settings;
        let pool = AnyPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(PATIENCE)
            // A file does not hang up.
            .test_before_acquire(!sqlite)
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    connection.execute(settings).await?;
                    Ok(())
                })
            })
            .connect_with(connector.options.clone())
            .await?;
        let readers = Readers::new(connector.clone(), READERS);
        let (written, commits) = watch::channel(());
        let dialect = if sqlite {
            // The log is moved into the file beside the commits, and by one of them only when it has 16 MiB: longer ones are
            // overwritten later, and a log that grows takes the disk twice as long as one that is overwritten.
            first.execute("PRAGMA wal_autocheckpoint = 4096").await?;
            tokio::spawn(checkpoints::run(connector.clone(), commits));
            Dialect { begin: "BEGIN IMMEDIATE", lock: None }
        } else {
            Dialect { begin: "BEGIN", lock: Some(|connection, ids| Box::pin(ledger::accounts::lock(connection, ids))) }
        };
        let writer = Writer::start(connector, first, dialect, written);
        Ok(Self { pool, readers, writer, guard: Guard::new(sqlite), file: None })
    }

    /// The same, with this breaker before what requests wait for, and attempts of reads as often as this says.
    #[must_use]
    pub fn guarded(self, breaker: Arc<Breaker>, retry: Retry) -> Self {
        Self { guard: self.guard.with(breaker, retry), ..self }
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ping(&self) -> Result<()> {
        self.guard.read(|| sqlx::query("SELECT 1").execute(&self.pool)).await?;
        Ok(())
    }

    /// The file of SQLite; none where the database is a server's, which replicas may share.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// The row, if there is one, for somebody who waits.
    async fn row<'q>(&self, query: impl Fn() -> Query<'q, Any, AnyArguments>) -> Result<Option<AnyRow>> {
        self.guard.read(|| self.readers.row(query())).await
    }

    /// Has the writer write this, in one transaction with what others ask of it at the same time. It is under way when this
    /// returns; the future ends when it is committed. `then` is called before that, by the writer, in the order of the
    /// commits; it must not wait.
    pub fn write<A: Send + Sync + 'static, T: Send + 'static>(
        &self,
        write: Write<A, T>,
        then: impl FnOnce(&Result<T>) + Send + 'static,
    ) -> BoxFuture<'static, Result<T>> {
        if self.file.is_some() {
            return self.writer.write(write, then);
        }
        let permit = match self.guard.admit() {
            Ok(permit) => permit,
            Err(resting) => return Box::pin(async { Err(resting) }),
        };
        let written = self.writer.write(write, then);
        Box::pin(async move {
            let outcome = written.await;
            guard::tell(permit, &outcome);
            outcome
        })
    }

    /// Has it written by the writer where this process alone writes, else in a transaction of its own: what takes a lock for
    /// which other replicas wait must not share a transaction with what others here ask for.
    pub async fn write_apart<A: Send + Sync + 'static, T: Send + 'static>(&self, write: Write<A, T>) -> Result<T> {
        if self.file.is_some() {
            return self.write(write, |_| ()).await;
        }
        let mut transaction = self.guard.once(self.pool.begin()).await?;
        let done = write.run(&mut transaction).await?;
        transaction.commit().await?;
        Ok(done)
    }

    /// Lets `work` read the database as it is at one moment.
    pub async fn snapshot<T, E: From<StoreError>>(
        &self,
        work: impl for<'c> FnOnce(&'c mut Connection) -> BoxFuture<'c, std::result::Result<T, E>>,
    ) -> std::result::Result<T, E> {
        let mut transaction = self.pool.begin().await.map_err(StoreError::from)?;
        if self.file.is_none() {
            let statement = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ";
            transaction.execute(statement).await.map_err(StoreError::from)?;
        }
        work(&mut transaction).await
    }

    /// Waits until no statement runs, and closes.
    pub async fn close(&self) {
        self.writer.close().await;
        self.readers.close().await;
        self.pool.close().await;
    }
}

/// Readers do not wait for the writer, and a commit is on the disk when it returns.
const SQLITE_SETTINGS: &str = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; \
                               PRAGMA busy_timeout = 5000;";
/// No statement and no forgotten transaction keeps a connection for good.
const POSTGRES_SETTINGS: &str = "SET statement_timeout = '60s'; SET idle_in_transaction_session_timeout = '60s';";

fn private_file(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path).map(drop)
}

fn url_byte(byte: u8) -> String {
    if byte.is_ascii_alphanumeric() || b"/-_.".contains(&byte) {
        char::from(byte).to_string()
    } else {
        format!("%{byte:02X}")
    }
}

/// The moment it is.
pub fn now() -> Moment {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as Moment)
}

/// An identifier like `user_0193…`: later ones sort after earlier ones, and nobody can guess one.
pub(crate) fn new_id(kind: &str) -> String {
    format!("{kind}_{}", new_digits())
}

/// 32 hexadecimal digits: later ones sort after earlier ones, and nobody can guess them.
pub(crate) fn new_digits() -> String {
    format!("{:012x}{:020x}", now(), rand::random::<u128>() >> 48)
}

#[cfg(test)]
pub(crate) mod tests;
