//! What the gateway costs: requests at a fixed rate against the mock executor, with everything on, with each part off, with
//! nothing but HTTP and the engine, and the disk by itself, which every settlement waits for; then answers from the prompt cache as fast as they come.
//! `scripts/bench-gateway` runs it, with PostgreSQL and Redis beside the embedded ones; arguments choose rows by their
//! beginnings.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark")]

#[expect(dead_code, reason = "shared with the tests")]
#[path = "../tests/api/harness.rs"]
mod harness;

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::post;
use harness::{Setup, TestServer, ask, with};
use serde_json::json;
use steppe::auth::{Account, KeyRequest};
use steppe::config::AuthConfig;
use steppe::engine::{EngineHandle, EngineRequest, SamplingParams, TokenEvent};
use steppe::store::Role;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;

const RATE: u32 = 500;
const SECONDS: u32 = 10;
const CONNECTIONS: usize = 32;
const PASSWORD: &str = "correct horse";

/// One row of the table.
struct Case {
    name: &'static str,
    settings: Vec<(&'static str, &'static str)>,
    /// Access tokens instead of none.
    tokens: bool,
}

/// Everything that the issue names, on.
fn everything() -> Vec<(&'static str, &'static str)> {
    vec![
        ("billing.enabled", "true"),
        ("billing.default_balance", "1000000"),
        ("billing.input_price", "0.1"),
        ("billing.output_price", "0.2"),
        ("limits.requests_per_minute", "1000000"),
        ("limits.requests_per_hour", "100000000"),
        ("limits.tokens_per_minute", "100000000"),
        ("limits.parallel_requests", "1000"),
        ("limits.global_requests_per_minute", "1000000"),
    ]
}

fn without(prefix: &str, further: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    everything().into_iter().filter(|(key, _)| !key.starts_with(prefix)).chain(further.iter().copied()).collect()
}

fn main() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(run());
}

async fn run() {
    println!("{RATE} requests/s for {SECONDS} s, one token of answer each, times in milliseconds\n");
    println!("| | p50 | p99 | max |\n|---|---:|---:|---:|");
    let plain = Setup::new().start().await;
    let bare = bare_server(plain.engine.clone()).await;
    row("HTTP and the engine alone", bare, None).await;
    disk("the disk alone");
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    for case in cases() {
        if !wanted.is_empty() && !wanted.iter().any(|wanted| case.name.starts_with(wanted)) {
            continue;
        }
        let (server, token) = start(&case).await;
        row(case.name, server.address, token.clone()).await;
        if case.name == "everything" || case.name.contains("Redis") {
            hits(server.address, token, case.name).await;
        }
    }
    row("HTTP and the engine alone, again", bare, None).await;
    disk("the disk alone, again");
}

fn cases() -> Vec<Case> {
    let case = |name, settings, tokens| Case { name, settings, tokens };
    let mut cases = vec![
        case("everything", everything(), true),
        case("without tokens", everything(), false),
        case("without limits", without("limits", &[]), true),
        case("without the cache", without("-", &[("cache.enabled", "false")]), true),
        case("without money", without("billing", &[]), true),
        case("without the audit log", without("-", &[("audit.enabled", "false")]), true),
    ];
    let url = |name| std::env::var(name).ok().map(|url| &*Box::leak(url.into_boxed_str()));
    if let Some(url) = url("TEST_POSTGRES_URL") {
        cases.push(case("everything, PostgreSQL", without("-", &[("store.url", url)]), true));
    }
    if let Some(url) = url("TEST_REDIS_URL") {
        cases.push(case("everything, Redis", without("-", &[("redis.url", url)]), true));
    }
    cases
}

async fn start(case: &Case) -> (TestServer, Option<String>) {
    let mut setup = Setup::new();
    setup.settings.clone_from(&case.settings);
    setup.options.queue_capacity = 10_000;
    setup.auth = Some(AuthConfig {
        required: case.tokens,
        issuer: "steppe".into(),
        jwt_secret: None,
        access_token: Duration::from_hours(1),
        refresh_token: Duration::from_hours(1),
        internal_key: None,
    });
    let server = setup.start().await;
    if !case.tokens {
        return (server, None);
    }
    let auth = &server.state.auth;
    let name = format!("bench{}", rand::random::<u32>());
    let account = Account { name: name.clone(), password: Some(PASSWORD.into()), role: Role::User, department: None };
    let (user, _) = auth.add_user(account).await.unwrap();
    auth.make_key(&user.id, KeyRequest::default()).await.unwrap();
    let token = auth.log_in(&name, PASSWORD, [127, 0, 0, 1].into()).await.unwrap().access_token;
    (server, Some(token))
}

/// An HTTP server with nothing between it and the engine.
async fn bare_server(engine: EngineHandle) -> SocketAddr {
    let answer = move |body: String| {
        let engine = engine.clone();
        async move {
            let _: serde_json::Value = serde_json::from_str(&body).unwrap();
            let mut generation = engine.submit(request(body.bytes().map(u32::from).collect())).unwrap();
            let mut tokens = 0;
            while let Some(event) = generation.next().await {
                match event {
                    TokenEvent::Token { .. } => tokens += 1,
                    TokenEvent::Finished { .. } | TokenEvent::Failed(_) => break,
                    _ => {}
                }
            }
            axum::Json(json!({"tokens": tokens}))
        }
    };
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = Router::new().route("/v1/chat/completions", post(answer));
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

fn request(prompt: Vec<u32>) -> EngineRequest {
    EngineRequest {
        prompt,
        sampling: SamplingParams { temperature: 0.0, ..SamplingParams::default() },
        max_tokens: 1,
        min_tokens: 0,
        stop_token_ids: Vec::new(),
        user: 0,
        weight: 1,
        priority: 0,
        scope: steppe::engine::CacheScope::default(),
        deadline: None,
        prompt_logprobs: None,
    }
}

/// Requests at the fixed rate, each with a prompt of its own: every one misses the cache. A latency counts from the moment
/// that the request was due.
async fn row(name: &str, address: SocketAddr, token: Option<String>) {
    let connections: Arc<Vec<Mutex<Client>>> = Arc::new(clients(address, token).await);
    // The first requests find everything cold.
    for index in 0..CONNECTIONS {
        connections[index].lock().await.ask(&format!("warm {index} {name}")).await;
    }
    let begin = Instant::now() + Duration::from_millis(50);
    let requests: Vec<_> = (0..RATE * SECONDS)
        .map(|index| {
            let connections = Arc::clone(&connections);
            let due = begin + Duration::from_secs(1) * index / RATE;
            let prompt = format!("{name} {index}");
            tokio::spawn(async move {
                tokio::time::sleep_until(due.into()).await;
                connections[index as usize % CONNECTIONS].lock().await.ask(&prompt).await;
                due.elapsed()
            })
        })
        .collect();
    let mut times = Vec::with_capacity(requests.len());
    for request in requests {
        times.push(request.await.unwrap());
    }
    print(name, times);
}

fn print(name: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    println!("| {name} | {:.2} | {:.2} | {:.1} |", at(0.5), at(0.99), at(1.0));
}

/// About as much as a settlement writes, at the same rate, and a wait for the disk after each. A latency counts from the
/// moment that the write was due.
fn disk(name: &str) {
    let mut file = tempfile::tempfile().unwrap();
    let begin = Instant::now();
    let write = |index| {
        let due = begin + Duration::from_secs(1) * index / RATE;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        file.write_all(&[1; 16 << 10]).unwrap();
        file.sync_data().unwrap();
        due.elapsed()
    };
    print(name, (0..RATE * SECONDS).map(write).collect());
}

/// The same request again and again, answered from the prompt cache.
async fn hits(address: SocketAddr, token: Option<String>, name: &str) {
    let clients = clients(address, token).await;
    let begin = Instant::now();
    let workers = clients.into_iter().map(|client| {
        tokio::spawn(async move {
            let mut client = client.into_inner();
            let mut answered = 0_u32;
            while begin.elapsed() < Duration::from_secs(3) {
                client.ask("the same").await;
                answered += 1;
            }
            answered
        })
    });
    let mut answered = 0;
    for worker in workers.collect::<Vec<_>>() {
        answered += worker.await.unwrap();
    }
    println!(
        "| {name}: answers from the cache per second | {:.0} | | |",
        f64::from(answered) / begin.elapsed().as_secs_f64()
    );
}

async fn clients(address: SocketAddr, token: Option<String>) -> Vec<Mutex<Client>> {
    let mut clients = Vec::with_capacity(CONNECTIONS);
    for _ in 0..CONNECTIONS {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        clients.push(Mutex::new(Client { stream, token: token.clone(), buffer: Vec::new() }));
    }
    clients
}

/// A kept connection.
struct Client {
    stream: TcpStream,
    token: Option<String>,
    buffer: Vec<u8>,
}

impl Client {
    async fn ask(&mut self, prompt: &str) {
        let body = with(ask(prompt), json!({"max_tokens": 1, "temperature": 0})).to_string();
        let authorization = self.token.as_ref().map(|token| format!("authorization: Bearer {token}\r\n"));
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{}content-length: {}\r\n\r\n",
            authorization.unwrap_or_default(),
            body.len()
        );
        self.stream.write_all((head + &body).as_bytes()).await.unwrap();
        self.buffer.clear();
        loop {
            let mut piece = [0; 4096];
            let read = self.stream.read(&mut piece).await.unwrap();
            assert!(read > 0, "the server closed the connection");
            self.buffer.extend_from_slice(&piece[..read]);
            let text = std::str::from_utf8(&self.buffer).unwrap();
            let Some((head, rest)) = text.split_once("\r\n\r\n") else { continue };
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            if rest.len() >= length.parse::<usize>().unwrap() {
                assert!(head.starts_with("HTTP/1.1 200"), "{text}");
                return;
            }
        }
    }
}
