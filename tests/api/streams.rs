//! A thousand streams at once, some of which are given up at any moment: no token is lost, told twice or told to another,
//! everything is settled, and memory stays as it is. A minute here, as long as `STREAM_SECONDS` says by scripts/soak.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::access::{key, serve};
use crate::harness::{Setup, ask, with};

const STREAMS: usize = 1000;
const ANSWER: usize = 60;

fn question(client: usize) -> String {
    format!("client {client}")
}

/// Every client has an answer of its own.
fn answer(client: usize) -> String {
    format!("<{client}>").repeat(ANSWER).chars().take(ANSWER).collect()
}

/// Bytes of memory that this process has.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<usize>().unwrap() * 1024
}

struct Crowd {
    address: SocketAddr,
    keys: Vec<String>,
    end: Instant,
    whole: AtomicUsize,
    given_up: AtomicUsize,
}

impl Crowd {
    async fn client(&self, client: usize) {
        let mut random = fastrand::Rng::with_seed(client as u64);
        while Instant::now() < self.end {
            let patience = if random.u8(..10) < 3 { random.usize(..8000) } else { usize::MAX };
            let Some(text) = self.stream(client, patience).await else {
                self.given_up.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            assert_eq!(text, answer(client), "client {client}");
            self.whole.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The text of one answer, unless it is given up after so many bytes.
    async fn stream(&self, client: usize, patience: usize) -> Option<String> {
        let body = with(ask(&question(client)), json!({"stream": true, "max_tokens": 100})).to_string();
        let key = &self.keys[client % self.keys.len()];
        let request = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {key}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        while bytes.len() < patience {
            if stream.read_buf(&mut bytes).await.unwrap() == 0 {
                let text = String::from_utf8(bytes).unwrap();
                assert!(text.starts_with("HTTP/1.1 200"), "{text}");
                assert!(text.contains("data: [DONE]"), "client {client}: cut off: {text}");
                return Some(content(&text));
            }
        }
        None
    }
}

fn content(text: &str) -> String {
    let events = text.lines().filter_map(|line| line.strip_prefix("data: {"));
    let chunk = |rest: &str| serde_json::from_str::<Json>(&format!("{{{rest}")).unwrap();
    events.filter_map(|rest| chunk(rest)["choices"][0]["delta"]["content"].as_str().map(str::to_owned)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_streams_keep_apart() {
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    let seconds = std::env::var("STREAM_SECONDS").map_or(60, |text| text.parse().unwrap());
    let mut setup = Setup::new().slow(Duration::from_millis(10));
    for client in 0..STREAMS {
        setup = setup.chat(&question(client), &answer(client));
    }
    setup.options.max_sequences = STREAMS;
    setup.options.max_tokens_per_step = 4 * STREAMS;
    setup.options.queue_capacity = 4 * STREAMS;
    setup.options.num_blocks = 16 * STREAMS;
    setup.mock.num_blocks = 16 * STREAMS;
    setup.settings =
        vec![("billing.enabled", "true"), ("billing.output_price", "1"), ("billing.default_balance", "1e9")];
    let server = serve(setup).await;
    let mut keys = Vec::new();
    for _ in 0..10 {
        keys.push(key(&server.state.auth, "ann", &[]).await);
    }
    let end = Instant::now() + Duration::from_secs(seconds);
    let crowd = Crowd { address: server.address, keys, end, whole: AtomicUsize::new(0), given_up: AtomicUsize::new(0) };
    let crowd = Arc::new(crowd);
    let clients: Vec<_> = (0..STREAMS)
        .map(|client| {
            let crowd = Arc::clone(&crowd);
            tokio::spawn(async move { crowd.client(client).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(seconds / 3)).await;
    let before = resident();
    for client in clients {
        client.await.unwrap();
    }
    let after = resident();
    server.becomes_idle().await;
    let (whole, given_up) = (crowd.whole.load(Ordering::Relaxed), crowd.given_up.load(Ordering::Relaxed));
    #[expect(clippy::print_stdout, reason = "the figures of the run")]
    {
        println!("{whole} answers, {given_up} given up, {} MiB and then {} MiB", before >> 20, after >> 20);
    }
    assert!(whole > STREAMS && given_up > STREAMS / 10, "{whole} {given_up}");
    assert!(after < before + before / 5 + (32 << 20), "memory grew from {before} to {after}");
    let ann = server.state.auth.find_user("ann").await.unwrap().id;
    for _ in 0..1000 {
        if server.state.gate.ledger.balance(&ann).await.unwrap().held == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(server.state.gate.ledger.balance(&ann).await.unwrap().held, 0);
    assert_eq!(server.state.gate.ledger.check().await.unwrap(), Vec::<String>::new());
}
