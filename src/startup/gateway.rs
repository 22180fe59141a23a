//! Opens what stands in front of the engine: the database and what knows users by it. At the first start makes a first user, and a key to try the API with
//! that is kept in the data directory.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::Context as _;
use secrecy::ExposeSecret as _;

use super::Report;
use crate::auth::Authenticator;
use crate::config::{Config, StoreConfig};
use crate::server::AppState;
use crate::store::Store;
use crate::telemetry::Metrics;

/// Holds the key of the first start, readable for its owner only.
const KEY_FILE: &str = "first-key";

/// Everything that handlers share but the model.
///
/// # Errors
/// When a part cannot be opened.
pub async fn open(config: &Config, metrics: Metrics) -> anyhow::Result<AppState> {
    let auth = open_auth(config).await?;
    Ok(AppState::new(config.server.clone(), config.generation.max_choices, auth, metrics))
}

async fn open_store(config: &StoreConfig) -> anyhow::Result<Store> {
    match config {
        StoreConfig::Sqlite(path) => Store::sqlite(path).await.with_context(|| path.display().to_string()),
        StoreConfig::Postgres(url) => Store::postgres(url.expose_secret()).await.context("PostgreSQL (store.url)"),
    }
}

/// Opens the database and what checks credentials by it.
///
/// # Errors
/// When the database cannot be opened.
pub async fn open_auth(config: &Config) -> anyhow::Result<Authenticator> {
    let store = open_store(&config.store).await?;
    Ok(Authenticator::open(store, &config.auth).await?)
}

/// Makes the first user where there is none. Returns the key to try the API with, if one is needed and known.
pub(super) async fn first_start(
    config: &Config,
    auth: &Authenticator,
    report: Report,
) -> anyhow::Result<Option<String>> {
    let path = config.data.join(KEY_FILE);
    if let Some(first) = auth.first_user().await? {
        write_private(&path, &first.key).with_context(|| path.display().to_string())?;
        report.first_user(&first, &path);
    }
    let known = std::fs::read_to_string(&path).unwrap_or_default().trim().to_owned();
    let good = config.auth.required && !known.is_empty() && auth.bearer(&known).await.is_ok();
    Ok(good.then_some(known))
}

fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
    writeln!(file, "{text}")
}
