//! The server as a process of its own, through the same start and end as `steppe serve`: this test program runs one test of
//! itself, which serves.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// The other process; it is killed with the test.
pub struct Served {
    child: Child,
    pub address: SocketAddr,
    /// Everything that it said until it was ready.
    pub said: String,
}

impl Served {
    /// Runs `test`, which sees `value` in `variable`, until it says where it serves.
    pub async fn start(test: &'static str, variable: &str, value: impl AsRef<OsStr>) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(variable, value)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let reading = move || {
            let mut said = String::new();
            let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines().map(Result::unwrap);
            let ready = lines.find(|line| {
                said += line;
                said.push('\n');
                line.starts_with("Ready after")
            });
            let ready = ready.unwrap_or_else(|| panic!("it is not ready: {said}"));
            let address = ready.split("http://").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
            Self { child, address, said }
        };
        tokio::task::spawn_blocking(reading).await.unwrap()
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to end, and waits for it.
    pub async fn terminate(self) -> ExitStatus {
        assert!(Command::new("kill").arg(self.child.id().to_string()).status().unwrap().success());
        self.ended(Duration::from_secs(30)).await.0
    }

    /// Waits until it ends by itself; what it has said to standard error comes back.
    pub async fn ended(mut self, patience: Duration) -> (ExitStatus, String) {
        let mut errors = self.child.stderr.take().unwrap();
        let reading = tokio::task::spawn_blocking(move || {
            let mut told = String::new();
            errors.read_to_string(&mut told).unwrap();
            told
        });
        let started = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(started.elapsed() < patience, "the process lives on");
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        (status, reading.await.unwrap())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
