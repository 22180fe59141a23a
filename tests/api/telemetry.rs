//! What leaves the server about its requests: lines of the log and spans, and what must never leave it.

use std::io::Write;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use serde_json::{Value as Json, json};
use steppe::resilience::BreakerState;
use steppe::startup;
use steppe::telemetry::{Metrics, log_layer};
use tracing_subscriber::layer::SubscriberExt as _;

use crate::access::{key, serve};
use crate::collector::{Authority, Collector};
use crate::harness::{MODEL, Setup, ask, config, with};
use crate::http::{Reply, send};

const CHAT: &str = "/v1/chat/completions";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

/// The spans that have arrived.
fn spans_at(collector: &Collector) -> Vec<Span> {
    let mut spans = Vec::new();
    for (head, body) in &*collector.received.lock().unwrap() {
        assert!(head.contains("application/x-protobuf"), "{head}");
        for resource in ExportTraceServiceRequest::decode(&body[..]).unwrap().resource_spans {
            let about = resource.resource.unwrap().attributes;
            let of = |key: &str| about.iter().find(|pair| pair.key == key).unwrap().value.clone().unwrap().value;
            assert_eq!(of("service.name"), Some(Value::StringValue("steppe".into())));
            assert_eq!(of("deployment.environment.name"), Some(Value::StringValue("tests".into())));
            spans.extend(resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
        }
    }
    spans
}

fn attribute(span: &Span, key: &str) -> Option<Value> {
    span.attributes.iter().find(|pair| pair.key == key)?.value.clone()?.value
}

#[expect(clippy::unnecessary_wraps, reason = "an attribute that may be absent")]
fn text(value: &str) -> Option<Value> {
    Some(Value::StringValue(value.into()))
}

fn named<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
    spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("no {name} in {names:?}"))
}

/// One traced chat with a key, on a server with these settings that then ends. Returns the answer and the key.
async fn chat(settings: Vec<(&'static str, &'static str)>, further: Json) -> (Reply, String) {
    let mut setup = Setup::new().chat("prompt-to-hide", "answer-to-hide");
    setup.settings = settings;
    let server = Box::pin(serve(setup)).await;
    let key = key(&server.state.auth, "ann", &[]).await;
    let parent = format!("00-{TRACE}-{CALLER}-01");
    let bearer = format!("Bearer {key}");
    let headers = [("content-type", "application/json"), ("authorization", bearer.as_str()), ("traceparent", &parent)];
    let body = with(ask("prompt-to-hide"), further).to_string();
    let reply = send(server.address, "POST", CHAT, &headers, body.as_bytes()).await;
    let traces = server.state.traces.clone();
    server.close().await;
    let closed = Instant::now();
    traces.close();
    assert!(closed.elapsed() < Duration::from_secs(5), "{:?}", closed.elapsed());
    (reply, key)
}

#[tokio::test]
async fn a_request_is_a_tree_of_spans_without_prompt_answer_or_key() {
    let collector = Collector::start();
    let settings = vec![
        ("telemetry.otlp_endpoint", collector.url()),
        ("telemetry.otlp_headers", "x-token=a-token-to-hide"),
        ("telemetry.environment", "tests"),
    ];
    for stream in [false, true] {
        collector.received.lock().unwrap().clear();
        let further = json!({"stream": stream, "temperature": 0, "seed": 7, "max_tokens": 40});
        let (reply, key) = chat(settings.clone(), further).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let spans = spans_at(&collector);
        assert_eq!(spans.len(), 5);
        assert!(collector.received.lock().unwrap()[0].0.contains("x-token: a-token-to-hide"));
        for hidden in ["prompt-to-hide", "answer-to-hide", key.as_str(), "a-token-to-hide"] {
            assert!(!collector.holds(hidden), "{hidden} left the server");
        }
        let request = named(&spans, "POST /v1/chat/completions");
        let generation = named(&spans, &format!("chat {MODEL}"));
        assert_eq!(hex::encode(&request.parent_span_id), CALLER);
        assert!(spans.iter().all(|span| hex::encode(&span.trace_id) == TRACE));
        assert_eq!(generation.parent_span_id, request.span_id);
        assert_eq!(attribute(request, "http.response.status_code"), Some(Value::IntValue(200)));
        assert!(attribute(request, "user.id").is_some());
        for (key, value) in [
            ("gen_ai.operation.name", text("chat")),
            ("gen_ai.request.model", text(MODEL)),
            ("gen_ai.provider.name", text("steppe")),
            ("gen_ai.request.seed", Some(Value::IntValue(7))),
            ("gen_ai.request.max_tokens", Some(Value::IntValue(40))),
            ("gen_ai.usage.output_tokens", Some(Value::IntValue("answer-to-hide".len() as i64 + 1))),
            ("steppe.cache", text("miss")),
            ("steppe.outcome", text("completed")),
            ("gen_ai.input.messages", None),
            ("gen_ai.output.messages", None),
        ] {
            assert_eq!(attribute(generation, key), value, "{key}");
        }
        assert!(matches!(attribute(generation, "gen_ai.usage.input_tokens"), Some(Value::IntValue(20..))));
        let Some(Value::ArrayValue(reasons)) = attribute(generation, "gen_ai.response.finish_reasons") else {
            panic!("{generation:?}")
        };
        assert_eq!(reasons.values[0].value, text("stop"));
        let phases = ["queue", "prefill", "decode"].map(|name| named(&spans, name));
        assert!(phases.iter().all(|phase| phase.parent_span_id == generation.span_id));
        let times = phases.map(|phase| (phase.start_time_unix_nano, phase.end_time_unix_nano));
        assert!(times.iter().all(|(start, end)| start <= end), "{times:?}");
        assert!(times[0].0 <= times[1].0 && times[1].0 <= times[2].0, "{times:?}");
    }
}

#[tokio::test]
async fn prompts_and_answers_are_told_where_that_is_wanted_and_langfuse_is_found_by_its_keys() {
    let collector = Collector::start();
    let settings = vec![
        ("telemetry.langfuse_enabled", "true"),
        ("telemetry.langfuse_host", collector.url()),
        ("telemetry.langfuse_public_key", "pk"),
        ("telemetry.langfuse_secret_key", "sk"),
        ("telemetry.capture_content", "true"),
        ("telemetry.environment", "tests"),
    ];
    chat(settings, json!({})).await;
    let (head, _) = collector.received.lock().unwrap()[0].clone();
    assert!(head.starts_with("post /api/public/otel/v1/traces "), "{head}");
    assert!(head.contains("authorization: basic cgs6c2s="), "{head}");
    let spans = spans_at(&collector);
    let generation = named(&spans, &format!("chat {MODEL}"));
    let messages = json!([{"role": "user", "content": "prompt-to-hide"}]).to_string();
    assert_eq!(attribute(generation, "gen_ai.input.messages"), text(&messages));
    assert_eq!(attribute(generation, "gen_ai.output.messages"), text("answer-to-hide"));
}

#[tokio::test]
async fn what_is_refused_says_why_and_callers_decide_over_sampling() {
    let collector = Collector::start();
    let settings = vec![("telemetry.otlp_endpoint", collector.url()), ("telemetry.environment", "tests")];
    let (reply, _) = chat(settings, json!({"max_tokens": 100_000})).await;
    assert_eq!(reply.status, 400);
    let spans = spans_at(&collector);
    assert_eq!(attribute(named(&spans, &format!("chat {MODEL}")), "error.type"), text("invalid_request"));
    let settings = vec![("telemetry.otlp_endpoint", collector.url()), ("telemetry.sample_ratio", "0")];
    let mut setup = Setup::new().chat("hi", "ok");
    setup.settings = settings;
    let server = setup.start().await;
    collector.received.lock().unwrap().clear();
    assert_eq!(crate::http::post(server.address, CHAT, &ask("hi")).await.status, 200);
    server.state.traces.close();
    assert!(collector.received.lock().unwrap().is_empty());
}

#[tokio::test]
async fn without_a_collector_nothing_is_slower_and_its_breaker_opens() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut setup = Setup::new().chat("hi", "ok");
    let url = format!("http://{nobody}").leak();
    setup.settings = vec![("telemetry.otlp_endpoint", url), ("circuit_breaker.failure_threshold", "1")];
    let server = setup.start().await;
    for _ in 0..5 {
        let asked = Instant::now();
        assert_eq!(crate::http::post(server.address, CHAT, &ask("hi")).await.status, 200);
        assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    }
    server.state.traces.close();
    let breakers = server.state.gate.breakers.report();
    let otlp = breakers.iter().find(|breaker| breaker.name == "otlp").unwrap();
    assert_eq!(otlp.state, BreakerState::Open);
}

#[tokio::test]
async fn a_collector_shows_a_certificate_of_the_companys_own_authority() {
    let folder = tempfile::tempdir().unwrap();
    let [own, other] = ["own", "other"].map(|name| Authority::new(folder.path(), name));
    let settings = |collector: &Collector, authority: &Authority| {
        vec![
            ("telemetry.otlp_endpoint", collector.url()),
            ("telemetry.ca_file", authority.ca_file()),
            ("telemetry.environment", "tests"),
            ("circuit_breaker.failure_threshold", "1"),
        ]
    };
    let collector = Collector::secure(&own);
    let (reply, _) = chat(settings(&collector, &own), json!({})).await;
    assert_eq!(reply.status, 200);
    assert_eq!(spans_at(&collector).len(), 5);

    let foreign = Collector::secure(&other);
    let (reply, _) = chat(settings(&foreign, &own), json!({})).await;
    assert_eq!(reply.status, 200, "a collector that nobody trusts is no reason not to answer");
    assert!(foreign.received.lock().unwrap().is_empty());

    let missing = [("telemetry.otlp_endpoint", "https://127.0.0.1"), ("telemetry.ca_file", "/no/such/ca.pem")];
    let opened = startup::open_gateway(&config(folder.path(), &missing), Metrics::new().unwrap()).await;
    assert!(format!("{:#}", opened.err().unwrap()).contains("/no/such/ca.pem"));
}

/// Collects lines.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn each_request_is_one_line_of_json_without_prompt_or_key() {
    let folder = tempfile::tempdir().unwrap();
    let settings = [("telemetry.log_format", "json"), ("telemetry.log_level", "trace")];
    let config = config(folder.path(), &settings).telemetry;
    let lines = Lines::default();
    let writer = lines.clone();
    let layer = log_layer(&config, move || writer.clone()).unwrap();
    // Of a single subscriber, threads that do not have it would decide what is of interest to it.
    let _another = tracing::Dispatch::new(tracing_subscriber::Registry::default());
    let logging = tracing::subscriber::set_default(tracing_subscriber::Registry::default().with(layer));
    let (reply, key) = chat(Vec::new(), json!({"stream": true})).await;
    tracing::error!("first\nsecond {}", "\u{1b}[31m");
    drop(logging);
    let written = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    for hidden in ["prompt-to-hide", "answer-to-hide", key.as_str()] {
        assert!(!written.contains(hidden), "{hidden} is in the log");
    }
    let events: Vec<Json> = written.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(events.iter().all(|event| event["timestamp"].is_string() && event["level"].is_string()));
    assert!(events.iter().any(|event| event["message"] == "first\nsecond \u{1b}[31m"));
    let request = events.iter().find(|event| event["message"] == "request").unwrap();
    assert_eq!(request["request_id"].as_str(), reply.header("x-request-id"));
    assert_eq!((request["model"].as_str(), request["status"].as_u64()), (Some(MODEL), Some(200)));
    assert!(request["user_id"].is_string() && request["duration_ms"].is_u64(), "{request}");
    assert_eq!(request["completion_tokens"].as_u64(), Some("answer-to-hide".len() as u64 + 1));
}
