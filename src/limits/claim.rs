//! What a request asks for, and what it may be held to.

use serde::{Deserialize, Serialize};

/// How much is allowed; what is none is not limited here. A limit of a billion or more is no limit, and so lifts a default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Quota {
    /// Requests in a minute.
    pub requests_per_minute: Option<u64>,
    /// Requests in an hour.
    pub requests_per_hour: Option<u64>,
    /// Tokens in a minute, of prompts and answers.
    pub tokens_per_minute: Option<u64>,
    /// Requests at the same time.
    pub parallel_requests: Option<u64>,
}

impl Quota {
    /// This one, and the other's where this one says nothing.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            requests_per_minute: self.requests_per_minute.or(other.requests_per_minute),
            requests_per_hour: self.requests_per_hour.or(other.requests_per_hour),
            tokens_per_minute: self.tokens_per_minute.or(other.tokens_per_minute),
            parallel_requests: self.parallel_requests.or(other.parallel_requests),
        }
    }

    pub(super) fn limit(&self, limit: Limit) -> Option<u64> {
        match limit {
            Limit::RequestsPerMinute => self.requests_per_minute,
            Limit::RequestsPerHour => self.requests_per_hour,
            Limit::TokensPerMinute => self.tokens_per_minute,
            Limit::ParallelRequests => self.parallel_requests,
        }
    }
}

/// Kinds of limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Limit {
    /// Requests in a minute.
    RequestsPerMinute,
    /// Requests in an hour.
    RequestsPerHour,
    /// Tokens in a minute.
    TokensPerMinute,
    /// Requests at the same time.
    ParallelRequests,
}

impl Limit {
    pub(super) const ALL: [Self; 4] =
        [Self::RequestsPerMinute, Self::RequestsPerHour, Self::TokensPerMinute, Self::ParallelRequests];

    /// The word for it in metrics, in messages and in Redis.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RequestsPerMinute => "requests_per_minute",
            Self::RequestsPerHour => "requests_per_hour",
            Self::TokensPerMinute => "tokens_per_minute",
            Self::ParallelRequests => "parallel_requests",
        }
    }

    /// Milliseconds in which a full bucket drains; parallel requests do not drain.
    pub(super) fn period(self) -> i64 {
        match self {
            Self::RequestsPerMinute | Self::TokensPerMinute => 60_000,
            Self::RequestsPerHour => 3_600_000,
            Self::ParallelRequests => 0,
        }
    }
}

/// Kinds of scopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ScopeKind {
    /// Everybody together.
    Global,
    /// A user.
    User,
    /// An API key.
    Key,
    /// A department.
    Department,
    /// A client address.
    Address,
}

impl ScopeKind {
    /// The word for it in metrics, in messages and in Redis.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Global => "global",
            Self::User => "user",
            Self::Key => "key",
            Self::Department => "department",
            Self::Address => "address",
        }
    }
}

/// Something that a request counts against. A claim names each at most once.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'a> {
    /// What it is.
    pub kind: ScopeKind,
    /// Which one of its kind; empty for everybody.
    pub id: &'a str,
    /// Its own limits, which override the defaults of its kind one by one.
    pub own: Quota,
}

impl<'a> Scope<'a> {
    /// With the defaults of its kind.
    pub fn new(kind: ScopeKind, id: &'a str) -> Self {
        Self { kind, id, own: Quota::default() }
    }
}

/// What a request counts for and against what.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    /// Everything that it counts against.
    pub scopes: &'a [Scope<'a>],
    /// Tokens that it may take at most.
    pub tokens: u64,
}
