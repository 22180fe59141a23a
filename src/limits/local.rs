//! Counts in this process: one lock, held for microseconds, around what each scope has used.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::admission::{Admission, Hold, LocalHold, Part};
use super::check::{Check, drained};
use super::claim::{Limit, ScopeKind};
use super::rates::{Rates, Refusal};

/// Fewer scopes than these are never swept.
const LEAST_SWEEP: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct Local {
    scopes: Mutex<Scopes>,
}

#[derive(Debug, Default)]
struct Scopes {
    by_kind: [HashMap<Arc<str>, Usage>; 5],
    /// Sweep when there are more of them.
    sweep_at: usize,
}

/// What a scope has used.
#[derive(Debug, Default)]
struct Usage {
    /// By limit; parallel requests apart.
    buckets: [Bucket; 3],
    parallel: i64,
    /// When all buckets will have drained, in milliseconds.
    idle_at: i64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    debt: i64,
    /// When the debt was that, in milliseconds.
    at: i64,
}

impl Usage {
    fn reading(&self, check: &Check, now: i64) -> i64 {
        match check.limit {
            Limit::ParallelRequests => self.parallel,
            limit => {
                let Bucket { debt, at } = self.buckets[limit as usize];
                drained(debt, at, now, check.most, limit.period())
            }
        }
    }

    fn write(&mut self, limit: Limit, most: i64, reading: i64, now: i64) {
        if limit == Limit::ParallelRequests {
            self.parallel = reading;
        } else {
            let bucket = &mut self.buckets[limit as usize];
            *bucket = Bucket { debt: reading, at: now.max(bucket.at) };
            self.idle_at = self.idle_at.max(bucket.at + reading / most.max(1) + 1);
        }
    }
}

impl Scopes {
    /// Forgets scopes that have nothing left, when there are twice as many as the last time.
    fn sweep(&mut self, now: i64) {
        let count = |scopes: &Self| scopes.by_kind.iter().map(HashMap::len).sum::<usize>();
        if count(self) > self.sweep_at.max(LEAST_SWEEP) {
            for scopes in &mut self.by_kind {
                scopes.retain(|_, usage| usage.parallel > 0 || usage.idle_at > now);
            }
            self.sweep_at = 2 * count(self);
        }
    }

    fn name(&mut self, check: &Check) -> (Arc<str>, &mut Usage) {
        let scopes = &mut self.by_kind[check.kind as usize];
        let name = scopes.get_key_value(check.id).map_or_else(|| check.id.into(), |(name, _)| name.clone());
        let usage = scopes.entry(name.clone()).or_default();
        (name, usage)
    }
}

impl Local {
    /// At `now`, in milliseconds since whenever.
    pub fn admit(self: &Arc<Self>, now: i64, checks: &[Check]) -> Result<Admission, Refusal> {
        let mut scopes = self.lock();
        let reading = |check: &Check| {
            let usage = scopes.by_kind[check.kind as usize].get(check.id);
            usage.map_or(0, |usage| usage.reading(check, now))
        };
        let readings: Vec<i64> = checks.iter().map(reading).collect();
        if !checks.iter().zip(&readings).all(|(check, reading)| check.fits(*reading)) {
            return Err(Refusal::of(checks, &readings));
        }
        let mut parts = Vec::new();
        for (check, reading) in checks.iter().zip(&readings) {
            let (name, usage) = scopes.name(check);
            usage.write(check.limit, check.most, reading + check.weight(), now);
            if let Some(part) = check.part() {
                parts.push((check.kind, name, part));
            }
        }
        scopes.sweep(now);
        drop(scopes);
        let after = checks.iter().zip(&readings).map(|(check, reading)| reading + check.weight());
        let hold = LocalHold { local: self.clone(), parts, actual_tokens: None };
        Ok(Admission::new(Rates::of(checks, after), Hold::Local(hold)))
    }

    pub fn settle(&self, parts: &[(ScopeKind, Arc<str>, Part)], actual_tokens: Option<u64>) {
        if parts.is_empty() {
            return;
        }
        let mut scopes = self.lock();
        for (kind, name, part) in parts {
            let Some(usage) = scopes.by_kind[*kind as usize].get_mut(name) else { continue };
            let refund = part.refund(actual_tokens);
            if part.limit == Limit::ParallelRequests {
                usage.parallel = (usage.parallel - refund).max(0);
            } else {
                let debt = &mut usage.buckets[part.limit as usize].debt;
                *debt = (*debt - refund * part.limit.period()).max(0);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Scopes> {
        self.scopes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.lock().by_kind.iter().map(HashMap::len).sum()
    }
}
