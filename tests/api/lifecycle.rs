//! Leaving, stopping and failing: whoever goes, its blocks come back; whoever waits, gets an answer.

use std::time::{Duration, Instant};

use serde_json::json;
use steppe::engine::EngineState;

use crate::harness::{Setup, ask, with};
use crate::http::{get, open, post, read_to_end};

const CHAT: &str = "/v1/chat/completions";
const JSON: [(&str, &str); 1] = [("content-type", "application/json")];

#[tokio::test]
async fn a_client_that_leaves_gives_its_blocks_back_streaming_or_not() {
    let server = Setup::new().slow(Duration::from_millis(10)).start().await;
    for stream in [true, false] {
        let body = with(ask("hi"), json!({"max_tokens": 450, "ignore_eos": true, "stream": stream}));
        let connection = open(server.address, "POST", CHAT, &JSON, body.to_string().as_bytes()).await;
        server.runs(1).await;
        drop(connection);
        let left = Instant::now();
        server.becomes_idle().await;
        assert!(left.elapsed() < Duration::from_millis(500), "stream = {stream}: {:?}", left.elapsed());
    }
    let metrics = get(server.address, "/metrics").await;
    let aborted = "vllm:request_success_total{model_name=\"org/toy:1b\",finished_reason=\"abort\"} 2";
    assert!(metrics.text().contains(aborted), "{}", metrics.text());
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_nobody_up() {
    let mut setup = Setup::new().chat("quick", "done");
    setup.options.max_context = 512;
    let server = setup.start().await;
    let body = with(ask("hi"), json!({"max_tokens": 450, "ignore_eos": true, "stream": true, "logprobs": true}));
    let silent = open(server.address, "POST", CHAT, &JSON, body.to_string().as_bytes()).await;
    let reply = post(server.address, CHAT, &ask("quick")).await;
    assert_eq!(reply.json()["choices"][0]["message"]["content"], "done");
    server.becomes_idle().await;
    drop(silent);
}

#[tokio::test]
async fn a_stop_string_ends_the_work_even_when_nobody_reads() {
    let server = Setup::new().chat("hi", "abcSTOP").slow(Duration::from_millis(2)).start().await;
    let body = with(ask("hi"), json!({"max_tokens": 450, "ignore_eos": true, "stop": "STOP", "stream": true}));
    let silent = open(server.address, "POST", CHAT, &JSON, body.to_string().as_bytes()).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    server.becomes_idle().await;
    assert!(server.engine.stats().generation_tokens < 50);
    drop(silent);
}

#[tokio::test]
async fn stopping_lets_running_answers_finish_and_refuses_new_ones() {
    let server = Setup::new().chat("hi", "abcdefgh").slow(Duration::from_millis(15)).start().await;
    let address = server.address;
    let running = tokio::spawn(async move { post(address, CHAT, &ask("hi")).await });
    server.runs(1).await;
    server.state.stop();
    for path in ["/ready", "/v1/models"] {
        let reply = get(server.address, path).await;
        assert_eq!((reply.status, reply.json()["error"]["code"].as_str()), (503, Some("server_is_overloaded")));
    }
    assert_eq!(get(server.address, "/health").await.status, 200);
    assert_eq!(post(server.address, CHAT, &ask("hi")).await.status, 503);
    assert_eq!(server.engine.shutdown(Duration::from_secs(5)).await, EngineState::Stopped);
    let reply = running.await.unwrap();
    assert_eq!(reply.json()["choices"][0]["message"]["content"], "abcdefgh");
}

#[tokio::test]
async fn what_does_not_finish_in_time_gets_an_error() {
    let server = Setup::new().slow(Duration::from_millis(20)).start().await;
    let address = server.address;
    let body = with(ask("hi"), json!({"max_tokens": 450, "ignore_eos": true}));
    let running = tokio::spawn(async move { post(address, CHAT, &body).await });
    server.runs(1).await;
    server.state.stop();
    server.engine.shutdown(Duration::from_millis(50)).await;
    let reply = running.await.unwrap();
    assert_eq!((reply.status, reply.json()["error"]["code"].as_str()), (500, Some("engine_error")));
}

#[tokio::test]
async fn a_panic_of_the_engine_is_an_error_for_everybody_waiting_not_a_hang() {
    let mut setup = Setup::new().slow(Duration::from_millis(10));
    setup.mock.panicking_token = Some(u32::from(b'#'));
    let server = setup.start().await;
    let long = with(ask("hi"), json!({"max_tokens": 450, "ignore_eos": true}));
    let address = server.address;
    let bystander = tokio::spawn(async move { post(address, CHAT, &long).await });
    server.runs(1).await;
    let culprit = post(server.address, CHAT, &ask("#")).await;
    assert_eq!((culprit.status, culprit.json()["error"]["code"].as_str()), (500, Some("engine_error")));
    assert_eq!(bystander.await.unwrap().status, 500);
    let reason = tokio::time::timeout(Duration::from_secs(2), server.engine.failed()).await.unwrap();
    assert!(reason.contains("asked to panic"), "{reason}");
    assert_eq!(post(server.address, CHAT, &ask("hi")).await.status, 503);
}

#[tokio::test]
async fn a_failing_step_fails_its_batch_and_not_the_server() {
    let mut setup = Setup::new().chat("hi", "fine");
    setup.mock.failing_token = Some(u32::from(b'#'));
    let server = setup.start().await;
    assert_eq!(post(server.address, CHAT, &ask("#")).await.status, 500);
    let reply = post(server.address, CHAT, &ask("hi")).await;
    assert_eq!(reply.json()["choices"][0]["message"]["content"], "fine");
    server.becomes_idle().await;
}

#[tokio::test]
async fn who_waits_is_told_its_place() {
    let mut setup = Setup::new().slow(Duration::from_millis(5));
    setup.options.max_sequences = 1;
    let server = setup.start().await;
    let body = with(ask("hi"), json!({"max_tokens": 40, "ignore_eos": true, "stream": true})).to_string();
    let first = open(server.address, "POST", CHAT, &JSON, body.as_bytes()).await;
    server.runs(1).await;
    let second = open(server.address, "POST", CHAT, &JSON, body.as_bytes()).await;
    while server.engine.stats().waiting == 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let reply = post(server.address, CHAT, &with(ask("hi"), json!({"max_tokens": 2, "stream": true}))).await;
    assert_eq!(reply.header("x-queue-position"), Some("1"));
    assert!(reply.header("x-queue-wait-ms").unwrap().parse::<u64>().is_ok());
    assert!(reply.text().starts_with(": x-queue-position=1 x-queue-wait-ms="), "{}", reply.text());
    let rest = read_to_end(first).await;
    assert!(rest.ends_with(b"data: [DONE]\n\n\r\n0\r\n\r\n"));
    drop(second);
    server.becomes_idle().await;
}
