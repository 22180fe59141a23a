//! `[model]`: which model is served and under which names.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::check::{Origin, automatic, within};

/// Which model is served and under which names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawModel {
    pub path: String,
    pub directory: String,
    pub context: usize,
    pub aliases: Vec<String>,
    pub packed_cache: bool,
}

impl Default for RawModel {
    fn default() -> Self {
        Self {
            path: String::new(),
            directory: "weights".into(),
            context: 0,
            aliases: vec!["default".into()],
            packed_cache: true,
        }
    }
}

/// `[model]`, resolved.
#[derive(Debug, Clone)]
pub struct ModelSettings {
    /// A file, a directory or a name; `None` takes the only model in `directory`.
    pub path: Option<String>,
    /// Where models and their manifests are looked up by name.
    pub directory: PathBuf,
    /// Longest context served; `None` takes the model's own.
    pub context: Option<usize>,
    /// Further names of the model.
    pub aliases: Vec<String>,
    /// Packed weights are kept in the data directory, for quicker restarts.
    pub packed_cache: bool,
}

impl RawModel {
    /// Judges the values.
    pub(super) fn resolve(self, origin: Origin) -> Result<ModelSettings, ConfigError> {
        let context = within("model.context", self.context, 0..=1 << 24, origin)?;
        Ok(ModelSettings {
            path: Some(self.path).filter(|path| !path.is_empty()),
            directory: PathBuf::from(self.directory),
            context: automatic(context),
            aliases: self.aliases,
            packed_cache: self.packed_cache,
        })
    }
}
