//! The chain on both databases: proven when it is whole, refused when it is not; files and syslog servers that see every byte.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::Read as _;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::time::Instant;

use serde_json::{Map, Value as Json, json};

use super::log::Attempt;
use super::*;
use crate::store::audit::{AuditHead, head, set_head};
use crate::store::tests::{fresh_postgres, stores};
use crate::store::{Purpose, Write};

const PATIENCE: Duration = Duration::from_mins(1);

fn event(number: usize) -> Event {
    let actor =
        Actor {
            id: format!("user_{}", number % 3), name: "Мария".into(), credential: "key", key_id: "key_1".into()
        };
    let details = Map::from_iter([("number".to_owned(), json!(number))]);
    Event {
        actor,
        address: Some([127, 0, 0, 1].into()),
        request_id: format!("{number:032x}"),
        object: "thing".into(),
        model: "toy".into(),
        outcome: "completed".into(),
        details,
        ..Event::new(Kind::Request, "POST /v1/chat/completions")
    }
}

async fn open(store: &Store, settings: &AuditSettings) -> Audit {
    Audit::open(store.clone(), settings).await.unwrap()
}

/// Appends so many rows.
async fn append(log: &Log, count: usize) {
    let rows = (0..count).map(|number| event(number).into_row()).collect();
    log.append(rows, &Attempt::default()).await.unwrap();
}

async fn broken(log: &Log) -> Broken {
    match log.verify(None).await {
        Err(AuditError::Broken(broken)) => broken,
        other => panic!("{other:?}"),
    }
}

/// Waits until it is so.
async fn until(what: &str, so: impl Fn() -> bool) {
    let begin = Instant::now();
    while !so() {
        assert!(begin.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_writers_make_one_chain() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("steppe.db");
    let mut pairs = vec![(Store::sqlite(&file).await.unwrap(), Store::sqlite(&file).await.unwrap())];
    if let Some(url) = fresh_postgres().await {
        pairs.push((Store::postgres(&url).await.unwrap(), Store::postgres(&url).await.unwrap()));
    }
    for (first, second) in pairs {
        let settings = AuditSettings::default();
        let writers = [open(&first, &settings).await, open(&second, &settings).await];
        for number in 0..4000 {
            writers[number % 2].record(event(number));
            if number % 500 == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        for writer in &writers {
            assert!(writer.flush(PATIENCE).await);
            assert_eq!(writer.counts(), AuditCounts { written: 2000, lost: 0, not_sent: 0 });
        }
        let log = writers[0].log().unwrap();
        let proof = log.verify(None).await.unwrap();
        assert_eq!((proof.rows, proof.first, proof.last), (4000, 1, 4000));
        let rows = log.rows(&AuditFilter::default(), 10_000).await.unwrap();
        let mut numbers: Vec<u64> = rows
            .iter()
            .map(|row| serde_json::from_str::<Json>(&row.details).unwrap()["number"].as_u64().unwrap())
            .collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..4000).collect::<Vec<_>>(), "each once");
        let own = AuditFilter { actor_id: Some("user_1".into()), after: 5, ..AuditFilter::default() };
        let own = log.rows(&own, 7).await.unwrap();
        assert!(own.len() == 7 && own.iter().all(|row| row.actor_id == "user_1" && row.seq > 5));
    }
}

#[tokio::test]
async fn whatever_is_changed_is_found() {
    for statement in [
        "UPDATE audit SET moment = moment + 1 WHERE seq = 7",
        "UPDATE audit SET kind = 'login' WHERE seq = 7",
        "UPDATE audit SET actor_id = 'user_9' WHERE seq = 7",
        "UPDATE audit SET actor = 'ann' WHERE seq = 7",
        "UPDATE audit SET credential = 'token' WHERE seq = 7",
        "UPDATE audit SET key_id = '' WHERE seq = 7",
        "UPDATE audit SET address = '127.0.0.2' WHERE seq = 7",
        "UPDATE audit SET request_id = 'x' WHERE seq = 7",
        "UPDATE audit SET action = 'GET /health' WHERE seq = 7",
        "UPDATE audit SET object = model, model = object WHERE seq = 7",
        "UPDATE audit SET outcome = 'failed' WHERE seq = 7",
        "UPDATE audit SET details = '{}' WHERE seq = 7",
        "UPDATE audit SET hash = 'x' WHERE seq = 7",
        "UPDATE audit SET outcome = '', details = outcome || details WHERE seq = 7",
        "UPDATE audit SET seq = CASE seq WHEN 7 THEN 107 ELSE 7 END WHERE seq IN (7, 8); \
         UPDATE audit SET seq = 8 WHERE seq = 107",
    ] {
        found(statement, Broken::Changed(7)).await;
    }
    found("DELETE FROM audit WHERE seq = 7", Broken::Missing(7)).await;
    found("DELETE FROM audit WHERE seq > 15", Broken::Missing(16)).await;
    found("DELETE FROM audit", Broken::Missing(1)).await;
    found("UPDATE audit SET seq = 21 WHERE seq = 20", Broken::Missing(20)).await;
    found("UPDATE audit SET sealed_by = 'x' WHERE seq = 7", Broken::UnknownKey(7, "x".into())).await;
    let cut = "DELETE FROM audit WHERE seq > 15; \
               UPDATE audit_head SET seq = 15, hash = (SELECT hash FROM audit WHERE seq = 15)";
    found(cut, Broken::Head).await;
    let beheaded = "UPDATE audit_head SET pruned_seq = 7, pruned_hash = (SELECT hash FROM audit WHERE seq = 7); \
                    DELETE FROM audit WHERE seq <= 7";
    found(beheaded, Broken::Head).await;
    let added = "INSERT INTO audit SELECT 21, moment, kind, actor_id, actor, credential, key_id, address, request_id, \
                 action, object, model, outcome, details, sealed_by, hash FROM audit WHERE seq = 20";
    found(added, Broken::Added(21)).await;
}

/// What `statement` does to a log of 20 rows is found.
async fn found(statement: &'static str, expected: Broken) {
    for (store, _folder) in stores().await {
        let log = Log::open(store.clone(), None).await.unwrap();
        append(&log, 20).await;
        assert_eq!(log.verify(None).await.unwrap().rows, 20);
        for part in statement.split("; ") {
            store.execute(part).await;
        }
        assert_eq!(broken(&log).await, expected, "{statement}");
    }
}

#[tokio::test]
async fn who_knows_only_the_database_cannot_go_on_under_a_configured_key() {
    for (store, _folder) in stores().await {
        let by_database = Log::open(store.clone(), None).await.unwrap();
        assert_eq!(by_database.verify(None).await.unwrap().rows, 0);
        append(&by_database, 3).await;
        let log = Log::open(store.clone(), Some("a key that the database does not know")).await.unwrap();
        assert_eq!(broken(&log).await, Broken::WeakerKey(3), "the end is not under the key in force");
        append(&log, 3).await;
        assert_eq!(log.verify(None).await.unwrap().rows, 6);
        let unknown = Broken::UnknownKey(6, log.keys.current().to_owned());
        assert_eq!(broken(&by_database).await, unknown);
        append(&by_database, 1).await;
        assert_eq!(broken(&log).await, Broken::WeakerKey(7));
        append(&log, 1).await;
        assert_eq!(broken(&log).await, Broken::WeakerKey(7), "what follows does not heal it");
    }
}

#[tokio::test]
async fn the_databases_key_rotates_while_older_servers_still_write() {
    for (store, _folder) in stores().await {
        let older = Log::open(store.clone(), None).await.unwrap();
        append(&older, 2).await;
        store.rotate_secret(Purpose::AuditKey, "the second key").await.unwrap();
        let newer = Log::open(store.clone(), None).await.unwrap();
        assert_eq!(newer.verify(None).await.unwrap().rows, 2);
        for log in [&newer, &older, &newer] {
            append(log, 2).await;
        }
        assert_eq!(newer.verify(None).await.unwrap().rows, 8);
        assert_eq!(newer.keys.current(), "database-2");
    }
}

#[tokio::test]
async fn a_noted_row_proves_that_an_older_state_was_not_put_back() {
    for (store, _folder) in stores().await {
        let log = Log::open(store.clone(), None).await.unwrap();
        append(&log, 5).await;
        let old: AuditHead =
            store.write_apart(Write::new((), |connection, ()| Box::pin(head(connection)))).await.unwrap();
        append(&log, 5).await;
        let proof = log.verify(None).await.unwrap();
        let anchor = |proof: &Proof| Some(format!("{}:{}", proof.last, proof.hash).parse::<Anchor>().unwrap());
        assert!(log.verify(anchor(&proof)).await.is_ok());
        store.execute("DELETE FROM audit WHERE seq > 5").await;
        store.write_apart(Write::new(old, |connection, old| Box::pin(set_head(connection, old)))).await.unwrap();
        assert_eq!(log.verify(None).await.unwrap().last, 5, "by itself it is whole");
        let noted = log.verify(anchor(&proof)).await;
        assert!(matches!(noted, Err(AuditError::Broken(Broken::Anchor(10)))), "{noted:?}");
    }
    assert!("x".parse::<Anchor>().is_err() && "1".parse::<Anchor>().is_err());
}

#[tokio::test]
async fn retention_removes_leading_rows_and_leaves_what_proves_the_rest() {
    for (store, _folder) in stores().await {
        let log = Log::open(store.clone(), None).await.unwrap();
        // The 9th is as new as the last: it and what follows stays.
        let ages = [9, 9, 8, 8, 7, 7, 9, 9, 1, 9, 1, 1];
        let day = 86_400_000;
        let rows = ages
            .iter()
            .enumerate()
            .map(|(number, days)| Event { moment: now() - days * day, ..event(number) }.into_row());
        log.append(rows.collect(), &Attempt::default()).await.unwrap();
        let before = log.verify(None).await.unwrap();
        assert_eq!(log.prune(now() - 10 * day).await.unwrap(), None);
        let settings = AuditSettings { retention: Some(Duration::from_hours(48)), ..AuditSettings::default() };
        let audit = open(&store, &settings).await;
        until("retention", || audit.counts().written == 1).await;
        append(&log, 2).await;
        let proof = log.verify(None).await.unwrap();
        assert_eq!((proof.first, proof.last, proof.rows), (9, 15, 7));
        let told = log.rows(&AuditFilter { after: 12, ..AuditFilter::default() }, 1).await.unwrap().remove(0);
        assert_eq!((told.seq, told.action.as_str(), told.details.as_str()), (13, "retention", "{\"last_removed\":8}"));
        let noted = Anchor { seq: before.last, hash: before.hash };
        assert!(log.verify(Some(noted)).await.is_ok(), "what was noted before still stands");
        assert_eq!(log.prune(now() + day).await.unwrap(), Some(15));
        let empty = log.verify(None).await.unwrap();
        assert_eq!((empty.rows, empty.last, empty.span), (0, 15, None));
        append(&log, 1).await;
        assert_eq!(log.verify(None).await.unwrap().first, 16);
    }
}

#[tokio::test]
async fn the_chain_goes_on_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("steppe.db");
    for start in 1..=3 {
        let store = Store::sqlite(&file).await.unwrap();
        let audit = open(&store, &AuditSettings::default()).await;
        for number in 0..10 {
            audit.record(event(number));
        }
        assert!(audit.flush(PATIENCE).await);
        assert_eq!(audit.log().unwrap().verify(None).await.unwrap().rows, start * 10);
        store.close().await;
    }
}

#[tokio::test]
async fn rows_whose_commit_was_not_heard_of_are_not_written_twice() {
    for (store, _folder) in stores().await {
        let log = Log::open(store, None).await.unwrap();
        append(&log, 2).await;
        let rows = vec![event(1).into_row(), event(2).into_row()];
        let attempt = Attempt::default();
        let written = log.append(rows.clone(), &attempt).await.unwrap();
        append(&log, 2).await;
        assert_eq!(log.append(rows, &attempt).await.unwrap(), written);
        assert_eq!(log.verify(None).await.unwrap().rows, 6);
    }
}

#[tokio::test]
async fn while_the_database_is_away_events_wait_and_what_is_lost_is_said() {
    for (store, _folder) in stores().await {
        let settings = AuditSettings { queue: 8, required: true, ..AuditSettings::default() };
        let audit = open(&store, &settings).await;
        assert!(!audit.is_blocked());
        store.execute("ALTER TABLE audit RENAME TO elsewhere").await;
        audit.record(event(0));
        until("blocked", || audit.is_blocked()).await;
        for number in 1..=20 {
            audit.record(event(number));
        }
        assert_eq!(audit.counts(), AuditCounts { written: 0, lost: 12, not_sent: 0 });
        assert!(audit.is_blocked() && !audit.flush(Duration::from_millis(50)).await);
        store.execute("ALTER TABLE elsewhere RENAME TO audit").await;
        until("written", || audit.counts().written == 10).await;
        assert!(!audit.is_blocked());
        audit.record(event(21));
        assert!(audit.flush(PATIENCE).await);
        let log = audit.log().unwrap();
        assert_eq!(log.verify(None).await.unwrap().rows, 11);
        let rows = log.rows(&AuditFilter::default(), 100).await.unwrap();
        let actions: Vec<&str> = rows.iter().map(|row| row.action.as_str()).collect();
        let gaps: Vec<&AuditRow> = rows.iter().filter(|row| row.action == "gap").collect();
        assert_eq!((gaps.len(), gaps[0].details.as_str()), (1, "{\"lost_events\":12}"), "{actions:?}");
    }
}

#[tokio::test]
async fn large_events_do_not_fill_the_memory() {
    let (store, _folder) = stores().await.remove(0);
    let audit = open(&store, &AuditSettings::default()).await;
    store.execute("ALTER TABLE audit RENAME TO elsewhere").await;
    for number in 0..12 {
        let mut large = event(number);
        large.details.insert("prompt".into(), "x".repeat(10 << 20).into());
        audit.record(large);
    }
    assert_eq!(audit.counts().lost, 6, "64 MiB wait");
}

#[test]
fn nothing_is_kept_where_nothing_is_wanted() {
    let audit = Audit::off();
    audit.record(event(1));
    assert!(!audit.is_blocked() && audit.log().is_none() && audit.level().is_none());
}

/// A row with everything that has to be escaped.
fn hostile() -> AuditRow {
    let mut hostile = Event { moment: 1_795_321_020_007, ..event(1) };
    hostile.actor.name = "а\"b\\c]\n\u{85}d".into();
    hostile.object = "/x\r<0>1".into();
    hostile.details = Map::from_iter([("prompt".to_owned(), json!("\n\u{7f}\u{85}\u{2028}я"))]);
    AuditRow { seq: 5, hash: "00ff".into(), ..hostile.into_row() }
}

const HOSTILE_LINE: &str = concat!(
    r#"{"seq":5,"time":"2026-11-22T04:17:00.007Z","kind":"request","actor_id":"user_1","actor":"а\"b\\c]��d","#,
    r#""credential":"key","key_id":"key_1","address":"127.0.0.1","request_id":"00000000000000000000000000000001","#,
    r#""action":"POST /v1/chat/completions","object":"/x�<0>1","model":"toy","outcome":"completed","#,
    r#""details":{"prompt":"\n\u007f\u0085\u2028я"},"hash":"00ff"}"#
);

fn hostile_message() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let (host, process) = (host.trim(), std::process::id());
    let head = format!("<110>1 2026-11-22T04:17:00.007Z {host} steppe {process} request ");
    let element = concat!(
        r#"[steppe@32473 seq="5" actor="а\"b\\c\]��d" actorId="user_1" credential="key" keyId="key_1" "#,
        r#"address="127.0.0.1" requestId="00000000000000000000000000000001" action="POST /v1/chat/completions" "#,
        r#"object="/x�<0>1" model="toy" outcome="completed"]"#
    );
    format!("{head}{element} \u{feff}{HOSTILE_LINE}")
}

#[test]
fn lines_are_as_the_standards_say() {
    let row = hostile();
    assert_eq!(Format::Jsonl.line(&row), HOSTILE_LINE);
    let read: Json = serde_json::from_str(HOSTILE_LINE).unwrap();
    assert_eq!(read["details"]["prompt"], "\n\u{7f}\u{85}\u{2028}я", "nothing is lost of the text");
    assert_eq!(Format::Syslog.line(&row), hostile_message());
    let refused = AuditRow { kind: "refusal".into(), ..row };
    assert!(Format::Syslog.line(&refused).starts_with("<108>1 "), "a warning of the facility `log audit`");
}

#[test]
fn moments_are_read_as_they_are_written() {
    for moment in [0, 951_782_399_999, 1_795_321_020_007, 4_107_542_400_000] {
        assert_eq!(parse_moment(&timestamp(moment)), Some(moment));
    }
    assert_eq!(parse_moment("2026-11-22"), Some(1_795_305_600_000));
    assert_eq!(parse_moment("2026-11-22T04:17:00.5Z"), Some(1_795_321_020_500));
    for wrong in ["", "2026", "2026-02-29", "2026-11-22T24:00:00Z", "2026-11-22T04:17:00", "2026-11-22T+4:17:00Z", "x"]
    {
        assert_eq!(parse_moment(wrong), None, "{wrong}");
    }
}

/// A log that is also told to this address.
async fn told_to(address: String) -> (Audit, Store, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::sqlite(&folder.path().join("a.db")).await.unwrap();
    let settings = AuditSettings { syslog: Some(address.parse().unwrap()), ..AuditSettings::default() };
    (open(&store, &settings).await, store, folder)
}

#[tokio::test]
async fn datagrams_hold_one_message_each() {
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    let (audit, ..) = told_to(format!("udp://{}", receiver.local_addr().unwrap())).await;
    let folder = tempfile::tempdir().unwrap();
    let local = UnixDatagram::bind(folder.path().join("log")).unwrap();
    local.set_read_timeout(Some(PATIENCE)).unwrap();
    let (beside, ..) = told_to(format!("unix:{}", folder.path().join("log").display())).await;
    let mut large = event(2);
    large.details.insert("prompt".into(), "я".repeat(100_000).into());
    for audit in [&audit, &beside] {
        audit.record(event(1));
        audit.record(large.clone());
        assert!(audit.flush(PATIENCE).await);
        let rows = audit.log().unwrap().rows(&AuditFilter::default(), 10).await.unwrap();
        let mut buffer = vec![0; 65_536];
        for row in rows {
            let length = if std::ptr::eq(audit, &raw const beside) {
                local.recv(&mut buffer).unwrap()
            } else {
                receiver.recv(&mut buffer).unwrap()
            };
            let received = String::from_utf8(buffer[..length].to_vec()).unwrap();
            if row.details.len() < 1000 {
                assert_eq!(received, Format::Syslog.line(&row));
            } else {
                assert!(received.ends_with(&format!(
                    "\"details\":\"left out: too long for a datagram\",\"hash\":\"{}\"}}",
                    row.hash
                )));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_holds_messages_after_their_lengths_and_is_made_again() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (audit, ..) = told_to(format!("tcp://{}", listener.local_addr().unwrap())).await;
    let mut expected = Vec::new();
    for round in 0..3 {
        for number in 0..3 {
            audit.record(event(number));
        }
        assert!(audit.flush(PATIENCE).await);
        let rows =
            audit.log().unwrap().rows(&AuditFilter { after: round * 3, ..AuditFilter::default() }, 10).await.unwrap();
        expected.clear();
        for row in &rows {
            let message = Format::Syslog.line(row);
            expected.extend_from_slice(format!("{} {message}", message.len()).as_bytes());
        }
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut received = vec![0; expected.len()];
        stream.read_exact(&mut received).unwrap();
        assert_eq!(String::from_utf8(received).unwrap(), String::from_utf8(expected.clone()).unwrap());
        // The server hangs up; the next messages come by a new connection.
    }
    assert_eq!(audit.counts().not_sent, 0);
}

#[tokio::test]
async fn a_file_gets_every_row_and_may_be_moved_away() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::sqlite(&folder.path().join("a.db")).await.unwrap();
    let file = folder.path().join("audit.jsonl");
    let audit = open(&store, &AuditSettings { file: Some(file.clone()), ..AuditSettings::default() }).await;
    for round in 0..2 {
        audit.record(event(1));
        audit.record(event(2));
        assert!(audit.flush(PATIENCE).await);
        let rows =
            audit.log().unwrap().rows(&AuditFilter { after: round * 2, ..AuditFilter::default() }, 10).await.unwrap();
        let lines: String = rows.iter().map(|row| Format::Jsonl.line(row) + "\n").collect();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), lines);
        let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&file).unwrap());
        assert_eq!(mode & 0o077, 0);
        std::fs::rename(&file, folder.path().join("audit.jsonl.1")).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_syslog_server_that_is_away_delays_nobody() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    drop(silent);
    let (audit, ..) = told_to(format!("tcp://{address}")).await;
    for number in 0..300 {
        audit.record(event(number));
        until("written", || audit.counts().written == number as u64 + 1).await;
    }
    assert!(audit.counts().not_sent > 0, "its queue is bounded");
    assert_eq!(audit.log().unwrap().verify(None).await.unwrap().rows, 300);
}

#[test]
fn addresses_of_syslog_servers() {
    let parse = |text: &str| text.parse::<SyslogAddress>();
    assert_eq!(parse("udp://log:514"), Ok(SyslogAddress::Udp("log:514".into())));
    assert_eq!(parse("tcp://[::1]:601"), Ok(SyslogAddress::Tcp("[::1]:601".into())));
    assert_eq!(parse("unix:/dev/log"), Ok(SyslogAddress::Unix("/dev/log".into())));
    for wrong in ["", "log:514", "udp://log", "udp://:514", "tls://log:6514", "unix:", "udp://log:x"] {
        assert!(parse(wrong).is_err(), "{wrong}");
    }
}
