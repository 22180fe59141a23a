//! One limit of one scope, and the arithmetic of its bucket. The scripts for Redis do the same in Lua; all numbers are
//! integers below 2^53, which both count exactly.

use std::time::Duration;

use super::LimitSettings;
use super::admission::Part;
use super::claim::{Claim, Limit, ScopeKind};
use super::rates::Rate;

/// A limit from which on there is none.
const NO_LIMIT: u64 = 1_000_000_000;
/// Parallel requests end when they end; so long until it is worth asking again.
const PARALLEL_WAIT_MS: i64 = 1000;

/// One limit that a claim is held to. The reading of a rate is the bucket's debt, in units times milliseconds of the
/// period; that of parallel requests is their number.
#[derive(Debug, Clone, Copy)]
pub(super) struct Check<'a> {
    pub kind: ScopeKind,
    pub id: &'a str,
    pub limit: Limit,
    /// Units in a period.
    pub most: i64,
    /// Units that the claim takes; more than `most` is `most + 1`.
    pub cost: i64,
}

/// All limits that a claim is held to, those of a scope one after another.
pub(super) fn of<'a>(claim: &Claim<'a>, settings: &LimitSettings) -> Vec<Check<'a>> {
    let mut checks = Vec::with_capacity(claim.scopes.len() * Limit::ALL.len());
    for scope in claim.scopes {
        let quota = scope.own.or(settings.of(scope.kind));
        for limit in Limit::ALL {
            let Some(most) = quota.limit(limit).filter(|&most| most < NO_LIMIT) else { continue };
            let cost = if limit == Limit::TokensPerMinute { claim.tokens.min(most + 1) } else { 1 };
            checks.push(Check { kind: scope.kind, id: scope.id, limit, most: most as i64, cost: cost as i64 });
        }
    }
    checks
}

/// What is left of a debt by `now`, if it was written at `then`.
pub(super) fn drained(debt: i64, then: i64, now: i64, most: i64, period: i64) -> i64 {
    // Limits may have been lowered since; a clock may have been set back.
    (debt.min(most * period) - (now - then).clamp(0, period) * most).max(0)
}

impl Check<'_> {
    /// What the claim adds to a reading.
    pub fn weight(&self) -> i64 {
        if self.limit == Limit::ParallelRequests { self.cost } else { self.cost * self.limit.period() }
    }

    fn capacity(&self) -> i64 {
        if self.limit == Limit::ParallelRequests { self.most } else { self.most * self.limit.period() }
    }

    pub fn fits(&self, reading: i64) -> bool {
        reading + self.weight() <= self.capacity()
    }

    /// How long until it fits; none is never.
    pub fn wait(&self, reading: i64) -> Option<Duration> {
        if self.cost > self.most {
            return None;
        }
        let excess = reading + self.weight() - self.capacity();
        let milliseconds =
            if self.limit == Limit::ParallelRequests { PARALLEL_WAIT_MS } else { ceil_div(excess, self.most) };
        Some(Duration::from_millis(milliseconds.max(0).cast_unsigned()))
    }

    /// What goes back when the request ends.
    pub fn part(&self) -> Option<Part> {
        let goes_back = matches!(self.limit, Limit::TokensPerMinute | Limit::ParallelRequests);
        goes_back.then_some(Part { limit: self.limit, cost: self.cost })
    }

    /// What clients are told of it.
    pub fn rate(&self, reading: i64) -> Rate {
        let left = (self.capacity() - reading).max(0);
        Rate {
            limit: self.most.cast_unsigned(),
            remaining: (left / self.limit.period().max(1)).cast_unsigned(),
            reset: Duration::from_millis(ceil_div(reading, self.most.max(1)).cast_unsigned()),
        }
    }
}

fn ceil_div(dividend: i64, divisor: i64) -> i64 {
    (dividend.max(0) + divisor - 1) / divisor
}
