//! The prompt cache and shared runs over the API.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use crate::access::{Header, bearer, call, key, post, serve};
use crate::harness::{MODEL, Setup, TestServer, ask, with};
use crate::http::{Reply, open, send};

const CHAT: &str = "/v1/chat/completions";

fn certain() -> Json {
    with(ask("hi"), json!({"temperature": 0, "max_tokens": 50}))
}

async fn server(setup: Setup) -> (TestServer, Header) {
    let server = serve(setup).await;
    let ann = bearer(&key(&server.state.auth, "ann", &[]).await);
    (server, ann)
}

fn text(reply: &Reply) -> String {
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
}

async fn chat(address: SocketAddr, header: &Header, body: &Json, control: &str) -> Reply {
    let mut headers = vec![("content-type", "application/json"), ("cache-control", control)];
    headers.extend(header.as_ref().map(|(name, value)| (*name, value.as_str())));
    send(address, "POST", CHAT, &headers, body.to_string().as_bytes()).await
}

#[tokio::test]
async fn what_is_certain_is_kept_and_told_again() {
    let (server, ann) = server(Setup::new().chat("hi", "abcdefghij")).await;
    let address = server.address;
    let first = post(address, CHAT, ann.clone(), &certain()).await;
    assert_eq!((first.header("x-cache"), first.header("age")), (Some("miss"), None));
    let steps = server.engine.stats().steps;
    let second = post(address, CHAT, ann.clone(), &certain()).await;
    assert_eq!((second.header("x-cache"), second.header("age")), (Some("hit"), Some("0")));
    assert_eq!(text(&first), text(&second));
    let usage = |reply: &Reply| reply.json()["usage"]["completion_tokens"].clone();
    assert_eq!(usage(&first), usage(&second));
    let streamed = post(address, CHAT, ann.clone(), &with(certain(), json!({"stream": true}))).await;
    assert_eq!(streamed.header("x-cache"), Some("hit"));
    let told: String = streamed
        .chunks()
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(told, text(&first), "a stored answer is told as a stream too");
    assert_eq!(server.engine.stats().steps, steps, "nothing was computed");

    for other in [json!({"max_tokens": 49}), json!({"stop": "x"}), json!({"n": 2}), json!({"top_k": 5})] {
        let reply = post(address, CHAT, ann.clone(), &with(certain(), other.clone())).await;
        assert_eq!(reply.header("x-cache"), Some("miss"), "{other}");
    }
    let same = with(certain(), json!({"user": "x", "metadata": {"a": "b"}}));
    assert_eq!(post(address, CHAT, ann.clone(), &same).await.header("x-cache"), Some("hit"));
    let chance = post(address, CHAT, ann.clone(), &with(ask("hi"), json!({"temperature": 1}))).await;
    assert_eq!(chance.header("x-cache"), Some("bypass"), "what is left to chance is not kept");
    let root = bearer(&key(&server.state.auth, "root", &[]).await);
    let other_user = post(address, CHAT, root, &certain()).await;
    assert_eq!(other_user.header("x-cache"), Some("miss"), "users do not share");
}

#[tokio::test]
async fn clients_say_how_the_cache_is_used() {
    let (server, ann) = server(Setup::new().chat("hi", "abc")).await;
    let state = async |body: &Json, control: &str| {
        chat(server.address, &ann, body, control).await.header("x-cache").unwrap().to_owned()
    };
    assert_eq!(state(&certain(), "no-store").await, "miss");
    assert_eq!(state(&certain(), "no-store").await, "miss", "nothing was written");
    assert_eq!(state(&certain(), "no-cache").await, "miss");
    assert_eq!(state(&certain(), "no-store").await, "hit", "no-store reads");
    assert_eq!(state(&certain(), "no-cache").await, "miss", "no-cache does not");
    assert_eq!(state(&certain(), "no-cache, no-store").await, "bypass");
    let chance = with(ask("hi"), json!({"temperature": 1, "max_tokens": 50}));
    assert_eq!(state(&chance, "max-age=60").await, "miss");
    assert_eq!(state(&chance, "max-age=60").await, "hit");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(state(&chance, "max-age=0").await, "miss", "too old");
}

#[tokio::test]
async fn questions_come_from_the_cache_the_second_time_and_purging_forgets_them() {
    let (server, ann) = server(Setup::new()).await;
    let ask = async || {
        let body = json!({"prompt": "Сколько лет степи?"});
        let reply = post(server.address, "/ask", ann.clone(), &body).await;
        (reply.json()["source"].as_str().unwrap().to_owned(), reply.json()["response"].clone())
    };
    let (source, first) = ask().await;
    assert_eq!(source, "model");
    assert_eq!(ask().await, ("cache".to_owned(), first));
    let root = bearer(&key(&server.state.auth, "root", &[steppe::auth::Scope::Admin]).await);
    for (body, forgets) in [
        (json!({"user": "root"}), false),
        (json!({"model": "another"}), false),
        (json!({"user": "ann"}), true),
        (json!({"model": MODEL}), true),
        (json!({}), true),
    ] {
        let purged = call(server.address, "POST", "/admin/cache/purge", root.clone(), &body).await;
        assert_eq!(purged.status, 204, "{}", purged.text());
        assert_eq!(ask().await.0, if forgets { "model" } else { "cache" }, "{body}");
    }
}

#[tokio::test]
async fn equal_requests_under_way_share_one_run() {
    let (server, ann) = server(Setup::new().chat("hi", "abcdefghijklmnopqrst").slow(Duration::from_millis(10))).await;
    let address = server.address;
    let mut requests = Vec::new();
    for index in 0..16 {
        let body = with(certain(), json!({"stream": index % 2 == 0}));
        let ann = ann.clone();
        requests.push(tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(index * 8)).await;
            post(address, CHAT, ann, &body).await
        }));
    }
    let mut states = Vec::new();
    for request in requests {
        let reply = request.await.unwrap();
        let told = if reply.header("content-type").unwrap().starts_with("text/event-stream") {
            let content = |chunk: &Json| chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned);
            reply.chunks().iter().filter_map(content).collect()
        } else {
            text(&reply)
        };
        assert_eq!(told, "abcdefghijklmnopqrst");
        states.push(reply.header("x-cache").unwrap().to_owned());
    }
    assert_eq!(states.iter().filter(|state| *state == "miss").count(), 1, "{states:?}");
    assert!(states.iter().filter(|state| *state == "join").count() >= 8, "{states:?}");
    assert_eq!(server.engine.stats().generation_tokens, 21, "one run, its end included");
    server.becomes_idle().await;
}

#[tokio::test]
async fn a_run_outlives_whoever_began_it() {
    use std::io::{Read as _, Write as _};
    let (server, ann) = server(Setup::new().chat("hi", "abcdefghijklmnopqrst").slow(Duration::from_millis(15))).await;
    let (address, body) = (server.address, with(certain(), json!({"stream": true})).to_string());
    let authorization = ann.clone().unwrap().1;
    let head =
        format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nauthorization: {authorization}");
    let begun = tokio::task::spawn_blocking(move || {
        let mut connection = std::net::TcpStream::connect(address).unwrap();
        write!(connection, "{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
        let mut some = [0; 400];
        connection.read_exact(&mut some).unwrap();
        connection
    });
    let leader = begun.await.unwrap();
    let joined = tokio::spawn(async move { post(address, CHAT, ann, &certain()).await });
    tokio::time::sleep(Duration::from_millis(60)).await;
    drop(leader);
    let joined = joined.await.unwrap();
    assert_eq!((joined.header("x-cache"), text(&joined).as_str()), (Some("join"), "abcdefghijklmnopqrst"));
    server.becomes_idle().await;
    let id = joined.json()["id"].as_str().unwrap().rsplit('-').next().unwrap().to_owned();
    let request = server.state.auth.store().finished_request(&id).await.unwrap().unwrap();
    assert_eq!((request.outcome.as_str(), request.cached_tokens), ("completed", 0), "whoever stays pays for the run");
}

/// One slot, taken for a while; a shared run of low priority waits behind ordinary requests, until whoever began it leaves.
#[tokio::test]
async fn whoever_takes_a_run_over_is_served_in_their_own_turn() {
    let mut setup = Setup::new().chat("hi", "abcdefghij").slow(Duration::from_millis(10));
    setup.options.max_sequences = 1;
    setup.options.queue_capacity = 8;
    let (server, ann) = server(setup).await;
    let (address, header) = (server.address, ann.clone());
    let ask_for = move |text: &'static str, tokens: usize, priority: i32| {
        let asked = json!({"temperature": 0, "max_tokens": tokens, "ignore_eos": tokens > 50, "priority": priority});
        let (body, header) = (with(ask(text), asked), header.clone());
        tokio::spawn(async move { (post(address, CHAT, header, &body).await, Instant::now()) })
    };
    let _running = ask_for("long", 60, 5);
    server.runs(1).await;
    let low = with(certain(), json!({"priority": -5})).to_string();
    let (name, value) = ann.clone().unwrap();
    let headers = [("content-type", "application/json"), (name, value.as_str())];
    let leader = open(address, "POST", CHAT, &headers, low.as_bytes()).await;
    server.waits(1).await;
    let others = [ask_for("other one", 55, 0), ask_for("other two", 55, 0)];
    server.waits(3).await;
    let heir = ask_for("hi", 50, 1);
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(leader);
    let (joined, at) = heir.await.unwrap();
    assert_eq!((joined.header("x-cache"), text(&joined).as_str()), (Some("join"), "abcdefghij"));
    for other in others {
        let (reply, later) = other.await.unwrap();
        assert_eq!(reply.status, 200);
        assert!(at < later, "the heir's priority did not count");
    }
    server.becomes_idle().await;
}

#[tokio::test]
async fn a_repeated_request_under_an_idempotency_key_gets_the_first_answer() {
    let (server, ann) = server(Setup::new().slow(Duration::from_millis(5))).await;
    let address = server.address;
    let again = async |body: &Json, key: &str| {
        let mut headers = vec![("content-type", "application/json"), ("idempotency-key", key)];
        headers.extend(ann.as_ref().map(|(name, value)| (*name, value.as_str())));
        send(address, "POST", CHAT, &headers, body.to_string().as_bytes()).await
    };
    let chance = with(ask("dice"), json!({"temperature": 1.5, "max_tokens": 20, "ignore_eos": true, "logprobs": true}));
    let (first, joined) = tokio::join!(again(&chance, "one"), again(&chance, "one"));
    let repeated = again(&chance, "one").await;
    assert_eq!((text(&first), text(&joined)), (text(&repeated), text(&repeated)));
    assert_eq!(first.json()["choices"], repeated.json()["choices"], "log-probabilities too");
    assert_eq!(server.engine.stats().generation_tokens, 20, "it was computed once");
    assert_eq!(repeated.header("x-cache"), Some("hit"));
    let other = with(chance.clone(), json!({"max_tokens": 21}));
    let reused = again(&other, "one").await;
    assert_eq!((reused.status, reused.json()["error"]["code"].as_str()), (409, Some("idempotency_key_reused")));
    assert_eq!(again(&other, "two").await.status, 200);
}
