//! The server is killed with SIGKILL at random moments under load, and started again: whatever was reported is charged,
//! nothing is charged twice, and what nobody was told of costs nothing.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value as Json, json};
use steppe::ledger::Ledger;
use steppe::startup::{self, Report};

use crate::harness::{Setup, ask, config, with};
use crate::process::Served;

const FOLDER: &str = "FOLDER_OF_THE_KILLED_SERVER";
const CHAT: &str = "/v1/chat/completions";
const ROUNDS: usize = 6;
const CLIENTS: usize = 8;
/// Millionths: a prompt token costs 0.001, a token of the answer 0.002, and this is what everybody begins with.
const BALANCE: i64 = 100_000_000;
const SETTINGS: [(&str, &str); 5] = [
    ("billing.enabled", "true"),
    ("billing.default_balance", "100"),
    ("billing.input_price", "1"),
    ("billing.cached_input_price", "1"),
    ("billing.output_price", "2"),
];

/// The other process; in the tests' own it does nothing.
#[test]
fn serve() -> anyhow::Result<()> {
    let Some(folder) = std::env::var_os(FOLDER) else { return Ok(()) };
    let config = config(Path::new(&folder), &SETTINGS);
    let setup = Setup::new().slow(Duration::from_millis(3));
    startup::serve_with(config, Report::default(), async |_, _, metrics, _| Ok(setup.generator(&metrics)))
}

/// What clients were told of their requests, by id: prompt tokens and completion tokens.
type Told = Arc<Mutex<HashMap<String, (i64, i64)>>>;

/// Asks again and again, streaming or not, until the server is gone.
fn client(address: SocketAddr, told: &Told, number: usize) {
    use std::io::{Read as _, Write as _};
    for index in 0.. {
        let stream = (number + index).is_multiple_of(2);
        let mut body =
            with(ask(&format!("{number} {index}")), json!({"max_tokens": 1 + index % 20, "ignore_eos": true}));
        if stream {
            body = with(body, json!({"stream": true, "stream_options": {"include_usage": true}}));
        }
        let body = body.to_string();
        let Ok(mut connection) = std::net::TcpStream::connect(address) else { return };
        let head =
            format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n");
        let sent = write!(connection, "{head}content-length: {}\r\n\r\n{body}", body.len());
        let mut text = String::new();
        if sent.is_err() || connection.read_to_string(&mut text).is_err() {
            return;
        }
        let answer = if stream {
            text.lines().filter_map(|line| line.strip_prefix("data: {")).map(|rest| format!("{{{rest}")).next_back()
        } else {
            text.split("\r\n\r\n").nth(1).map(str::to_owned)
        };
        let Some(json) = answer.and_then(|text| serde_json::from_str::<Json>(&text).ok()) else { return };
        let tokens = |name: &str| json["usage"][name].as_i64();
        if let (Some(prompt), Some(completion)) = (tokens("prompt_tokens"), tokens("completion_tokens")) {
            let id = json["id"].as_str().unwrap().rsplit('-').next().unwrap().to_owned();
            assert!(told.lock().unwrap().insert(id, (prompt, completion)).is_none());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_reported_is_charged_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let told = Told::default();
    for round in 0..ROUNDS {
        let mut server = Served::start("killed::serve", FOLDER, folder.path()).await;
        let address = server.address;
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let told = Arc::clone(&told);
                std::thread::spawn(move || client(address, &told, round * CLIENTS + number))
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(100 + fastrand::u64(..400))).await;
        server.kill();
        for client in clients {
            client.join().unwrap();
        }
    }
    let config = config(folder.path(), &SETTINGS);
    let auth = startup::open_auth(&config).await.unwrap();
    let ledger = Ledger::open(auth.store().clone(), config.billing).await.unwrap();
    assert_eq!(ledger.check().await.unwrap(), Vec::<String>::new());
    let told = told.lock().unwrap().clone();
    assert!(told.len() > ROUNDS * CLIENTS, "{} answers", told.len());
    for (id, (prompt, completion)) in &told {
        let request =
            auth.store().finished_request(id).await.unwrap().unwrap_or_else(|| panic!("{id} was not settled"));
        assert_eq!((request.prompt_tokens, request.completion_tokens), (*prompt, *completion));
        assert_eq!(request.cost, prompt * 1000 + completion * 2000);
    }
    let balance = ledger.balance("anonymous").await.unwrap();
    let charged: i64 = charges(&ledger).await;
    assert_eq!((balance.held, balance.balance), (0, BALANCE - charged));
    let reported: i64 = told.values().map(|(prompt, completion)| prompt * 1000 + completion * 2000).sum();
    // Settled in the last moment, and killed before it was told.
    assert!(charged >= reported && charged < reported + (ROUNDS * CLIENTS) as i64 * 200_000, "{charged} {reported}");
}

/// The sum of everything that requests took.
async fn charges(ledger: &Ledger) -> i64 {
    let (mut sum, mut offset) = (0, 0);
    loop {
        let page = ledger.transactions("anonymous", 1000, offset).await.unwrap();
        if page.is_empty() {
            return sum;
        }
        sum -= page.iter().filter(|entry| entry.amount < 0).map(|entry| entry.amount).sum::<i64>();
        offset += page.len() as u32;
    }
}
