//! A panic of the engine thread ends the process: this test program runs itself as the server, with an engine that
//! panics when it is asked to, through the same start and end as `steppe serve`.

use std::io::Read as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;
use steppe::startup::{self, Report};

use crate::harness::{Setup, ask, config, with};
use crate::http::{get, open, post, read_to_end};
use crate::process::Served;

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

#[tokio::test]
async fn a_panic_of_the_engine_ends_the_process_with_an_error() {
    let server = Served::start("crash::serve", SERVES, "1").await;
    let address = server.address;
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

    let (status, told) = server.ended(Duration::from_secs(10)).await;
    assert!(!status.success() && status.code().is_some(), "{status}");
    assert!(panicked.elapsed() < Duration::from_secs(4), "it took {:?} to end", panicked.elapsed());
    assert!(TcpStream::connect(address).is_err());
    assert!(told.contains("thread 'engine'") && told.contains("asked to panic"), "{told}");
    assert!(told.contains("the engine has failed"), "{told}");
}
