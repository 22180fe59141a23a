//! The metrics of what stands before the engine.

use std::time::Duration;

use serde_json::json;
use steppe::auth::Scope;

use crate::access::{bearer, call, key, post, serve};
use crate::harness::{MODEL, Setup, TestServer, ask, with};
use crate::http::get;

const CHAT: &str = "/v1/chat/completions";

/// The value of a series, 0 where there is none.
fn value(text: &str, series: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().unwrap())
}

async fn metrics(server: &TestServer) -> String {
    let operator = bearer(&key(&server.state.auth, "root", &[Scope::Metrics]).await);
    let reply = call(server.address, "GET", "/metrics", operator, &json!({})).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.text().to_owned()
}

#[tokio::test]
async fn limits_cache_credentials_ledger_and_breakers_are_counted() {
    let mut setup = Setup::new().chat("hi", "abcde");
    setup.settings = vec![
        ("billing.enabled", "true"),
        ("billing.output_price", "2"),
        ("limits.requests_per_minute", "5"),
        ("billing.default_balance", "0"),
    ];
    let server = serve(setup).await;
    let auth = &server.state.auth;
    let ann = bearer(&key(auth, "ann", &[]).await);
    let id = auth.find_user("ann").await.unwrap().id;
    let deterministic = with(ask("hi"), json!({"temperature": 0}));
    assert_eq!(post(server.address, CHAT, ann.clone(), &deterministic).await.status, 429, "there is no money");
    server.state.gate.ledger.top_up(&id, 1_000_000, "root", "test").await.unwrap();
    for _ in 0..2 {
        assert_eq!(post(server.address, CHAT, ann.clone(), &deterministic).await.status, 200);
    }
    assert_eq!(post(server.address, CHAT, ann.clone(), &ask("hi")).await.status, 200);
    post(server.address, CHAT, ann.clone(), &ask("hi")).await;
    assert_eq!(post(server.address, CHAT, ann.clone(), &ask("hi")).await.status, 429, "the limit is reached");
    post(server.address, CHAT, bearer("sk-wrong"), &ask("hi")).await;
    post(server.address, "/token", None, &json!({"username": "ann", "password": "wrong horse"})).await;
    call(server.address, "GET", "/admin/users", ann, &json!({})).await;

    let text = metrics(&server).await;
    for (series, wanted) in [
        ("rate_limit_requests_total{scope=\"user\",outcome=\"allowed\"}", 5.0),
        ("rate_limit_requests_total{scope=\"global\",outcome=\"allowed\"}", 5.0),
        ("rate_limit_requests_total{scope=\"user\",outcome=\"refused\"}", 1.0),
        ("prompt_cache_requests_total{outcome=\"miss\"}", 1.0),
        ("prompt_cache_requests_total{outcome=\"hit\"}", 1.0),
        ("prompt_cache_requests_total{outcome=\"bypass\"}", 2.0),
        ("prompt_cache_lookups_total{result=\"hit\"}", 1.0),
        ("prompt_cache_lookups_total{result=\"miss\"}", 2.0),
        ("auth_requests_total{credential=\"key\",outcome=\"accepted\"}", 7.0),
        ("auth_requests_total{credential=\"key\",outcome=\"refused\"}", 1.0),
        ("auth_requests_total{credential=\"key\",outcome=\"forbidden\"}", 1.0),
        ("auth_requests_total{credential=\"password\",outcome=\"refused\"}", 1.0),
        ("ledger_holds_total{outcome=\"short\"}", 1.0),
        ("ledger_holds_total{outcome=\"held\"}", 4.0),
        ("ledger_settlements_total{outcome=\"completed\"}", 4.0),
        ("circuit_breaker_state{name=\"database\"}", 0.0),
    ] {
        assert!((value(&text, series) - wanted).abs() < 1e-9, "{series} {wanted}, in\n{text}");
    }
    // Three answers of six tokens at 0.002, and one from the cache.
    assert!((value(&text, "ledger_charged_millionths_total") - 36_000.0).abs() < 1e-9, "{text}");
    assert!((value(&text, &format!("user_balance{{user_id=\"{id}\"}}")) - 0.964).abs() < 1e-9, "{text}");
}

#[tokio::test]
async fn without_billing_nobodys_balance_is_told_and_metrics_can_be_turned_off() {
    let server = serve(Setup::new().chat("hi", "ok")).await;
    let ann = bearer(&key(&server.state.auth, "ann", &[]).await);
    assert_eq!(post(server.address, CHAT, ann, &ask("hi")).await.status, 200);
    assert!(!metrics(&server).await.contains("user_balance{"));
    let mut setup = Setup::new();
    setup.settings = vec![("telemetry.prometheus", "false")];
    assert_eq!(get(setup.start().await.address, "/metrics").await.status, 404);
}

#[tokio::test]
async fn a_model_whose_steps_fail_is_left_alone_for_a_while() {
    let mut setup = Setup::new().chat("hi", "ok");
    setup.mock.failing_token = Some(u32::from(b'~'));
    setup.mock.not_finite_token = Some(u32::from(b'^'));
    setup.settings = vec![("circuit_breaker.failure_threshold", "2"), ("circuit_breaker.recovery_timeout", "1")];
    let server = setup.start().await;
    let chat = async |text: &str| post(server.address, CHAT, None, &ask(text)).await;
    for _ in 0..3 {
        assert_eq!(chat("^").await.status, 500, "what one prompt does says nothing about the model");
    }
    assert_eq!(chat("hi").await.status, 200);
    for _ in 0..2 {
        assert_eq!(chat("~").await.status, 500);
    }
    let refused = chat("hi").await;
    assert_eq!((refused.status, refused.json()["error"]["code"].as_str()), (503, Some("model_unavailable")));
    assert!(refused.header("retry-after").is_some());
    let text = get(server.address, "/metrics").await.text().to_owned();
    assert!((value(&text, &format!("circuit_breaker_state{{name=\"model:{MODEL}\"}}")) - 2.0).abs() < 1e-9, "{text}");
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(chat("hi").await.status, 200);
}
