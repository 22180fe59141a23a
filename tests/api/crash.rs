//! A panic of the engine thread ends the process: this test program runs itself as the server, with an engine that
//! panics when it is asked to, through the same start and end as `steppe serve`.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use steppe::startup::{self, Report};

use crate::harness::{Setup, ask, config, with};
use crate::http::{get, open, post, read_to_end};

/// Set for the process that is the server.
const SERVES: &str = "STEPPE_SERVICE_OF_THE_CRASH_TEST";
const CHAT: &str = "/v1/chat/completions";

/// The other process; in the tests' own it does nothing.
#[test]
fn serve() -> anyhow::Result<()> {
    if std::env::var_os(SERVES).is_none() {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let config = config(folder.path(), &[]);
    let mut setup = Setup::new().slow(Duration::from_millis(10));
    setup.mock.panicking_token = Some(u32::from(b'#'));
    startup::serve_with(config, Report::default(), async |_, _, metrics, _| Ok(setup.generator(&metrics)))
}

/// The server, and where it says it is.
fn start() -> (Child, SocketAddr) {
    let mut server = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::serve", "--nocapture"])
        .env(SERVES, "1")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(server.stdout.as_mut().unwrap()).lines();
    let ready = lines.map(Result::unwrap).find(|line| line.starts_with("Ready after")).unwrap();
    let address = ready.split("http://").nth(1).unwrap().split(' ').next().unwrap();
    let address = address.parse().unwrap();
    (server, address)
}

#[tokio::test]
async fn a_panic_of_the_engine_ends_the_process_with_an_error() {
    let (mut server, address) = tokio::task::spawn_blocking(start).await.unwrap();
    assert_eq!(get(address, "/ready").await.status, 200);
    let long = with(ask("hi"), json!({"max_tokens": 450, "ignore_eos": true, "stream": true})).to_string();
    let mut beside = open(address, "POST", CHAT, &[("content-type", "application/json")], long.as_bytes()).await;
    beside.read_exact(&mut [0; 500]).unwrap();

    let culprit = post(address, CHAT, &ask("#")).await;
    assert_eq!((culprit.status, culprit.json()["error"]["code"].as_str()), (500, Some("engine_error")));
    let panicked = Instant::now();
    let rest = String::from_utf8(read_to_end(beside).await).unwrap();
    assert!(rest.contains("data: {\"error\":") && rest.contains("engine_error"), "{rest}");
    assert!(!rest.contains("[DONE]"), "{rest}");

    let status = loop {
        if let Some(status) = server.try_wait().unwrap() {
            break status;
        }
        assert!(panicked.elapsed() < Duration::from_secs(10), "the process lives on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert!(!status.success() && status.code().is_some(), "{status}");
    assert!(panicked.elapsed() < Duration::from_secs(4), "it took {:?} to end", panicked.elapsed());
    assert!(TcpStream::connect(address).is_err());
    let mut told = String::new();
    server.stderr.unwrap().read_to_string(&mut told).unwrap();
    assert!(told.contains("thread 'engine'") && told.contains("asked to panic"), "{told}");
    assert!(told.contains("the engine has failed"), "{told}");
}
