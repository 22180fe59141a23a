//! What the program tells others when it is a process of its own: panics to Sentry, lines to log files that are renewed.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value as Json, json};
use steppe::startup::{self, Report};

use crate::collector::{Authority, Collector};
use crate::harness::{Setup, ask, config, with};
use crate::http::{get, post, send};
use crate::process::Served;

const PANICS: &str = "SENTRY_OF_THE_PANICKING_SERVER";
const LOGS: &str = "FOLDER_OF_THE_TALKATIVE_SERVER";
const CHAT: &str = "/v1/chat/completions";
const PATIENCE: Duration = Duration::from_secs(10);

/// The other process; in the tests' own it does nothing. Something like a handler panics before the model is there, and
/// the engine when it is asked to.
#[test]
fn serve_and_panic() -> anyhow::Result<()> {
    let Ok(place) = std::env::var(PANICS) else { return Ok(()) };
    let (dsn, ca_file) = place.split_once(' ').unwrap();
    let folder = tempfile::tempdir()?;
    let settings = [
        ("telemetry.sentry_dsn", dsn),
        ("telemetry.ca_file", ca_file),
        ("telemetry.environment", "tests"),
        ("auth.internal_key", "an-internal-key-to-hide-of-32-bytes"),
    ];
    let config = config(folder.path(), &settings);
    let mut setup = Setup::new();
    setup.mock.panicking_token = Some(u32::from(b'#'));
    startup::serve_with(config, Report::default(), async |_, _, metrics, _| {
        let panics = tokio::spawn(async { panic!("a handler stumbled over `{}`", "prompt-to-hide") });
        assert!(panics.await.is_err());
        Ok(setup.generator(&metrics))
    })
}

#[tokio::test]
async fn panics_of_handlers_and_of_the_engine_reach_sentry_and_nothing_secret_does() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "own");
    let sentry = Collector::secure(&authority);
    let dsn = sentry.url().replace("https://", "https://public-key@");
    let server = Served::start("telling::serve_and_panic", PANICS, format!("{dsn}/42 {}", authority.ca_file())).await;
    let headers = [("content-type", "application/json"), ("x-internal-auth", "an-internal-key-to-hide-of-32-bytes")];
    let body = with(ask("prompt-to-hide #"), json!({"user": "user-to-hide"})).to_string();
    assert_eq!(send(server.address, "POST", CHAT, &headers, body.as_bytes()).await.status, 500);
    let (status, _) = server.ended(PATIENCE).await;
    assert!(!status.success());

    let received = sentry.received.lock().unwrap().clone();
    assert!(received.iter().all(|(head, _)| head.starts_with("post /api/42/envelope/ ")), "{received:?}");
    let lines = received.iter().flat_map(|(_, body)| body.split(|byte| *byte == b'\n'));
    let events: Vec<Json> = lines.filter_map(|line| serde_json::from_slice(line).ok()).collect();
    let told = |of: &str| {
        let is_it = |event: &&Json| event["exception"]["values"][0]["value"].as_str() == Some(of);
        events.iter().find(is_it).unwrap_or_else(|| panic!("no {of:?} in {events:#?}"))
    };
    for message in ["a handler stumbled over ", "the mock executor was asked to panic"] {
        let event = told(message);
        assert_eq!(event["exception"]["values"][0]["type"], "panic");
        assert_eq!(event["environment"], "tests");
        assert_eq!(event["release"], concat!("steppe@", env!("CARGO_PKG_VERSION")));
    }
    for hidden in ["prompt-to-hide", "user-to-hide", "to-hide-of-32-bytes"] {
        assert!(!sentry.holds(hidden), "{hidden} left the server");
    }
}

/// The other process; in the tests' own it does nothing.
#[test]
fn serve_and_log() -> anyhow::Result<()> {
    let Some(folder) = std::env::var_os(LOGS) else { return Ok(()) };
    let settings = [
        ("telemetry.log_file", "logs/steppe.log"),
        ("telemetry.log_level", "trace"),
        ("telemetry.log_max_mib", "1"),
        ("telemetry.log_keep", "100"),
    ];
    let setup = Setup::new().chat("hi", "abc");
    let config = config(Path::new(&folder), &settings);
    startup::serve_with(config, Report::default(), async |_, _, metrics, _| Ok(setup.generator(&metrics)))
}

#[tokio::test]
async fn log_files_are_renewed_and_hold_every_request_once() {
    let folder = tempfile::tempdir().unwrap();
    let server = Served::start("telling::serve_and_log", LOGS, folder.path()).await;
    let logs = folder.path().join("logs");
    let mut asked = BTreeSet::new();
    for round in 0.. {
        let path = format!("/{}", "x".repeat(4000));
        let body = ask("hi");
        let [one, other] = [post(server.address, CHAT, &body), post(server.address, CHAT, &body)];
        let (one, other, unknown) = tokio::join!(one, other, get(server.address, &path));
        asked.extend([one, other, unknown].map(|reply| reply.header("x-request-id").unwrap().to_owned()));
        if std::fs::read_dir(&logs).unwrap().count() > 3 {
            break;
        }
        assert!(round < 1000, "the log never fills");
    }
    assert!(server.terminate().await.success());

    let mut logged = Vec::new();
    for entry in std::fs::read_dir(&logs).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.len() <= 1 << 20 && text.ends_with('\n'), "{}: {} bytes", path.display(), text.len());
        for line in text.lines() {
            let event: Json = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            if event["message"] == "request" {
                logged.push(event["request_id"].as_str().unwrap().to_owned());
            }
        }
    }
    let all: BTreeSet<String> = logged.iter().cloned().collect();
    assert_eq!(all.len(), logged.len(), "a line stands there twice");
    assert!(asked.is_subset(&all), "{} requests are missing", asked.difference(&all).count());
}
