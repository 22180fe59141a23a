//! What operators see of the server's health, with every dependency taken away in turn.

use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use sqlx::{Connection as _, Executor as _};
use steppe::auth::Scope;

use crate::access::{bearer, call, key, post, serve};
use crate::harness::{MODEL, Setup, TestServer, ask};
use crate::http::{get, send};
use crate::testing::{Fault, FaultProxy, RedisServer};

/// Asks until the answer is as wanted; fails after ten seconds.
async fn until(server: &TestServer, path: &str, wanted: impl Fn(&Json) -> bool) -> Json {
    let mut last = Json::Null;
    for _ in 0..200 {
        last = get(server.address, path).await.json();
        if wanted(&last) {
            return last;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{path} never became so: {last}");
}

/// The URL of a fresh database, where there is a PostgreSQL.
async fn fresh_postgres() -> Option<String> {
    let url = std::env::var("TEST_POSTGRES_URL").ok()?;
    let name = format!("steppe_test_{:x}", rand::random::<u64>());
    sqlx::any::install_default_drivers();
    let mut admin = sqlx::AnyConnection::connect(&url).await.unwrap();
    admin.execute(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"))).await.unwrap();
    Some(format!("{}/{name}", url.rsplit_once('/').unwrap().0))
}

fn component<'a>(report: &'a Json, name: &str) -> &'a Json {
    let found = report["components"].as_array().unwrap().iter().find(|component| component["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {report}"))
}

fn breaker<'a>(list: &'a Json, name: &str) -> &'a Json {
    let found = list.as_array().unwrap().iter().find(|breaker| breaker["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {list}"))
}

#[tokio::test]
async fn a_well_server_says_so_of_every_part_and_remembers() {
    let mut setup = Setup::new();
    setup.settings = vec![("server.health_seconds", "1")];
    let (server, generator) = setup.load().await;
    let loading = get(server.address, "/health/detailed").await.json();
    assert_eq!(
        (component(&loading, "model")["state"].as_str(), loading["status"].as_str()),
        (Some("degraded"), Some("degraded"))
    );
    server.state.start(generator);
    let report = get(server.address, "/health/detailed").await.json();
    for name in ["model", "database", "kv_store", "ledger", "disk"] {
        let component = component(&report, name);
        assert!(name == "disk" || component["state"] == "ok", "{component}");
        assert_eq!(component["effect"].is_null(), component["state"] == "ok", "{component}");
    }
    let breakers = get(server.address, "/health/circuit-breakers").await.json();
    let closed =
        |name: &str| json!({"name": name, "state": "closed", "failures": 0, "opened_at": null, "retry_at": null});
    assert_eq!(breakers, json!([closed("database"), closed(&format!("model:{MODEL}"))]));
    let system = get(server.address, "/health/system").await.json();
    assert!(system["cpu"]["count"].as_u64().unwrap() >= 1 && system["gpus"].is_array(), "{system}");
    assert!(system["memory"]["process"].as_u64().unwrap() < system["memory"]["total"].as_u64().unwrap(), "{system}");
    assert!(system["disk"]["free"].as_u64().unwrap() > 0, "{system}");
    let history = until(&server, "/health/history", |past| past.as_array().unwrap().len() >= 2).await;
    let times: Vec<f64> = history.as_array().unwrap().iter().map(|past| past["checked_at"].as_f64().unwrap()).collect();
    assert!(times[0] > times[1], "newest first: {times:?}");
}

#[tokio::test]
async fn without_redis_the_server_is_degraded_and_its_breaker_open_until_it_is_back() {
    let redis = RedisServer::start().await;
    let proxy = FaultProxy::before(redis.address()).await;
    let url = proxy.url();
    let mut setup = Setup::new().chat("hi", "ok");
    setup.settings = vec![
        ("redis.url", url.leak()),
        ("redis.timeout_ms", "500"),
        ("circuit_breaker.failure_threshold", "1"),
        ("circuit_breaker.recovery_timeout", "1"),
    ];
    let server = setup.start().await;
    until(&server, "/health/detailed", |report| component(report, "redis")["state"] == "ok").await;
    proxy.set(Fault::Killed);
    let report = until(&server, "/health/detailed", |report| component(report, "redis")["state"] == "down").await;
    assert_eq!(report["status"], "degraded");
    assert!(component(&report, "redis")["effect"].as_str().unwrap().contains("limits.when_unavailable"));
    let russian = send(server.address, "GET", "/health/detailed", &[("accept-language", "ru")], b"").await.json();
    assert!(component(&russian, "redis")["effect"].as_str().unwrap().contains("кэш"), "{russian}");
    let list = until(&server, "/health/circuit-breakers", |list| breaker(list, "redis")["state"] == "open").await;
    let redis_breaker = breaker(&list, "redis");
    let (opened, retry) = (redis_breaker["opened_at"].as_f64().unwrap(), redis_breaker["retry_at"].as_f64().unwrap());
    assert!((retry - opened - 1.0).abs() < 1e-3 && redis_breaker["failures"].as_u64().unwrap() >= 1, "{redis_breaker}");
    assert_eq!(post(server.address, "/v1/chat/completions", None, &ask("hi")).await.status, 200);
    proxy.set(Fault::None);
    let report = until(&server, "/health/detailed", |report| component(report, "redis")["state"] == "ok").await;
    assert_ne!(report["status"], "down");
}

#[tokio::test]
async fn without_its_database_the_server_says_so_at_once() {
    let Some(url) = fresh_postgres().await else { return };
    let host = url.split('@').nth(1).unwrap().split('/').next().unwrap().to_owned();
    let proxy = FaultProxy::before(host.parse().unwrap()).await;
    let own = proxy.url().trim_start_matches("redis://").to_owned();
    let mut setup = Setup::new().chat("hi", "ok");
    setup.settings = vec![
        ("store.url", url.replace(&host, &own).leak()),
        ("circuit_breaker.failure_threshold", "2"),
        ("circuit_breaker.recovery_timeout", "1"),
    ];
    let server = serve(setup).await;
    let ann = bearer(&key(&server.state.auth, "ann", &[]).await);
    let chat = async || {
        let asked = Instant::now();
        let reply = post(server.address, "/v1/chat/completions", ann.clone(), &ask("hi")).await;
        (reply, asked.elapsed())
    };
    assert_eq!(chat().await.0.status, 200);
    for fault in [Fault::Frozen, Fault::Killed] {
        proxy.set(fault);
        let (reply, took) = chat().await;
        assert_eq!((reply.status, reply.json()["error"]["code"].as_str()), (503, Some("database_unavailable")));
        assert!(reply.header("retry-after").is_some() && took < Duration::from_secs(3), "{fault:?}: {took:?}");
        chat().await;
        let mut quickest = Duration::MAX;
        for _ in 0..10 {
            let (reply, took) = chat().await;
            assert_eq!(reply.status, 503);
            quickest = quickest.min(took);
        }
        assert!(quickest < Duration::from_millis(300), "{fault:?}: {quickest:?}");
        assert_eq!(server.state.model_condition().state().as_str(), "ok");
        let report = server.state.health.look(server.state.model_condition()).await;
        assert_eq!(report.state.as_str(), "down");
        proxy.set(Fault::None);
        let healed = async {
            while chat().await.0.status != 200 {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), healed).await.unwrap();
    }
}

#[tokio::test]
async fn operators_need_the_scope_metrics() {
    let server = serve(Setup::new()).await;
    let auth = &server.state.auth;
    let (operator, user) = (key(auth, "root", &[Scope::Metrics]).await, key(auth, "ann", &[]).await);
    for path in ["/health/detailed", "/health/circuit-breakers", "/health/system", "/health/history"] {
        let status = async |key: &str| call(server.address, "GET", path, bearer(key), &json!({})).await.status;
        assert_eq!((status(&operator).await, status(&user).await), (200, 403), "{path}");
    }
}
