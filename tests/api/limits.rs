//! Limits as a client meets them: headers, 429, and when to come again.

use std::time::Duration;

use serde_json::json;

use crate::access::{bearer, call, key, post, serve};
use crate::harness::{Setup, ask, with};

const CHAT: &str = "/v1/chat/completions";

#[tokio::test]
async fn requests_beyond_the_limit_are_told_when_to_come_again() {
    let mut setup = Setup::new().chat("hi", "abc");
    setup.settings = vec![("limits.requests_per_minute", "3"), ("limits.tokens_per_minute", "100000")];
    let server = serve(setup).await;
    let auth = &server.state.auth;
    let (first, second) = (bearer(&key(auth, "ann", &[]).await), bearer(&key(auth, "ann", &[]).await));
    for left in ["2", "1", "0"] {
        let reply = post(server.address, CHAT, first.clone(), &ask("hi")).await;
        assert_eq!((reply.status, reply.header("x-ratelimit-remaining-requests")), (200, Some(left)));
        assert_eq!(reply.header("x-ratelimit-limit-requests"), Some("3"));
        assert_eq!(reply.header("x-ratelimit-limit-tokens"), Some("100000"));
        assert!(reply.header("x-ratelimit-reset-requests").unwrap().ends_with('s'));
    }
    let refused = post(server.address, CHAT, second, &ask("hi")).await;
    let error = refused.json()["error"].clone();
    assert_eq!((refused.status, error["code"].as_str()), (429, Some("rate_limit_exceeded")));
    assert!(error["message"].as_str().unwrap().contains("this user"), "{error}");
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    let milliseconds: u64 = refused.header("retry-after-ms").unwrap().parse().unwrap();
    assert!((15..=20).contains(&wait) && milliseconds <= wait * 1000, "{wait} s, {milliseconds} ms");
    assert_eq!(refused.header("x-ratelimit-remaining-requests"), Some("0"));
    let other = bearer(&key(auth, "root", &[]).await);
    assert_eq!(post(server.address, CHAT, other, &ask("hi")).await.status, 200, "another user");
}

#[tokio::test]
async fn tokens_that_were_not_used_are_given_back() {
    let mut setup = Setup::new().chat("hi", "abc");
    setup.settings = vec![("limits.tokens_per_minute", "300")];
    let server = serve(setup).await;
    let ann = bearer(&key(&server.state.auth, "ann", &[]).await);
    let body = with(ask("hi"), json!({"max_tokens": 200}));
    for _ in 0..3 {
        let reply = post(server.address, CHAT, ann.clone(), &body).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    let never = post(server.address, CHAT, ann, &with(ask("hi"), json!({"max_tokens": 400}))).await;
    assert_eq!((never.status, never.header("retry-after")), (429, None), "it would never fit");
}

#[tokio::test]
async fn requests_at_the_same_time_are_counted_until_they_end() {
    let mut setup = Setup::new().slow(Duration::from_millis(20));
    setup.settings = vec![("limits.parallel_requests", "1")];
    let server = serve(setup).await;
    let ann = bearer(&key(&server.state.auth, "ann", &[]).await);
    let body = with(ask("long"), json!({"max_tokens": 40, "ignore_eos": true}));
    let (address, header) = (server.address, ann.clone());
    let long = tokio::spawn(async move { post(address, CHAT, header, &body).await.status });
    server.runs(1).await;
    let refused = post(address, CHAT, ann.clone(), &ask("hi")).await;
    assert_eq!(refused.status, 429);
    assert!(refused.json()["error"]["message"].as_str().unwrap().contains("at the same time"));
    assert_eq!(long.await.unwrap(), 200);
    assert_eq!(post(address, CHAT, ann, &ask("hi")).await.status, 200);
}

#[tokio::test]
async fn addresses_everybody_and_hours_have_limits_too() {
    for (setting, others, whose, what) in [
        ("limits.requests_per_hour", false, "this user", "per hour"),
        ("limits.key_requests_per_hour", false, "this API key", "per hour"),
        ("limits.address_requests_per_minute", true, "this address", "per minute"),
        ("limits.address_requests_per_hour", true, "this address", "per hour"),
        ("limits.global_requests_per_minute", true, "this server", "per minute"),
        ("limits.global_requests_per_hour", true, "this server", "per hour"),
    ] {
        let mut setup = Setup::new().chat("hi", "abc");
        setup.settings = vec![(setting, "1")];
        let server = serve(setup).await;
        let ann = bearer(&key(&server.state.auth, "ann", &[]).await);
        let root = bearer(&key(&server.state.auth, "root", &[]).await);
        assert_eq!(post(server.address, CHAT, ann.clone(), &ask("hi")).await.status, 200);
        let other = post(server.address, CHAT, root, &ask("hi")).await;
        assert_eq!(other.status == 429, others, "{setting}: another user");
        let refused = post(server.address, CHAT, ann, &ask("hi")).await;
        let error = refused.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(refused.status == 429 && error.contains(whose) && error.contains(what), "{setting}: {error}");
    }
}

#[tokio::test]
async fn a_key_and_a_department_have_limits_of_their_own() {
    let server = serve(Setup::new().chat("hi", "abc")).await;
    let address = server.address;
    let root = bearer(&key(&server.state.auth, "root", &[steppe::auth::Scope::Admin]).await);
    let admin = async |method: &str, path: &str, body: &serde_json::Value| {
        let reply = call(address, method, path, root.clone(), body).await;
        assert!(reply.status < 300, "{path}: {}", reply.text());
        reply
    };
    let limited = json!({"name": "limited", "limits": {"requests_per_minute": 1}});
    let made = admin("POST", "/admin/users/ann/keys", &limited).await.json();
    assert_eq!(made["limits"], limited["limits"]);
    let limited = bearer(made["key"].as_str().unwrap());
    assert_eq!(post(address, CHAT, limited.clone(), &ask("hi")).await.status, 200);
    let refused = post(address, CHAT, limited, &ask("hi")).await;
    assert_eq!(refused.status, 429);
    assert!(refused.json()["error"]["message"].as_str().unwrap().contains("this API key"));

    admin("PATCH", "/admin/users/ann", &json!({"department": "Бухгалтерия"})).await;
    let department = admin("GET", "/admin/departments", &json!({})).await.json()["data"][0]["id"].clone();
    let path = format!("/admin/departments/{}", department.as_str().unwrap());
    admin("PATCH", &path, &json!({"limits": {"requests_per_minute": 1}})).await;
    let free = bearer(&key(&server.state.auth, "ann", &[]).await);
    assert_eq!(post(address, CHAT, free.clone(), &ask("hi")).await.status, 200);
    let refused = post(address, CHAT, free, &ask("hi")).await;
    assert!(refused.json()["error"]["message"].as_str().unwrap().contains("this department"));
}
