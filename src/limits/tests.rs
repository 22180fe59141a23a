//! The rules of the buckets, the same decisions here and in Redis, and replicas that share one Redis.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests, which print what they measured")]

use super::*;
use crate::kv_store::testing::{Fault, FaultProxy, RedisServer};
use crate::kv_store::{Redis, RedisSettings};
use crate::resilience::{Breaker, BreakerSettings, BreakerState};

const MINUTE: Duration = Duration::from_mins(1);
const NONE: Quota =
    Quota { requests_per_minute: None, requests_per_hour: None, tokens_per_minute: None, parallel_requests: None };

/// A limiter in this process with a clock of the test's.
struct Clocked {
    local: Arc<Local>,
    settings: LimitSettings,
}

impl Clocked {
    fn new(settings: LimitSettings) -> Self {
        Self { local: Arc::default(), settings }
    }

    fn admit(&self, seconds: f64, scopes: &[Scope], tokens: u64) -> Result<Admission, Refusal> {
        self.local.admit((seconds * 1000.0) as i64, &check::of(&Claim { scopes, tokens }, &self.settings))
    }
}

fn user(id: &str) -> Scope<'_> {
    Scope::new(ScopeKind::User, id)
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn a_bucket_takes_its_limit_at_once_and_drains_evenly() {
    let limits = Clocked::new(LimitSettings {
        user: Quota { requests_per_minute: Some(3), requests_per_hour: Some(5), ..NONE },
        ..LimitSettings::default()
    });
    let rate = |limit, remaining, reset| Some(Rate { limit, remaining, reset: seconds(reset) });
    let ann = [user("ann")];
    let left = |at| limits.admit(at, &ann, 0).unwrap().rates().requests;
    assert_eq!(left(0.0), rate(3, 2, 20));
    assert_eq!(left(0.0), rate(3, 1, 40));
    assert_eq!(left(10.0), rate(3, 0, 50));
    let refusal = limits.admit(10.0, &ann, 0).unwrap_err();
    assert_eq!(refusal.reason, Reason::Limit(ScopeKind::User, Limit::RequestsPerMinute));
    assert_eq!(refusal.retry_after, Some(seconds(10)));
    assert_eq!(refusal.rates.requests, rate(3, 0, 50));
    assert!(limits.admit(10.0, &[user("bob")], 0).is_ok());
    limits.admit(19.999, &ann, 0).unwrap_err();
    assert_eq!(left(20.0), rate(3, 0, 60));
    // Four of five in the hour are gone; a refused one takes nothing.
    assert_eq!(left(80.0).unwrap().remaining, 0);
    let refusal = limits.admit(140.0, &ann, 0).unwrap_err();
    assert_eq!(refusal.reason, Reason::Limit(ScopeKind::User, Limit::RequestsPerHour));
    assert_eq!(refusal.retry_after, Some(seconds(720 - 140)));
    assert!(limits.admit(720.0, &ann, 0).is_ok());
    // A clock that is set back drains nothing and breaks nothing.
    limits.admit(0.0, &ann, 0).unwrap_err();
}

#[test]
fn all_scopes_count_or_none() {
    let per_minute = |most| Quota { requests_per_minute: Some(most), ..NONE };
    let limits = Clocked::new(LimitSettings {
        global: per_minute(10),
        user: per_minute(2),
        department: per_minute(7),
        ..LimitSettings::default()
    });
    let scopes = |id| [Scope::new(ScopeKind::Global, ""), Scope::new(ScopeKind::Department, "sales"), user(id)];
    let admitted = |id| (0..20).filter(|_| limits.admit(0.0, &scopes(id), 0).is_ok()).count();
    assert_eq!([admitted("ann"), admitted("bob"), admitted("eva"), admitted("max"), admitted("joe")], [2, 2, 2, 1, 0]);
    // Thirteen were refused to each, and everybody together has three left.
    let rates = *limits.admit(0.0, &scopes("ann")[..1], 0).unwrap().rates();
    assert_eq!(rates.requests.unwrap().remaining, 2);
    // Limits of their own: more, none, and fewer.
    let own = |most| [Scope { own: per_minute(most), ..user("ann") }];
    assert!(limits.admit(0.0, &own(3), 0).is_ok());
    limits.admit(0.0, &own(3), 0).unwrap_err();
    assert_eq!(*limits.admit(0.0, &own(u64::MAX), 0).unwrap().rates(), Rates::default());
    let refusal = limits.admit(0.0, &own(0), 0).unwrap_err();
    assert_eq!((refusal.retry_after, refusal.rates.requests.unwrap().remaining), (None, 0));
}

#[test]
fn tokens_are_reserved_and_the_rest_comes_back() {
    let limits = Clocked::new(LimitSettings {
        user: Quota { tokens_per_minute: Some(6000), ..NONE },
        ..LimitSettings::default()
    });
    let ann = [user("ann")];
    let first = limits.admit(0.0, &ann, 4000).unwrap();
    assert_eq!(first.rates().tokens, Some(Rate { limit: 6000, remaining: 2000, reset: seconds(40) }));
    let refusal = limits.admit(0.0, &ann, 4000).unwrap_err();
    assert_eq!(refusal.reason, Reason::Limit(ScopeKind::User, Limit::TokensPerMinute));
    assert_eq!((refusal.retry_after, refusal.rates.tokens.unwrap().remaining), (Some(seconds(20)), 2000));
    first.finish(1000);
    let second = limits.admit(0.0, &ann, 4000).unwrap();
    assert_eq!(second.rates().tokens.unwrap().remaining, 1000);
    drop(second);
    // Nobody said what it took, and so it took all.
    limits.admit(0.0, &ann, 1001).unwrap_err();
    limits.admit(0.0, &ann, 1000).unwrap().finish(9_999_999);
    assert_eq!(limits.admit(60.0, &ann, 6001).unwrap_err().retry_after, None);
    assert!(limits.admit(60.0, &ann, u64::MAX).is_err());
    assert!(limits.admit(60.0, &ann, 6000).is_ok());
}

#[test]
fn parallel_requests_end_by_drop() {
    let limits =
        Clocked::new(LimitSettings { key: Quota { parallel_requests: Some(2), ..NONE }, ..LimitSettings::default() });
    let key = [Scope::new(ScopeKind::Key, "key_1")];
    let (one, two) = (limits.admit(0.0, &key, 0).unwrap(), limits.admit(0.0, &key, 0).unwrap());
    let refusal = limits.admit(0.0, &key, 0).unwrap_err();
    assert_eq!(refusal.reason, Reason::Limit(ScopeKind::Key, Limit::ParallelRequests));
    assert_eq!(refusal.retry_after, Some(seconds(1)));
    drop(one);
    let three = limits.admit(0.0, &key, 0).unwrap();
    two.finish(5);
    let four = limits.admit(0.0, &key, 0).unwrap();
    limits.admit(0.0, &key, 0).unwrap_err();
    drop((three, four));
}

#[test]
fn scopes_with_nothing_left_are_forgotten() {
    let limits = Clocked::new(LimitSettings {
        address: Quota { requests_per_minute: Some(60), parallel_requests: Some(5), ..NONE },
        ..LimitSettings::default()
    });
    let running = limits.admit(0.0, &[Scope::new(ScopeKind::Address, "running")], 0).unwrap();
    for address in 0..50_000 {
        let id = address.to_string();
        drop(limits.admit(f64::from(address), &[Scope::new(ScopeKind::Address, &id)], 0).unwrap());
    }
    assert!(limits.local.len() < 2048, "{}", limits.local.len());
    let again =
        [Scope { own: Quota { parallel_requests: Some(1), ..NONE }, ..Scope::new(ScopeKind::Address, "running") }];
    limits.admit(50_000.0, &again, 0).unwrap_err();
    drop(running);
    assert!(limits.admit(50_000.0, &again, 0).is_ok());
}

fn breaker() -> Arc<Breaker> {
    let recovery_timeout = Duration::from_millis(300);
    Breaker::new("redis", BreakerSettings { recovery_timeout, ..BreakerSettings::default() })
}

fn store(url: String, timeout: Duration, breaker: Arc<Breaker>) -> KvStore {
    KvStore::redis(&RedisSettings { timeout, ..RedisSettings::new(url) }, breaker).unwrap()
}

/// One replica of several.
fn replica(server: &RedisServer, settings: &LimitSettings) -> Limits {
    Limits::new(settings.clone(), &store(server.url(), MINUTE, breaker())).unwrap()
}

/// What a claim may be held to in a random sequence.
fn random_scopes<'a>() -> Vec<Scope<'a>> {
    let some = |most: u64| rand::random_bool(0.6).then(|| rand::random_range(0..most));
    let all = [
        Scope::new(ScopeKind::Global, ""),
        Scope::new(ScopeKind::Department, "sales"),
        user(["ann", "bob:ann", "ева"][rand::random_range(0..3)]),
        Scope::new(ScopeKind::Key, "key"),
        Scope::new(ScopeKind::Address, ["::1", "10.0.0.1"][rand::random_range(0..2)]),
    ];
    let mut scopes: Vec<Scope> = all.into_iter().filter(|_| rand::random_bool(0.5)).collect();
    for scope in scopes.iter_mut().filter(|_| rand::random_bool(0.2)) {
        scope.own = Quota {
            requests_per_minute: some(30),
            requests_per_hour: some(100),
            tokens_per_minute: some(3_000_000),
            parallel_requests: some(5),
        };
    }
    scopes
}

#[tokio::test]
async fn the_same_sequence_is_decided_alike_here_and_in_redis() {
    let server = RedisServer::start().await;
    let redis = Redis::new(&RedisSettings { timeout: MINUTE, ..RedisSettings::new(server.url()) }, breaker()).unwrap();
    let (local, shared) = (Arc::new(Local::default()), Shared::new(redis, Duration::from_hours(1_000)));
    let quota = |rpm, rph, tpm, parallel| Quota {
        requests_per_minute: Some(rpm),
        requests_per_hour: Some(rph),
        tokens_per_minute: Some(tpm),
        parallel_requests: Some(parallel),
    };
    let settings = LimitSettings {
        global: quota(120, 2_000, 999_999_999, 9),
        user: quota(13, 400, 700_001, 3),
        key: Quota { tokens_per_minute: Some(333_333), ..NONE },
        department: Quota { requests_per_hour: Some(300), ..NONE },
        ..LimitSettings::default()
    };
    let (mut now, mut running, mut admitted, mut reasons) =
        (1_000_000, Vec::new(), 0, std::collections::HashSet::new());
    for step in 0..3_000 {
        now += [0, 1, 17, 1_500, 40_000, -300][rand::random_range(0..6)];
        let scopes = random_scopes();
        let tokens = rand::random_range(0_u64..200_000);
        let checks = check::of(&Claim { scopes: &scopes, tokens }, &settings);
        let (here, there) = (local.admit(now, &checks), shared.admit(now, &checks).await.unwrap());
        let told = |outcome: &Result<Admission, Refusal>| outcome.as_ref().map(|one| *one.rates()).map_err(|no| *no);
        assert_eq!(told(&here), told(&there), "step {step}: {checks:?}");
        match (here, there) {
            (Ok(here), Ok(there)) => {
                admitted += 1;
                running.push((here, there, tokens));
            }
            (Err(refusal), _) => drop(reasons.insert(refusal.reason)),
            _ => unreachable!(),
        }
        while !running.is_empty() && rand::random_bool(0.45) {
            let (here, there, tokens) = running.swap_remove(rand::random_range(0..running.len()));
            if rand::random_bool(0.8) {
                let actual = rand::random_range(0..=tokens + tokens / 10);
                here.finish(actual);
                there.finish(actual);
            } else {
                drop((here, there));
            }
            shared.flush().await;
        }
    }
    println!("{admitted} of 3000 admitted, refused for {} reasons", reasons.len());
    assert!((500..2_500).contains(&admitted) && reasons.len() >= 6, "{admitted} {reasons:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_share_one_limit_exactly() {
    let server = RedisServer::start().await;
    let settings = LimitSettings {
        user: Quota { requests_per_hour: Some(37), ..NONE },
        key: Quota { parallel_requests: Some(10), ..NONE },
        ..LimitSettings::default()
    };
    let replicas = [replica(&server, &settings), replica(&server, &settings)];
    let admitted = async |kind, id: &'static str| {
        let one =
            |limits: Limits| async move { limits.admit(&Claim { scopes: &[Scope::new(kind, id)], tokens: 0 }).await };
        let all: Vec<_> = (0..100).map(|index| tokio::spawn(one(replicas[index % 2].clone()))).collect();
        let mut admissions = Vec::new();
        for task in all {
            admissions.extend(task.await.unwrap().ok());
        }
        admissions
    };
    assert_eq!(admitted(ScopeKind::User, "ann").await.len(), 37);
    for _ in 0..3 {
        let holding = admitted(ScopeKind::Key, "key").await;
        assert_eq!(holding.len(), 10);
        drop(holding);
        replicas[0].flush().await;
        replicas[1].flush().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_are_renewed_while_a_replica_lives_and_end_with_it() {
    let server = RedisServer::start().await;
    let settings = LimitSettings {
        user: Quota { parallel_requests: Some(2), ..NONE },
        lease: Duration::from_millis(1_200),
        ..LimitSettings::default()
    };
    let survivor = replica(&server, &settings);
    let claim = Claim { scopes: &[user("ann")], tokens: 0 };
    let doomed = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (url, theirs) = (server.url(), settings.clone());
    let held = doomed.spawn(async move {
        let limits = Limits::new(theirs, &store(url, MINUTE, breaker())).unwrap();
        limits.admit(&Claim { scopes: &[user("ann")], tokens: 0 }).await.unwrap()
    });
    let held = held.await.unwrap();
    // The survivor's own keeps the set of leases alive.
    let own = survivor.admit(&claim).await.unwrap();
    for _ in 0..30 {
        survivor.admit(&claim).await.unwrap_err();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    doomed.shutdown_background();
    let died = Instant::now();
    while survivor.admit(&claim).await.is_err() {
        assert!(died.elapsed() < seconds(10));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("free {:?} after the replica's end", died.elapsed());
    drop((held, own));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_in_the_middle_leaves_no_lease() {
    let server = RedisServer::start().await;
    let proxy = FaultProxy::before(server.address()).await;
    let settings = LimitSettings { user: Quota { parallel_requests: Some(3), ..NONE }, ..LimitSettings::default() };
    let limits = Limits::new(settings, &store(proxy.url(), MINUTE, breaker())).unwrap();
    let claim = Claim { scopes: &[user("ann")], tokens: 0 };
    drop(limits.admit(&claim).await.unwrap());
    proxy.set(Fault::Slow(Duration::from_millis(30)));
    for _ in 0..10 {
        let left = tokio::time::timeout(Duration::from_millis(5), limits.admit(&claim)).await;
        left.unwrap_err();
    }
    proxy.set(Fault::None);
    limits.flush().await;
    let holding = [limits.admit(&claim).await.unwrap(), limits.admit(&claim).await.unwrap()];
    let last = limits.admit(&claim).await.unwrap();
    limits.admit(&claim).await.unwrap_err();
    drop((holding, last));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_each_process_counts_for_itself_or_refuses() {
    let server = RedisServer::start().await;
    let proxy = FaultProxy::before(server.address()).await;
    let settings = LimitSettings { user: Quota { requests_per_hour: Some(4), ..NONE }, ..LimitSettings::default() };
    let closed = LimitSettings { when_unavailable: WhenUnavailable::Refuse, ..settings.clone() };
    let (breaker, patience) = (breaker(), Duration::from_millis(300));
    let store = store(proxy.url(), patience, breaker.clone());
    let limits = Limits::new(settings, &store).unwrap();
    let strict = Limits::new(closed, &store).unwrap();
    let claim = Claim { scopes: &[user("ann")], tokens: 0 };
    let left = |outcome: Result<Admission, Refusal>| outcome.ok().map(|one| one.rates().requests.unwrap().remaining);
    let remaining = async || left(limits.admit(&claim).await);
    assert_eq!(remaining().await, Some(3));
    assert_eq!(remaining().await, Some(2));
    proxy.set(Fault::Frozen);
    for wanted in [Some(3), Some(2), Some(1), Some(0), None, None] {
        assert_eq!(remaining().await, wanted);
    }
    assert_eq!(breaker.report().state, BreakerState::Open);
    assert_eq!(strict.admit(&claim).await.unwrap_err(), Refusal::unavailable());
    proxy.set(Fault::None);
    let healed = Instant::now();
    while breaker.report().state != BreakerState::Closed {
        assert!(healed.elapsed() < seconds(10));
        tokio::time::sleep(Duration::from_millis(50)).await;
        let _ = store.get("anything").await;
    }
    let claim = Claim { scopes: &[user("eva")], tokens: 0 };
    assert_eq!(left(strict.admit(&claim).await), Some(3));
    assert_eq!(left(limits.admit(&claim).await), Some(2));
}

#[tokio::test]
async fn shared_limits_need_redis() {
    let settings = |storage| LimitSettings { storage, ..LimitSettings::default() };
    let memory = KvStore::memory(1 << 20);
    assert_eq!(Limits::new(settings(Some(Storage::Redis)), &memory).unwrap_err(), NoRedis);
    assert!(Limits::new(settings(None), &memory).is_ok());
    let names: Vec<_> = ["memory", " Redis", "disk"].map(|name| name.parse::<Storage>().ok()).into();
    assert_eq!(names, [Some(Storage::Memory), Some(Storage::Redis), None]);
}
