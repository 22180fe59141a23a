//! Where committed rows go besides the database: a file of JSON Lines and a syslog server, each from a thread of its own,
//! so that a slow one delays nobody. What does not fit into its queue is counted, and is in the database all the same.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _, UdpSocket};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError, channel, sync_channel};
use std::time::Duration;

use super::line::{Format, syslog_message};
use crate::store::audit::AuditRow;

/// Batches that wait for a slow receiver.
const QUEUE: usize = 256;
/// A datagram is not longer, whatever the network.
const DATAGRAM: usize = 60_000;
const PATIENCE: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Where syslog messages go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SyslogAddress {
    /// One datagram each (RFC 5426).
    Udp(String),
    /// One connection, each message after its length (RFC 6587).
    Tcp(String),
    /// A socket of this machine.
    Unix(PathBuf),
}

impl std::str::FromStr for SyslogAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("must be udp://HOST:PORT, tcp://HOST:PORT or unix:PATH, not `{text}`");
        let is_host = |rest: &str| {
            rest.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        };
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err(wrong()) } else { Ok(Self::Unix(path.into())) };
        }
        match text.split_once("://") {
            Some(("udp", rest)) if is_host(rest) => Ok(Self::Udp(rest.to_owned())),
            Some(("tcp", rest)) if is_host(rest) => Ok(Self::Tcp(rest.to_owned())),
            _ => Err(wrong()),
        }
    }
}

/// Where rows go.
#[derive(Debug, Clone)]
pub(super) enum Target {
    /// Lines are appended; the file may be moved away at any time.
    File(PathBuf),
    Syslog(SyslogAddress),
}

enum Message {
    Rows(Arc<Vec<AuditRow>>),
    /// Answered when everything before it is sent.
    Flush(Sender<()>),
}

/// The way to one receiver. Its thread ends with it.
#[derive(Debug)]
pub(super) struct Outlet {
    queue: SyncSender<Message>,
    lost: Arc<AtomicU64>,
}

impl Outlet {
    /// Starts the thread. What is lost is added to `lost`.
    pub fn start(target: Target, lost: Arc<AtomicU64>) -> std::io::Result<Self> {
        let (queue, messages) = sync_channel(QUEUE);
        let line = Line { target, socket: None };
        std::thread::Builder::new().name("audit outlet".into()).spawn(move || line.run(&messages))?;
        Ok(Self { queue, lost })
    }

    /// Hands rows over without waiting.
    pub fn send(&self, rows: &Arc<Vec<AuditRow>>) {
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.queue.try_send(Message::Rows(Arc::clone(rows)))
        {
            self.lost.fetch_add(rows.len() as u64, Ordering::Relaxed);
        }
    }

    /// Gets an answer when everything so far is sent; none where the queue is full.
    pub fn flush(&self) -> Option<Receiver<()>> {
        let (done, answered) = channel();
        self.queue.try_send(Message::Flush(done)).ok().map(|()| answered)
    }
}

/// What the thread holds.
struct Line {
    target: Target,
    socket: Option<Socket>,
}

enum Socket {
    Udp(UdpSocket),
    Tcp(TcpStream),
    Unix(UnixDatagram),
}

impl Line {
    fn run(mut self, messages: &Receiver<Message>) {
        while let Ok(message) = messages.recv() {
            match message {
                Message::Rows(rows) => self.deliver(&rows),
                Message::Flush(done) => {
                    let _ = done.send(());
                }
            }
        }
    }

    /// Tries until it has succeeded. While it waits, the queue fills.
    fn deliver(&mut self, rows: &[AuditRow]) {
        let mut sent = 0;
        let mut pause = FIRST_PAUSE;
        while let Err(error) = self.write(rows, &mut sent) {
            if pause == FIRST_PAUSE {
                tracing::warn!("audit log to {:?}: {error}; it is tried again", self.target);
            }
            self.socket = None;
            std::thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Writes the rows after the first `sent`, and counts on.
    fn write(&mut self, rows: &[AuditRow], sent: &mut usize) -> std::io::Result<()> {
        let address = match &self.target {
            Target::File(path) => return append(path, rows),
            Target::Syslog(address) => address,
        };
        if self.socket.as_ref().is_some_and(Socket::is_closed) {
            self.socket = None;
        }
        let socket = match &mut self.socket {
            Some(socket) => socket,
            none => none.insert(Socket::open(address)?),
        };
        for row in &rows[*sent..] {
            socket.send(row)?;
            *sent += 1;
        }
        Ok(())
    }
}

/// All lines in one write, to the file of this name as it is now.
fn append(path: &Path, rows: &[AuditRow]) -> std::io::Result<()> {
    let lines: String = rows.iter().map(|row| Format::Jsonl.line(row) + "\n").collect();
    let mut file = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    file.write_all(lines.as_bytes())
}

impl Socket {
    fn open(address: &SyslogAddress) -> std::io::Result<Self> {
        Ok(match address {
            SyslogAddress::Udp(host) => {
                let peer = resolve(host)?;
                let any = if peer.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = UdpSocket::bind(any)?;
                socket.connect(peer)?;
                Self::Udp(socket)
            }
            SyslogAddress::Tcp(host) => {
                let stream = TcpStream::connect_timeout(&resolve(host)?, PATIENCE)?;
                stream.set_write_timeout(Some(PATIENCE))?;
                Self::Tcp(stream)
            }
            SyslogAddress::Unix(path) => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(path)?;
                socket.set_write_timeout(Some(PATIENCE))?;
                Self::Unix(socket)
            }
        })
    }

    /// Whether the other side has hung up; what is written then is lost without an error.
    fn is_closed(&self) -> bool {
        let Self::Tcp(stream) = self else { return false };
        let mut stream = stream;
        let closed = match stream.set_nonblocking(true).and_then(|()| stream.read(&mut [0; 64])) {
            Ok(read) => read == 0,
            Err(error) => error.kind() != ErrorKind::WouldBlock,
        };
        closed || stream.set_nonblocking(false).is_err()
    }

    fn send(&mut self, row: &AuditRow) -> std::io::Result<()> {
        let message = syslog_message(row, true);
        match self {
            Self::Tcp(stream) => stream.write_all(format!("{} {message}", message.len()).as_bytes()),
            Self::Udp(socket) => socket.send(short(row, message).as_bytes()).map(drop),
            Self::Unix(socket) => socket.send(short(row, message).as_bytes()).map(drop),
        }
    }
}

/// What fits into a datagram.
fn short(row: &AuditRow, message: String) -> String {
    if message.len() <= DATAGRAM { message } else { syslog_message(row, false) }
}

fn resolve(host: &str) -> std::io::Result<SocketAddr> {
    host.to_socket_addrs()?.next().ok_or_else(|| ErrorKind::AddrNotAvailable.into())
}
