//! `[generation]`: limits of one request.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::check::{Origin, seconds, within};

/// Limits of one request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawGeneration {
    pub default_max_tokens: usize,
    pub max_choices: usize,
    pub timeout_seconds: u64,
}

impl Default for RawGeneration {
    fn default() -> Self {
        Self { default_max_tokens: 1024, max_choices: 16, timeout_seconds: 600 }
    }
}

/// `[generation]`, resolved.
#[derive(Debug, Clone)]
pub struct GenerationConfig {
    /// Tokens generated at most when a request does not say.
    pub default_max_tokens: usize,
    /// Answers that one request may ask for.
    pub max_choices: usize,
    /// A request ends after so long.
    pub timeout: Duration,
}

impl RawGeneration {
    /// Judges the values.
    pub(super) fn resolve(&self, origin: Origin) -> Result<GenerationConfig, ConfigError> {
        Ok(GenerationConfig {
            default_max_tokens: within("generation.default_max_tokens", self.default_max_tokens, 1..=1 << 24, origin)?,
            max_choices: within("generation.max_choices", self.max_choices, 1..=1024, origin)?,
            timeout: seconds("generation.timeout_seconds", self.timeout_seconds, 1..=86_400, origin)?,
        })
    }
}
