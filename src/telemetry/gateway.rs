//! The metrics of what stands before the engine: limits, prompt cache, credentials, ledger, breakers. Their names are in
//! `metrics.rs`.

use metrics::{Counter, Label};

use super::metrics::{
    AUTH_REQUESTS, BREAKER_FAILURES, BREAKER_STATE, CACHE_LOOKUPS, CACHE_REQUESTS, CACHE_SIMILAR, CACHE_SIMILAR_CHECKS,
    LEDGER_CHARGED, LEDGER_HOLDS, LEDGER_SETTLEMENTS, Metrics, RATE_LIMIT, USER_BALANCE,
};

/// What the prompt cache's storage has done since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the metric's description says it")]
pub struct CacheLookups {
    pub hits: u64,
    pub misses: u64,
    pub errors: u64,
    pub rejected: u64,
}

impl Metrics {
    /// A request was counted against a kind of scope: `allowed`, `refused`, or `unavailable` where nobody could count.
    pub fn rate_limit(&self, scope: &'static str, outcome: &'static str) {
        self.two(RATE_LIMIT, ("scope", scope), ("outcome", outcome)).increment(1);
    }

    /// An answer came from the prompt cache, or did not: `hit`, `semantic`, `join`, `miss`, `bypass`.
    pub fn cache_request(&self, outcome: &'static str) {
        self.one(CACHE_REQUESTS, ("outcome", outcome)).increment(1);
    }

    /// A question was looked up among similar ones: `hit`, `shadow`, `guarded`, `miss`, `gone`, `late`, `failed`.
    pub fn similar(&self, result: &'static str) {
        self.one(CACHE_SIMILAR, ("result", result)).increment(1);
    }

    /// Similar questions are looked up from now on: their series are there.
    pub fn similar_begins(&self) {
        for result in ["hit", "shadow", "guarded", "miss", "gone", "late", "failed"] {
            self.one(CACHE_SIMILAR, ("result", result)).absolute(0);
        }
        for result in ["agree", "false"] {
            self.one(CACHE_SIMILAR_CHECKS, ("result", result)).absolute(0);
        }
    }

    /// The answer to a similar question was compared with the true one: `agree` or `false`.
    pub fn similar_check(&self, result: &'static str) {
        self.one(CACHE_SIMILAR_CHECKS, ("result", result)).increment(1);
    }

    /// Takes over what the prompt cache's storage counts.
    pub fn cache_lookups(&self, lookups: CacheLookups) {
        let CacheLookups { hits, misses, errors, rejected } = lookups;
        for (result, count) in [("hit", hits), ("miss", misses), ("error", errors), ("rejected", rejected)] {
            self.one(CACHE_LOOKUPS, ("result", result)).absolute(count);
        }
    }

    /// A credential of this kind was `accepted`, `refused` as not good, `forbidden` as good for something else, or could
    /// not be checked, `error`.
    pub fn credential(&self, kind: &'static str, outcome: &'static str) {
        self.two(AUTH_REQUESTS, ("credential", kind), ("outcome", outcome)).increment(1);
    }

    /// The ledger was asked to hold: `held`, `short` or `failed`.
    pub fn hold(&self, outcome: &'static str) {
        self.one(LEDGER_HOLDS, ("outcome", outcome)).increment(1);
    }

    /// A request that was `completed`, `cancelled` or `failed` was settled for so many 10^-6 of the currency; `unsettled`
    /// ones are tried further.
    pub fn settlement(&self, outcome: &'static str, cost: i64) {
        self.one(LEDGER_SETTLEMENTS, ("outcome", outcome)).increment(1);
        self.counter(LEDGER_CHARGED, Vec::new()).increment(cost.unsigned_abs());
    }

    /// What a user has, in the currency.
    pub fn balance(&self, user_id: String, balance: f64) {
        self.gauge(USER_BALANCE, vec![Label::new("user_id", user_id)]).set(balance);
    }

    /// A breaker's state, 0 closed, 1 half open, 2 open, and its failures since the last success.
    pub fn breaker(&self, name: &str, state: u8, failures: u32) {
        let label = || vec![Label::new("name", name.to_owned())];
        self.gauge(BREAKER_STATE, label()).set(f64::from(state));
        self.gauge(BREAKER_FAILURES, label()).set(f64::from(failures));
    }

    fn one(&self, name: &'static str, (label, value): (&'static str, &'static str)) -> Counter {
        self.counter(name, vec![Label::from_static_parts(label, value)])
    }

    fn two(
        &self,
        name: &'static str,
        one: (&'static str, &'static str),
        other: (&'static str, &'static str),
    ) -> Counter {
        self.counter(name, vec![Label::from_static_parts(one.0, one.1), Label::from_static_parts(other.0, other.1)])
    }
}
