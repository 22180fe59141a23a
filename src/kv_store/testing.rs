//! A real redis-server for tests, and a proxy before it that fails on demand. Knows nothing of this crate, so that tests
//! outside can include the file by its path.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::net::{SocketAddr, TcpListener as StdListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A redis-server of the test's own, gone with it.
pub struct RedisServer {
    process: Child,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl RedisServer {
    /// On a free port, empty.
    ///
    /// # Panics
    /// When redis-server is not installed or does not start.
    pub async fn start() -> Self {
        Self::start_with(|_| Vec::new()).await
    }

    /// With further arguments, told the folder that is the server's.
    ///
    /// # Panics
    /// When redis-server is not installed or does not start.
    pub async fn start_with(further: impl Fn(&Path) -> Vec<String>) -> Self {
        // The port may be taken between choosing and using it.
        for _ in 0..5 {
            let folder = tempfile::tempdir().unwrap();
            let further = further(folder.path());
            if let Some(server) = Self::start_at(free_address(), folder, &further).await {
                return server;
            }
        }
        panic!("redis-server did not start");
    }

    async fn start_at(address: SocketAddr, folder: tempfile::TempDir, further: &[String]) -> Option<Self> {
        let process = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &address.port().to_string(), "--save", "", "--appendonly", "no"])
            .arg("--dir")
            .arg(folder.path())
            .args(further)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is missing: install the package redis-server (scripts/test does)");
        let mut server = Self { process, address, _folder: folder };
        let end = Instant::now() + Duration::from_secs(20);
        while Instant::now() < end && server.process.try_wait().unwrap().is_none() {
            if let Ok(mut stream) = TcpStream::connect(address).await
                && stream.write_all(b"PING\r\n").await.is_ok()
                && stream.read(&mut [0; 7]).await.is_ok_and(|read| read == 7)
            {
                return Some(server);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        None
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Stops it, and starts it again at the same place with nothing in it.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn restart(self) -> Self {
        let address = self.address;
        drop(self);
        Self::start_at(address, tempfile::tempdir().unwrap(), &[]).await.expect("redis-server starts again")
    }
}

/// Of a port that nobody has, nor the one 10,000 above it, which a cluster's servers take too.
///
/// # Panics
/// When the system gives none.
pub fn free_address() -> SocketAddr {
    let free = || StdListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let above = |port: u16| port.checked_add(10_000).is_some_and(|port| StdListener::bind(("127.0.0.1", port)).is_ok());
    std::iter::repeat_with(free).take(1000).find(|address| above(address.port())).expect("a free port")
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What the proxy does with connections, old and new ones.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    /// Passes everything on.
    None,
    /// Closes them.
    Killed,
    /// Accepts and reads, and passes nothing on. What was read is passed on when it heals.
    Frozen,
    /// Passes replies on after so long.
    Slow(Duration),
    /// Puts random bytes in the place of replies.
    Garbage,
    /// Puts a whole and valid reply that nobody asked for before each reply.
    Extra,
    /// Passes the first half of a reply on, then closes.
    Cut,
}

/// A proxy before a server.
pub struct FaultProxy {
    address: SocketAddr,
    fault: watch::Sender<Fault>,
    accepting: tokio::task::JoinHandle<()>,
}

impl FaultProxy {
    /// Before `server`, passing everything on.
    ///
    /// # Panics
    /// When the system gives no port.
    pub async fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let fault = watch::Sender::new(Fault::None);
        let faults = fault.clone();
        let accepting = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let faults = faults.subscribe();
                tokio::spawn(async move {
                    if *faults.borrow() != Fault::Killed
                        && let Ok(server) = TcpStream::connect(server).await
                    {
                        let _ = client.set_nodelay(true);
                        let _ = server.set_nodelay(true);
                        join(client, server, faults).await;
                    }
                });
            }
        });
        Self { address, fault, accepting }
    }

    /// The URL by which Redis is reached through it.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// From now on.
    pub fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn join(client: TcpStream, server: TcpStream, faults: watch::Receiver<Fault>) {
    let (client_reads, client_writes) = client.into_split();
    let (server_reads, server_writes) = server.into_split();
    let mut killed = faults.clone();
    tokio::select! {
        () = pump(client_reads, server_writes, faults.clone(), false) => {}
        () = pump(server_reads, client_writes, faults, true) => {}
        _ = killed.wait_for(|fault| *fault == Fault::Killed) => {}
    }
}

async fn pump(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut faults: watch::Receiver<Fault>,
    is_reply: bool,
) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let mut bytes = buffer[..read].to_vec();
        if faults.wait_for(|fault| *fault != Fault::Frozen).await.is_err() {
            return;
        }
        let fault = *faults.borrow();
        match fault {
            Fault::Killed => return,
            Fault::Slow(delay) if is_reply => tokio::time::sleep(delay).await,
            Fault::Garbage if is_reply => bytes.fill_with(rand::random),
            Fault::Extra if is_reply => drop(bytes.splice(..0, *b"$5\r\nalien\r\n")),
            Fault::Cut if is_reply => bytes.truncate(read / 2),
            _ => {}
        }
        if to.write_all(&bytes).await.is_err() || (fault == Fault::Cut && is_reply) {
            return;
        }
    }
}
