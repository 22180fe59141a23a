//! Health, readiness, models, metrics, headers and the documentation.

use std::collections::BTreeSet;

use serde_json::{Value as Json, json};
use steppe::server::ApiDoc;
use utoipa::OpenApi as _;

use crate::harness::{MODEL, Setup, ask, with};
use crate::http::{addressed_as, get, post, send};

#[tokio::test]
async fn health_is_there_at_once_and_ready_only_with_the_model() {
    let (server, generator) = Setup::new().chat("hi", "ok").load().await;
    let health = get(server.address, "/health").await;
    assert_eq!((health.status, health.json()), (200, json!({"status": "ok", "model": null, "users": 0})));
    for path in ["/ready", "/v1/models"] {
        let reply = get(server.address, path).await;
        assert_eq!((reply.status, reply.header("retry-after")), (503, Some("5")));
        assert_eq!(reply.json()["error"]["code"], "model_loading");
    }
    assert_eq!(post(server.address, "/v1/chat/completions", &ask("hi")).await.status, 503);
    server.state.start(generator);
    let ready = get(server.address, "/ready").await;
    assert_eq!((ready.status, ready.json()), (200, json!({"status": "ready"})));
    assert_eq!(get(server.address, "/health").await.json()["model"], MODEL);
    assert_eq!(post(server.address, "/v1/chat/completions", &ask("hi")).await.status, 200);
}

#[tokio::test]
async fn models_are_listed_and_found_by_names_with_slashes_and_colons() {
    let server = Setup::new().start().await;
    let object = json!({
        "id": MODEL, "object": "model", "created": 1_700_000_000, "owned_by": "steppe", "root": MODEL, "parent": null,
        "permission": [], "max_model_len": 512,
    });
    for path in ["/v1/models", "/v1/llm/models"] {
        assert_eq!(get(server.address, path).await.json(), json!({"object": "list", "data": [object]}));
    }
    for path in ["/v1/models/org/toy:1b", "/v1/models/org%2Ftoy%3A1b", "/v1/models/default"] {
        assert_eq!(get(server.address, path).await.json(), object, "{path}");
    }
}

#[tokio::test]
async fn request_ids_come_back_if_they_are_sane() {
    let server = Setup::new().start().await;
    let long = "x".repeat(129);
    for (given, kept) in [("abc-1_2.3:4", true), ("has space", false), (long.as_str(), false), ("", false)] {
        let reply = send(server.address, "GET", "/health", &[("x-request-id", given)], b"").await;
        let id = reply.header("x-request-id").unwrap();
        assert_eq!(id == given, kept, "{given}");
        assert!(kept || id.starts_with("req_"));
    }
    for path in ["/health", "/nowhere", "/docs/"] {
        let reply = get(server.address, path).await;
        assert!(reply.header("openai-processing-ms").unwrap().parse::<u64>().is_ok());
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(reply.header("x-frame-options"), Some("DENY"));
        assert!(reply.header("content-security-policy").is_some() && reply.header("referrer-policy").is_some());
    }
}

#[tokio::test]
async fn metrics_are_real_series_under_known_names() {
    let server = Setup::new().chat("hi", "abc").start().await;
    assert_eq!(post(server.address, "/v1/chat/completions", &ask("hi")).await.status, 200);
    assert_eq!(post(server.address, "/v1/chat/completions", &with(ask("hi"), json!({"n": 0}))).await.status, 400);
    server.becomes_idle().await;
    let reply = get(server.address, "/metrics").await;
    assert_eq!(reply.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let text = reply.text();
    let value = |name: &str| -> f64 {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name} in\n{text}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    let label = format!("{{model_name=\"{MODEL}\"}}");
    for gauge in ["vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"] {
        assert!(value(&format!("{gauge}{label}")).abs() < 1e-9);
    }
    for (counter, least) in [
        ("vllm:prompt_tokens_total", 10.0),
        ("vllm:generation_tokens_total", 4.0),
        ("vllm:prefix_cache_queries_total", 0.0),
        ("vllm:prefix_cache_hits_total", 0.0),
        ("vllm:num_preemptions_total", 0.0),
        ("vllm:spec_decode_num_draft_tokens_total", 0.0),
        ("vllm:spec_decode_num_accepted_tokens_total", 0.0),
    ] {
        assert!(value(&format!("{counter}{label}")) >= least, "{counter}");
        assert!(text.contains(&format!("# TYPE {counter} counter")));
    }
    for histogram in [
        "vllm:time_to_first_token_seconds",
        "vllm:inter_token_latency_seconds",
        "vllm:e2e_request_latency_seconds",
        "vllm:request_queue_time_seconds",
        "vllm:request_prompt_tokens",
        "vllm:request_generation_tokens",
    ] {
        assert!(text.contains(&format!("# TYPE {histogram} histogram")), "{histogram}");
        assert!(value(&format!("{histogram}_bucket{{model_name=\"{MODEL}\",le=\"+Inf\"}}")) >= 1.0);
        assert!(value(&format!("{histogram}_count{label}")) >= 1.0);
    }
    let success = text.lines().filter(|line| line.starts_with("vllm:request_success_total{")).count();
    assert_eq!(success, 4, "one series per reason, from the start");
    assert!(text.contains("llm_requests_total{endpoint=\"/v1/chat/completions\",status=\"200\"} 1"));
    assert!(text.contains("llm_requests_errors_total{endpoint=\"/v1/chat/completions\",status=\"400\"} 1"));
    assert!(text.contains("llm_requests_duration_seconds_bucket{endpoint=\"/v1/chat/completions\",le="));
}

#[tokio::test]
async fn the_document_describes_every_route_and_nothing_else() {
    let document = serde_json::to_value(ApiDoc::openapi()).unwrap();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let described: BTreeSet<String> = document["paths"].as_object().unwrap().keys().cloned().collect();
    let sources = [include_str!("../../src/server/router.rs"), include_str!("../../src/server/admin/mod.rs")];
    let routed: BTreeSet<String> = sources
        .iter()
        .flat_map(|source| source.lines())
        .filter_map(|line| line.split(".route(\"").nth(1)?.split('"').next())
        .map(|path| path.replace("{*", "{"))
        .collect();
    assert_eq!(described, routed);
}

#[tokio::test]
async fn every_reference_of_the_document_resolves_and_answers_match_it() {
    let document = serde_json::to_value(ApiDoc::openapi()).unwrap();
    let mut references = Vec::new();
    collect_references(&document, &mut references);
    assert!(references.len() > 20);
    for reference in references {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
    let server = Setup::new().chat("hi", "ok").start().await;
    let answer = post(server.address, "/v1/chat/completions", &ask("hi")).await.json();
    let schema = &document["components"]["schemas"]["ChatCompletion"]["properties"];
    let documented: BTreeSet<_> = schema.as_object().unwrap().keys().collect();
    assert_eq!(answer.as_object().unwrap().keys().collect::<BTreeSet<_>>(), documented);
}

fn collect_references(value: &Json, found: &mut Vec<String>) {
    match value {
        Json::Object(map) => {
            if let Some(reference) = map.get("$ref").and_then(Json::as_str) {
                found.push(reference.to_owned());
            }
            map.values().for_each(|value| collect_references(value, found));
        }
        Json::Array(values) => values.iter().for_each(|value| collect_references(value, found)),
        _ => {}
    }
}

#[tokio::test]
async fn the_page_works_without_a_network() {
    let server = Setup::new().start().await;
    assert_eq!(get(server.address, "/openapi.json").await.json()["info"]["title"], "Steppe");
    assert_eq!(get(server.address, "/docs").await.header("location"), Some("/docs/"));
    let page = get(server.address, "/docs/").await;
    assert_eq!(page.status, 200);
    let mut assets = 0;
    for part in page.text().split(['"', '\'']) {
        assert!(!part.starts_with("http"), "the page loads {part}");
        if part.rsplit_once('.').is_some_and(|(_, kind)| matches!(kind, "js" | "css")) {
            let path = format!("/docs/{}", part.trim_start_matches("./"));
            assert_eq!(get(server.address, &path).await.status, 200, "{path}");
            assets += 1;
        }
    }
    assert!(assets >= 3);
}

#[tokio::test]
async fn pages_of_other_origins_are_shut_out_unless_configured() {
    let preflight = [("origin", "https://a.example"), ("access-control-request-method", "POST")];
    let closed = Setup::new().start().await;
    let reply = send(closed.address, "OPTIONS", "/v1/chat/completions", &preflight, b"").await;
    assert_eq!((reply.status, reply.header("access-control-allow-origin")), (405, None));

    let mut setup = Setup::new();
    setup.cors_origins = vec!["https://a.example".into()];
    let open = setup.start().await;
    let reply = send(open.address, "OPTIONS", "/v1/chat/completions", &preflight, b"").await;
    assert_eq!((reply.status, reply.header("access-control-allow-origin")), (200, Some("https://a.example")));
    let reply = send(open.address, "GET", "/nowhere", &[("origin", "https://a.example")], b"").await;
    assert_eq!(reply.header("access-control-allow-origin"), Some("https://a.example"));
    assert!(reply.header("access-control-expose-headers").unwrap().contains("x-request-id"));
    let reply = send(open.address, "GET", "/health", &[("origin", "https://b.example")], b"").await;
    assert_eq!(reply.header("access-control-allow-origin"), None);
}

#[tokio::test]
async fn only_allowed_names_lead_here() {
    let mut setup = Setup::new();
    setup.allowed_hosts = vec!["llm.example".into()];
    let server = setup.start().await;
    let reply = get(server.address, "/v1/models").await;
    assert_eq!((reply.status, reply.json()["error"]["code"].as_str()), (403, Some("host_not_allowed")));
    assert_eq!(get(server.address, "/ready").await.status, 200);
    for (host, status) in
        [("LLM.example:8000", 200), ("llm.example", 200), ("llm.example.evil", 403), ("[::1]:8000", 403)]
    {
        assert_eq!(addressed_as(server.address, host).await, status, "{host}");
    }
}
