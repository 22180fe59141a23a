//! `[data]`: where everything written at run time goes.

use serde::{Deserialize, Serialize};

/// Where everything written at run time goes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawData {
    pub dir: String,
}

impl Default for RawData {
    fn default() -> Self {
        Self { dir: "data".into() }
    }
}
