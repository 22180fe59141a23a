//! SIGKILL at random moments: this test program runs itself as a busy ledger, which tells on its output what it is about to
//! settle and what is settled. Whoever opens the database afterwards finds that and nothing else.

use std::collections::HashMap;
use std::io::{BufReader, Read as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use super::*;
use crate::store::tests::fresh_postgres;

/// Set for the process that is to be killed: the file or URL of its database.
const DATABASE: &str = "LEDGER_OF_THE_KILL_LOOP";
/// Far more than is used.
const OPENING: i64 = 1_000_000_000;
const LEASE: Duration = Duration::from_millis(500);

fn busy_settings() -> LedgerSettings {
    LedgerSettings { default_balance: OPENING, lease: LEASE, ..settings() }
}

async fn open(database: &str) -> (Store, Ledger) {
    let store = if database.starts_with("postgres:") {
        Store::postgres(database).await.unwrap()
    } else {
        Store::sqlite(Path::new(database)).await.unwrap()
    };
    let ledger = Ledger::open(store.clone(), busy_settings()).await.unwrap();
    (store, ledger)
}

/// One line at once, so that none is torn.
fn tell(line: &str) {
    std::io::stdout().lock().write_all(format!("\n@{line}\n").as_bytes()).unwrap();
}

/// The other process; in the tests' own it does nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn busy() {
    let Ok(database) = std::env::var(DATABASE) else { return };
    let (_, ledger) = open(&database).await;
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..16 {
        let ledger = ledger.clone();
        clients.spawn(async move {
            loop {
                one_request(&ledger, client).await;
            }
        });
    }
    clients.join_next().await.unwrap().unwrap();
}

async fn one_request(ledger: &Ledger, client: usize) {
    let id = format!("{:x}", rand::random::<u128>());
    let new = NewHold { user_id: format!("u{}", client % 5), department_id: Some("d".into()), ..request(&id) };
    let hold = ledger.hold(new).await.unwrap();
    tokio::time::sleep(Duration::from_micros(fastrand::u64(..2000))).await;
    let used = usage(fastrand::u64(50..=100), fastrand::u64(..=50), fastrand::u64(..=100));
    if fastrand::u8(..5) == 0 {
        return drop(hold);
    }
    tell(&format!("try {id} {} {} {}", used.prompt_tokens, used.cached_tokens, used.completion_tokens));
    let mut settling = Box::pin(hold.settle(used, Outcome::Completed, "{}".to_owned()));
    if fastrand::u8(..5) == 0 {
        // Whoever asked leaves.
        tokio::select! { biased; _ = &mut settling => (), () = tokio::task::yield_now() => () }
        return;
    }
    let cost = settling.await.unwrap();
    tell(&format!("settled {id} {cost}"));
}

/// What the processes have told.
#[derive(Default)]
struct Told {
    tried: HashMap<String, Usage>,
    settled: HashMap<String, i64>,
}

impl Told {
    fn read(&mut self, output: &str) {
        for line in output.lines().filter_map(|line| line.strip_prefix('@')) {
            let words: Vec<&str> = line.split(' ').collect();
            let number = |index: usize| words[index].parse::<u64>().unwrap();
            match words[..] {
                ["try", id, _, _, _] => {
                    self.tried.insert(id.to_owned(), usage(number(2), number(3), number(4)));
                }
                ["settled", id, _] => {
                    self.settled.insert(id.to_owned(), number(2) as i64);
                }
                _ => panic!("{line}"),
            }
        }
    }
}

/// Starts the other process, and kills it at a random moment after its first settlement.
fn round(database: &str, told: &mut Told) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "ledger::tests::crash::busy", "--nocapture"])
        .env(DATABASE, database)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut first = [0];
    let (sender, first_line) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        while output.read(&mut first).unwrap() == 1 {
            all.push(first[0]);
            if all.ends_with(b"@settled") {
                sender.send(()).ok();
            }
        }
        String::from_utf8(all).unwrap()
    });
    first_line.recv_timeout(Duration::from_secs(30)).unwrap();
    std::thread::sleep(Duration::from_micros(fastrand::u64(..300_000)));
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9), "it ended by itself");
    told.read(&reader.join().unwrap());
}

/// Opens what the killed processes have left and compares it with what they have told.
async fn verify(database: &str, told: &Told) {
    let (store, ledger) = open(database).await;
    if store.file().is_none() {
        // The lease of the dead has to end.
        tokio::time::sleep(LEASE * 3).await;
    }
    ledger.assert_sound().await;
    let mut spent = 0;
    let mut settled = 0;
    for (id, used) in &told.tried {
        let Some(row) = store.finished_request(id).await.unwrap() else {
            assert!(!told.settled.contains_key(id), "{id} was settled and is lost");
            continue;
        };
        let found = (row.prompt_tokens, row.cached_tokens, row.completion_tokens);
        let reported = (used.prompt_tokens as i64, used.cached_tokens as i64, used.completion_tokens as i64);
        assert_eq!(found, reported, "{id}");
        assert_eq!(row.cost, PRICE.cost(*used), "{id}");
        assert!(told.settled.get(id).is_none_or(|cost| *cost == row.cost), "{id}");
        spent += row.cost;
        settled += 1;
    }
    let rows = ledger.usage(None, 0, i64::MAX, GroupBy::Model).await.unwrap();
    assert_eq!((rows[0].requests, rows[0].cost), (settled, spent), "no row that nobody has told of");
    let mut left = 0;
    for user in 0..5 {
        let Balance { balance, held } = ledger.balance(&format!("u{user}")).await.unwrap();
        assert_eq!(held, 0);
        left += balance;
    }
    assert_eq!(5 * OPENING - left, spent);
    let budgets = ledger.budgets().await.unwrap();
    let tokens = rows[0].prompt_tokens + rows[0].completion_tokens;
    assert_eq!(budgets.iter().map(|state| (state.used, state.held)).collect::<Vec<_>>(), [(tokens, 0)]);
    ledger.close().await;
    store.close().await;
}

fn kill_loop(database: &str, rounds: usize) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let (store, ledger) = open(database).await;
        let total = Budget { period: Period::Total, ..daily(Subject::Department("d".into()), OPENING) };
        ledger.set_budget(total, "root").await.unwrap();
        ledger.close().await;
        store.close().await;
    });
    let mut told = Told::default();
    for _ in 0..rounds {
        round(database, &mut told);
        runtime.block_on(verify(database, &told));
    }
    assert!(told.settled.len() > rounds, "{} settled in {rounds} rounds", told.settled.len());
}

#[test]
fn killed_at_random_nothing_is_lost_and_nothing_charged_twice() {
    let folder = tempfile::tempdir().unwrap();
    kill_loop(folder.path().join("steppe.db").to_str().unwrap(), 10);
}

#[test]
fn a_killed_replica_leaves_the_shared_ledger_in_order() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let Some(url) = runtime.block_on(fresh_postgres()) else { return };
    kill_loop(&url, 3);
}

#[test]
#[ignore = "takes minutes; scripts/test --long"]
fn killed_at_random_for_long() {
    let folder = tempfile::tempdir().unwrap();
    kill_loop(folder.path().join("steppe.db").to_str().unwrap(), 200);
}
