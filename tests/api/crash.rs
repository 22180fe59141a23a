//! A panic of the engine thread, or a device that has failed for good, ends the process: this test program runs itself as
//! the server, with an engine that does either when it is asked to, through the same start and end as `steppe serve`.

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
const PANIC: &str = "panic";
const FAILURE: &str = "failure";
const CHAT: &str = "/v1/chat/completions";

/// The other process; in the tests' own it does nothing.
#[test]
fn serve() -> anyhow::Result<()> {
    let Ok(how) = std::env::var(SERVES) else { return Ok(()) };
    let folder = tempfile::tempdir()?;
    let config = config(folder.path(), &[]);
    let mut setup = Setup::new().slow(Duration::from_millis(10));
    let culprit = Some(u32::from(b'#'));
    if how == PANIC {
        setup.mock.panicking_token = culprit;
    } else {
        (setup.mock.failing_token, setup.mock.fails_for_good, setup.mock.steps_ahead) = (culprit, true, 1);
    }
    startup::serve_with(config, Report::default(), async |_, _, metrics, _| Ok(setup.generator(&metrics)))
}

#[tokio::test]
async fn a_panic_of_the_engine_ends_the_process_with_an_error() {
    let told = ends_within(PANIC, Duration::from_secs(2)).await;
    assert!(told.contains("thread 'engine'") && told.contains("asked to panic"), "{told}");
}

#[tokio::test]
async fn a_device_that_has_failed_for_good_ends_the_process_within_a_second() {
    let told = ends_within(FAILURE, Duration::from_secs(1)).await;
    assert!(told.contains("asked to fail"), "{told}");
}

/// Asks for it while a stream runs. Returns what the process has told when it has ended, in time.
async fn ends_within(how: &str, limit: Duration) -> String {
    let server = Served::start("crash::serve", SERVES, how).await;
    let address = server.address;
    assert_eq!(get(address, "/ready").await.status, 200);
    let long = with(ask("hi"), json!({"max_tokens": 450, "ignore_eos": true, "stream": true})).to_string();
    let mut beside = open(address, "POST", CHAT, &[("content-type", "application/json")], long.as_bytes()).await;
    beside.read_exact(&mut [0; 500]).unwrap();

    let culprit = post(address, CHAT, &ask("#")).await;
    assert_eq!((culprit.status, culprit.json()["error"]["code"].as_str()), (500, Some("engine_error")));
    let failed = Instant::now();
    let rest = String::from_utf8(read_to_end(beside).await).unwrap();
    assert!(rest.contains("data: {\"error\":") && rest.contains("engine_error"), "{rest}");
    assert!(!rest.contains("[DONE]"), "{rest}");

    let (status, told) = server.ended(Duration::from_secs(10)).await;
    assert!(!status.success() && status.code().is_some(), "{status}");
    assert!(failed.elapsed() < limit, "it took {:?} to end", failed.elapsed());
    assert!(TcpStream::connect(address).is_err());
    assert!(told.contains("the engine has failed"), "{told}");
    told
}
