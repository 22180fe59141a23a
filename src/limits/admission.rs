//! An admitted request: what it holds goes back when it ends, whichever way.

use std::sync::Arc;

use super::claim::{Limit, ScopeKind};
use super::local::Local;
use super::rates::Rates;
use super::shared::SharedHold;

/// A request that was let through. Dropped, it frees its parallel slots and keeps all tokens that it reserved; ended by
/// [`Admission::finish`], it gives back those that it did not take.
#[derive(Debug)]
#[must_use = "dropping it ends the request"]
pub struct Admission {
    rates: Rates,
    hold: Hold,
}

#[derive(Debug)]
pub(super) enum Hold {
    Local(LocalHold),
    Shared(SharedHold),
}

impl Admission {
    pub(super) fn new(rates: Rates, hold: Hold) -> Self {
        Self { rates, hold }
    }

    /// As they were after it was counted.
    pub fn rates(&self) -> &Rates {
        &self.rates
    }

    /// The request has ended and took so many tokens.
    pub fn finish(mut self, actual_tokens: u64) {
        match &mut self.hold {
            Hold::Local(hold) => hold.actual_tokens = Some(actual_tokens),
            Hold::Shared(hold) => hold.finished(actual_tokens),
        }
    }
}

/// What a request holds in this process.
#[derive(Debug)]
pub(super) struct LocalHold {
    pub local: Arc<Local>,
    pub parts: Vec<(ScopeKind, Arc<str>, Part)>,
    pub actual_tokens: Option<u64>,
}

/// What a request holds of one limit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub limit: Limit,
    /// Units that were reserved.
    pub cost: i64,
}

impl Part {
    /// Units to give back.
    pub fn refund(&self, actual_tokens: Option<u64>) -> i64 {
        match (self.limit, actual_tokens) {
            (Limit::ParallelRequests, _) => self.cost,
            (Limit::TokensPerMinute, Some(actual)) => self.cost.saturating_sub_unsigned(actual).max(0),
            _ => 0,
        }
    }
}

impl Drop for LocalHold {
    fn drop(&mut self) {
        self.local.settle(&self.parts, self.actual_tokens);
    }
}
