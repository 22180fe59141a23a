//! In whose name something is generated, and how it may use what was generated before.

use std::net::IpAddr;
use std::time::Duration;

use crate::audit::Actor;
use crate::limits::Quota;
use crate::telemetry::RequestTrace;

/// Who asks.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Made by the server, unique for ever.
    pub request_id: String,
    /// Who asks.
    pub user_id: String,
    /// Who asks, as the audit log names them.
    pub actor: Actor,
    /// By what method and route, as the audit log names it.
    pub action: String,
    /// With what API key, if with one, and its own limits.
    pub key: Option<(String, Quota)>,
    /// For what department, if for one, and its own limits.
    pub department: Option<(String, Quota)>,
    /// From where.
    pub address: Option<IpAddr>,
    /// Key of fair queueing.
    pub turn: u64,
    /// Those of one tenant share cached prompts and answers.
    pub tenant: String,
    /// What may come from the prompt cache.
    pub cache: CacheUse,
    /// A repetition under this key gets the first answer, whatever it was left to.
    pub idempotency_key: Option<String>,
    /// Told what becomes of the request.
    pub trace: RequestTrace,
}

/// How a request uses the prompt cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheUse {
    /// Even where the answer is left to chance.
    pub always: bool,
    /// May take an answer that is there, or join one under way.
    pub read: bool,
    /// May leave its answer behind.
    pub write: bool,
    /// Takes no older one.
    pub max_age: Option<Duration>,
}

impl Default for CacheUse {
    fn default() -> Self {
        Self { always: false, read: true, write: true, max_age: None }
    }
}

/// What the prompt cache did for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheOutcome {
    /// The answer was there.
    Hit,
    /// The answer to a similar question was there.
    Semantic,
    /// The same answer was under way.
    Join,
    /// It was not there, and will be.
    Miss,
    /// It was not asked.
    Bypass,
}

impl CacheOutcome {
    /// The word for it in headers, metrics and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Semantic => "semantic",
            Self::Join => "join",
            Self::Miss => "miss",
            Self::Bypass => "bypass",
        }
    }
}
