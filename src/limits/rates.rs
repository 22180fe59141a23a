//! What clients are told: how much is left, or why they are refused and for how long.

use std::time::Duration;

use super::check::Check;
use super::claim::{Limit, ScopeKind};

/// The state of one limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Units in a period.
    pub limit: u64,
    /// Units that may come now.
    pub remaining: u64,
    /// Until all of them may.
    pub reset: Duration,
}

/// The tightest limit of each sort; none where there is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rates {
    /// For `x-ratelimit-*-requests`.
    pub requests: Option<Rate>,
    /// For `x-ratelimit-*-tokens`.
    pub tokens: Option<Rate>,
}

/// Why a request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// This limit of this scope is reached.
    Limit(ScopeKind, Limit),
    /// The store that counts does not answer, and requests are refused meanwhile.
    Unavailable,
}

/// A request was refused. Nothing was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// Of several limits the one that takes longest.
    pub reason: Reason,
    /// For `Retry-After`; none when the request alone is beyond the limit and never fits.
    pub retry_after: Option<Duration>,
    /// As they are.
    pub rates: Rates,
}

/// A store that does not answer may do so again after this.
const UNAVAILABLE_WAIT: Duration = Duration::from_secs(5);

impl Refusal {
    pub(super) fn unavailable() -> Self {
        Self { reason: Reason::Unavailable, retry_after: Some(UNAVAILABLE_WAIT), rates: Rates::default() }
    }

    /// Of checks, one of which does not fit its reading.
    pub(super) fn of(checks: &[Check], readings: &[i64]) -> Self {
        let failing = checks.iter().zip(readings).filter(|(check, reading)| !check.fits(**reading));
        let wait = |(check, reading): (&Check, &i64)| (check.wait(*reading), Reason::Limit(check.kind, check.limit));
        let longest = failing.map(wait).max_by_key(|(wait, _)| wait.unwrap_or(Duration::MAX));
        let (retry_after, reason) = longest.unwrap_or((Some(UNAVAILABLE_WAIT), Reason::Unavailable));
        Self { reason, retry_after, rates: Rates::of(checks, readings.iter().copied()) }
    }
}

impl Rates {
    /// From all checks of a claim and their readings.
    pub(super) fn of(checks: &[Check], readings: impl Iterator<Item = i64>) -> Self {
        let mut rates = Self::default();
        for (check, reading) in checks.iter().zip(readings) {
            let sort = match check.limit {
                Limit::RequestsPerMinute | Limit::RequestsPerHour => &mut rates.requests,
                Limit::TokensPerMinute => &mut rates.tokens,
                Limit::ParallelRequests => continue,
            };
            let rate = check.rate(reading);
            let is_tighter = |known: &Rate| (rate.remaining, known.reset) < (known.remaining, rate.reset);
            if sort.as_ref().is_none_or(is_tighter) {
                *sort = Some(rate);
            }
        }
        rates
    }
}
