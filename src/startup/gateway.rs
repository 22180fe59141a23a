//! Opens what stands in front of the engine, the database and what knows users by it, and keeps it tidy. At the first start
//! makes a first user, and a key to try the API with that is kept in the data directory.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Map;

use super::Report;
use crate::audit::{Audit, Event, Log};
use crate::auth::{Authenticator, Outside};
use crate::cache::Cache;
use crate::config::{Config, StoreConfig};
use crate::generate::Gate;
use crate::health::Health;
use crate::kv_store::KvStore;
use crate::ledger::Ledger;
use crate::limits::Limits;
use crate::resilience::Breakers;
use crate::server::AppState;
use crate::store::{Purpose, Store};
use crate::telemetry::{Metrics, Traces};

/// Holds the key of the first start, readable for its owner only.
const KEY_FILE: &str = "first-key";
/// Tokens that have ended are forgotten so often.
const PRUNING: Duration = Duration::from_hours(1);
/// Histograms are tidied so often.
const UPKEEP: Duration = Duration::from_secs(10);

/// Everything that handlers share but the model.
///
/// # Errors
/// When a part cannot be opened.
pub async fn open(config: &Config, metrics: Metrics) -> anyhow::Result<AppState> {
    let breakers = Breakers::new(config.breakers.clone());
    let outside = Outside::open(config.directory.as_ref(), config.issuer.as_ref(), &breakers)?;
    let auth = open_auth_with(config, &breakers, outside).await?;
    tokio::spawn(probe(auth.clone()));
    let shared = match &config.redis {
        Some(redis) => KvStore::redis(redis, breakers.breaker("redis")).context("redis")?,
        None => KvStore::memory(config.cache.memory),
    };
    let limits = Limits::new(config.limits.clone(), &shared).context("limits.storage")?;
    let ledger = Ledger::open(auth.store().clone(), config.billing.clone()).await?;
    let health = Health::new(auth.store().clone(), shared.clone(), ledger.clone(), config.data.clone());
    let cache = if config.cache.enabled { Some(open_cache(config, auth.store(), shared).await?) } else { None };
    let audit = Audit::open(auth.store().clone(), &config.audit).await.context("audit")?;
    let details = Map::from_iter([("version".to_owned(), env!("CARGO_PKG_VERSION").into())]);
    audit.record(Event::system("start", details));
    let environment = &config.telemetry.environment;
    let traces = match &config.telemetry.otlp {
        Some(otlp) => Traces::open(otlp, environment, breakers.breaker("otlp")).context("telemetry.otlp_endpoint")?,
        None => Traces::default(),
    };
    let gate = Gate::new(limits, ledger, cache, breakers, audit, metrics.clone(), config.cache.similar.clone());
    tokio::spawn(upkeep(metrics.clone()));
    tokio::spawn(prune(auth.store().clone()));
    Ok(AppState::new(config, auth, gate, health, metrics, traces))
}

async fn open_cache(config: &Config, store: &Store, shared: KvStore) -> anyhow::Result<Arc<Cache>> {
    let make = || hex::encode(rand::random::<[u8; 32]>());
    let secrets = store.secrets(Purpose::CacheMac, make).await?;
    let keys: Vec<&str> = secrets.iter().map(|secret| secret.material.as_str()).collect();
    Ok(Arc::new(Cache::new(shared, &keys, config.cache.settings.clone())?))
}

/// A directory that does not answer is no reason not to start: local users log in, and it may come back.
async fn probe(auth: Authenticator) {
    if let Err(error) = auth.probe_directory().await {
        tracing::warn!("{error}");
    }
}

/// Forgets tokens that have ended by themselves.
async fn prune(store: Store) {
    loop {
        if let Err(error) = store.prune_tokens().await {
            tracing::warn!("old tokens are not forgotten: {error}");
        }
        tokio::time::sleep(PRUNING).await;
    }
}

async fn upkeep(metrics: Metrics) {
    loop {
        tokio::time::sleep(UPKEEP).await;
        metrics.upkeep();
    }
}

async fn open_store(config: &StoreConfig) -> anyhow::Result<Store> {
    match config {
        StoreConfig::Sqlite(path) => Store::sqlite(path).await.with_context(|| path.display().to_string()),
        StoreConfig::Postgres(url) => Store::postgres(url.expose_secret()).await.context("PostgreSQL (store.url)"),
    }
}

/// Opens the database and what checks credentials by it; nobody outside is asked.
///
/// # Errors
/// When the database cannot be opened.
pub async fn open_auth(config: &Config) -> anyhow::Result<Authenticator> {
    open_auth_with(config, &Breakers::new(config.breakers.clone()), Outside::default()).await
}

async fn open_auth_with(config: &Config, breakers: &Breakers, outside: Outside) -> anyhow::Result<Authenticator> {
    let store = open_store(&config.store).await?.guarded(breakers.breaker("database"), config.retry.clone());
    Ok(Authenticator::open_with(store, &config.auth, outside).await?)
}

/// Opens the database and the audit log in it, to read and to prove it.
///
/// # Errors
/// When the database cannot be opened.
pub async fn open_audit_log(config: &Config) -> anyhow::Result<Log> {
    let key = config.audit.key.as_ref().map(SecretString::expose_secret);
    Ok(Log::open(open_store(&config.store).await?, key).await?)
}

/// Makes the first user where there is none. Returns the key to try the API with, if one is needed and known.
pub(super) async fn first_start(config: &Config, state: &AppState, report: Report) -> anyhow::Result<Option<String>> {
    let auth = &state.auth;
    let path = config.data.join(KEY_FILE);
    if let Some(first) = auth.first_user().await? {
        write_private(&path, &first.key).with_context(|| path.display().to_string())?;
        report.first_user(&first, &path);
        state.gate.audit.record(Event { object: first.name.into(), ..Event::system("user add", Map::new()) });
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
