//! Circuit breakers: a dependency that failed often enough is left alone for a while, then tried by one call. One breaker
//! per dependency, all of them in a list that operators see.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// When breakers open and how long they stay so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BreakerSettings {
    /// `CIRCUIT_BREAKER_ENABLED`: false counts failures and never opens.
    pub enabled: bool,
    /// `CIRCUIT_BREAKER_FAILURE_THRESHOLD`: so many failures in a row open it; 0 is taken for 1.
    pub failure_threshold: u32,
    /// `CIRCUIT_BREAKER_RECOVERY_TIMEOUT`: so long after opening one call is let through to see.
    pub recovery_timeout: Duration,
}

impl Default for BreakerSettings {
    fn default() -> Self {
        Self { enabled: true, failure_threshold: 5, recovery_timeout: Duration::from_secs(30) }
    }
}

/// What a breaker does with calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// Lets them through.
    Closed,
    /// Refuses them.
    Open,
    /// Lets one through, whose outcome decides.
    HalfOpen,
}

impl BreakerState {
    /// The word for it in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// A breaker as operators see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BreakerReport {
    /// Of which dependency.
    pub name: String,
    /// What it does now.
    pub state: BreakerState,
    /// Failures since the last success.
    pub failures: u32,
    /// When it opened, unless it is closed.
    pub opened_at: Option<SystemTime>,
    /// When it will let a call through, while it is open.
    pub retry_at: Option<SystemTime>,
}

/// A call was refused, for the dependency failed lately.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name} failed lately and is left alone for another {} ms", retry_in.as_millis())]
pub struct BreakerOpen {
    /// Which dependency.
    pub name: String,
    /// When asking again may help.
    pub retry_in: Duration,
}

/// The breaker of one dependency.
#[derive(Debug)]
pub struct Breaker {
    name: String,
    settings: BreakerSettings,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    phase: Phase,
    failures: u32,
    /// When it opened last, on the clock on the wall.
    opened_at: SystemTime,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Closed,
    Open { until: Instant },
    HalfOpen { probing: bool },
}

/// One call that was let through. Dropped without a verdict (the call was cancelled) it decides nothing.
#[derive(Debug)]
#[must_use = "the outcome of the call must be told"]
pub struct Permit {
    breaker: Arc<Breaker>,
    /// Whether its outcome decides over a half-open breaker.
    probe: bool,
}

impl Breaker {
    /// A closed one.
    pub fn new(name: &str, settings: BreakerSettings) -> Arc<Self> {
        let inner = Inner { phase: Phase::Closed, failures: 0, opened_at: SystemTime::UNIX_EPOCH };
        Arc::new(Self { name: name.to_owned(), settings, inner: Mutex::new(inner) })
    }

    /// Lets a call through or refuses it.
    ///
    /// # Errors
    /// [`BreakerOpen`] while the dependency is left alone.
    pub fn admit(self: &Arc<Self>) -> Result<Permit, BreakerOpen> {
        self.admit_at(Instant::now())
    }

    /// [`Self::admit`] at a given time.
    pub fn admit_at(self: &Arc<Self>, now: Instant) -> Result<Permit, BreakerOpen> {
        let mut inner = self.lock();
        let retry_in = match inner.phase {
            Phase::Closed => return Ok(Permit { breaker: self.clone(), probe: false }),
            Phase::Open { until } => until.saturating_duration_since(now),
            Phase::HalfOpen { probing: false } => Duration::ZERO,
            // The probe is under way; how long it takes is not known.
            Phase::HalfOpen { probing: true } => {
                return Err(BreakerOpen { name: self.name.clone(), retry_in: Duration::from_secs(1) });
            }
        };
        if !retry_in.is_zero() {
            return Err(BreakerOpen { name: self.name.clone(), retry_in });
        }
        inner.phase = Phase::HalfOpen { probing: true };
        Ok(Permit { breaker: self.clone(), probe: true })
    }

    /// What it does now.
    pub fn report(&self) -> BreakerReport {
        let inner = self.lock();
        let state = match inner.phase {
            Phase::Closed => BreakerState::Closed,
            Phase::Open { .. } => BreakerState::Open,
            Phase::HalfOpen { .. } => BreakerState::HalfOpen,
        };
        BreakerReport {
            name: self.name.clone(),
            state,
            failures: inner.failures,
            opened_at: (state != BreakerState::Closed).then_some(inner.opened_at),
            retry_at: (state == BreakerState::Open).then(|| inner.opened_at + self.settings.recovery_timeout),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn succeeded(&self, probe: bool) {
        let mut inner = self.lock();
        match inner.phase {
            Phase::Closed => inner.failures = 0,
            Phase::HalfOpen { .. } if probe => {
                (inner.phase, inner.failures) = (Phase::Closed, 0);
                drop(inner);
                tracing::info!(dependency = self.name, "it answers again");
            }
            // Calls that began before it opened have no say.
            Phase::Open { .. } | Phase::HalfOpen { .. } => {}
        }
    }

    fn failed(&self, probe: bool, now: Instant) {
        let mut inner = self.lock();
        inner.failures = inner.failures.saturating_add(1);
        let opens = match inner.phase {
            Phase::Closed => self.settings.enabled && inner.failures >= self.settings.failure_threshold.max(1),
            Phase::HalfOpen { .. } => probe,
            Phase::Open { .. } => false,
        };
        if opens {
            inner.phase = Phase::Open { until: now + self.settings.recovery_timeout };
            inner.opened_at = SystemTime::now();
            let failures = inner.failures;
            drop(inner);
            let seconds = self.settings.recovery_timeout.as_secs_f64();
            tracing::warn!(dependency = self.name, failures, "it fails and is left alone for {seconds} s");
        }
    }
}

impl Permit {
    /// The dependency did what it was asked to.
    pub fn succeed(mut self) {
        self.breaker.succeeded(std::mem::take(&mut self.probe));
    }

    /// The dependency failed.
    pub fn fail(self) {
        self.fail_at(Instant::now());
    }

    /// [`Self::fail`] at a given time.
    pub fn fail_at(mut self, now: Instant) {
        self.breaker.failed(std::mem::take(&mut self.probe), now);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.probe {
            let mut inner = self.breaker.lock();
            if matches!(inner.phase, Phase::HalfOpen { .. }) {
                inner.phase = Phase::HalfOpen { probing: false };
            }
        }
    }
}

/// All breakers of the program. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Breakers {
    settings: BreakerSettings,
    list: Arc<Mutex<Vec<Arc<Breaker>>>>,
}

impl Breakers {
    /// None yet; those to come have these settings.
    pub fn new(settings: BreakerSettings) -> Self {
        Self { settings, list: Arc::default() }
    }

    /// The breaker of this dependency, which is made when there is none.
    pub fn breaker(&self, name: &str) -> Arc<Breaker> {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = list.iter().find(|breaker| breaker.name == name) {
            return known.clone();
        }
        let made = Breaker::new(name, self.settings.clone());
        list.push(made.clone());
        made
    }

    /// Adds one that was made elsewhere.
    pub fn adopt(&self, breaker: Arc<Breaker>) {
        self.list.lock().unwrap_or_else(PoisonError::into_inner).push(breaker);
    }

    /// All of them by name.
    pub fn report(&self) -> Vec<BreakerReport> {
        let list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let mut reports: Vec<_> = list.iter().map(|breaker| breaker.report()).collect();
        reports.sort_by(|a, b| a.name.cmp(&b.name));
        reports
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn breaker(threshold: u32) -> Arc<Breaker> {
        let settings = BreakerSettings { enabled: true, failure_threshold: threshold, recovery_timeout: 10 * SECOND };
        Breaker::new("redis", settings)
    }

    #[test]
    fn failures_in_a_row_open_it_and_one_probe_closes_it() {
        let (breaker, now) = (breaker(3), Instant::now());
        let fail = || breaker.admit_at(now).unwrap().fail_at(now);
        fail();
        fail();
        breaker.admit_at(now).unwrap().succeed();
        fail();
        fail();
        assert_eq!(breaker.report().state, BreakerState::Closed);
        assert_eq!(breaker.report().opened_at, None);
        fail();
        let report = breaker.report();
        assert_eq!((report.state, report.failures), (BreakerState::Open, 3));
        assert_eq!(report.retry_at.unwrap().duration_since(report.opened_at.unwrap()).unwrap(), 10 * SECOND);
        assert_eq!(breaker.admit_at(now + 4 * SECOND).unwrap_err().retry_in, 6 * SECOND);

        let probe = breaker.admit_at(now + 10 * SECOND).unwrap();
        assert_eq!(breaker.report().state, BreakerState::HalfOpen);
        breaker.admit_at(now + 10 * SECOND).unwrap_err();
        probe.succeed();
        let report = breaker.report();
        assert_eq!((report.state, report.failures, report.retry_at), (BreakerState::Closed, 0, None));
    }

    #[test]
    fn a_failed_probe_opens_it_again_and_a_cancelled_one_leaves_the_next_to_try() {
        let (breaker, now) = (breaker(1), Instant::now());
        breaker.admit_at(now).unwrap().fail_at(now);
        breaker.admit_at(now + 10 * SECOND).unwrap().fail_at(now + 11 * SECOND);
        assert_eq!(breaker.admit_at(now + 12 * SECOND).unwrap_err().retry_in, 9 * SECOND);
        drop(breaker.admit_at(now + 21 * SECOND).unwrap());
        breaker.admit_at(now + 21 * SECOND).unwrap().succeed();
        assert_eq!(breaker.report().state, BreakerState::Closed);
    }

    #[test]
    fn calls_from_before_it_opened_have_no_say() {
        let (breaker, now) = (breaker(1), Instant::now());
        let (late_success, late_failure) = (breaker.admit_at(now).unwrap(), breaker.admit_at(now).unwrap());
        breaker.admit_at(now).unwrap().fail_at(now);
        late_success.succeed();
        assert_eq!(breaker.report().state, BreakerState::Open);
        let probe = breaker.admit_at(now + 10 * SECOND).unwrap();
        late_failure.fail_at(now + 10 * SECOND);
        assert_eq!(breaker.report().state, BreakerState::HalfOpen);
        breaker.admit_at(now + 10 * SECOND).unwrap_err();
        probe.succeed();
        assert_eq!(breaker.report().state, BreakerState::Closed);
    }

    #[test]
    fn a_disabled_one_never_opens_and_the_list_is_sorted() {
        let breakers = Breakers::new(BreakerSettings { enabled: false, ..BreakerSettings::default() });
        for _ in 0..100 {
            breakers.breaker("redis").admit().unwrap().fail();
        }
        breakers.breaker("database").admit().unwrap().succeed();
        let told: Vec<_> = breakers.report().into_iter().map(|one| (one.name, one.state, one.failures)).collect();
        let wanted = [("database".into(), BreakerState::Closed, 0), ("redis".into(), BreakerState::Closed, 100)];
        assert_eq!(told, wanted);
    }
}
