//! OpenAI's endpoints: wire types and handlers. What a model does with a request is `generate`'s business.

pub mod answer;
pub mod chat;
pub mod chat_types;
pub mod completion_types;
pub mod completions;
pub mod fields;
pub mod models;
pub mod usage;

use std::time::{SystemTime, UNIX_EPOCH};

use answer::Head;

use crate::generate::{Finish, ServedModel};
use crate::server::client::RequestId;

impl Head {
    /// The request's id and the time.
    pub fn new(prefix: &str, request_id: &RequestId, model: &ServedModel) -> Self {
        Self {
            id: format!("{prefix}-{}", request_id.0),
            created: unix_time(),
            model: model.id.clone(),
            fingerprint: model.fingerprint.clone(),
        }
    }
}

/// Seconds since 1970.
pub fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn finish_reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
    }
}
