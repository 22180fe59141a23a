//! `[store]`: the SQL database of users, keys, books and the audit log.

use std::path::{Path, PathBuf};

use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::check::{Origin, invalid};
use super::data::RawData;

/// Which SQL database.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawStore {
    pub url: String,
}

/// `[store]`, resolved.
#[derive(Debug, Clone)]
pub enum StoreConfig {
    /// SQLite in this file.
    Sqlite(PathBuf),
    /// PostgreSQL at this URL, which may hold a password.
    Postgres(SecretString),
}

impl RawStore {
    /// Judges the values.
    pub(super) fn resolve(self, data: &RawData, origin: Origin) -> Result<StoreConfig, ConfigError> {
        let url = self.url;
        if url.is_empty() {
            return Ok(StoreConfig::Sqlite(Path::new(&data.dir).join("steppe.db")));
        }
        if let Some(path) = url.strip_prefix("sqlite:") {
            return Ok(StoreConfig::Sqlite(path.trim_start_matches("//").into()));
        }
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            return Ok(StoreConfig::Postgres(url.into()));
        }
        let problem = "must be postgres://USER:PASSWORD@HOST/DATABASE or sqlite:FILE";
        Err(invalid("store.url", origin, problem.into()))
    }
}
