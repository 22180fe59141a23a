//! The one connection to Redis, which all calls share: made when it is wanted, by a task of its own, so that no caller's
//! patience or leaving decides over it; thrown away when it is doubtful. In a cluster, it leads to the server that has our
//! slot.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ConnectionAddr};
use tokio::sync::watch;

use super::KvError;
use super::settings::Servers;

/// A new connection may take so long, even when callers wait for less.
const PATIENCE: Duration = Duration::from_secs(2);

/// From the server that is asked to the one that has the slot, and on while it moves.
const MOST_MOVES: usize = 4;

pub(super) struct Link {
    servers: Servers,
    /// Why there was no connection the last time.
    told: Mutex<String>,
    state: watch::Sender<State>,
}

enum State {
    Down { reason: String },
    Connecting,
    Up(Connected),
}

/// A connection and which one it is.
#[derive(Clone)]
pub(super) struct Connected {
    pub connection: MultiplexedConnection,
    identity: Arc<()>,
}

impl Link {
    pub fn new(servers: Servers) -> Arc<Self> {
        Arc::new(Self {
            servers,
            told: Mutex::default(),
            state: watch::Sender::new(State::Down { reason: String::new() }),
        })
    }

    /// The connection there is, or else a new one.
    pub async fn connection(self: &Arc<Self>) -> Result<Connected, KvError> {
        if let State::Up(connected) = &*self.state.borrow() {
            return Ok(connected.clone());
        }
        let mut changes = self.state.subscribe();
        let is_first = self.state.send_if_modified(|state| {
            let is_down = matches!(state, State::Down { .. });
            if is_down {
                *state = State::Connecting;
            }
            is_down
        });
        if is_first {
            tokio::spawn(self.clone().connect());
        }
        let settled = changes.wait_for(|state| !matches!(state, State::Connecting)).await;
        match settled.as_deref() {
            Ok(State::Up(connected)) => Ok(connected.clone()),
            Ok(State::Down { reason }) => Err(KvError::Connection(reason.clone())),
            Ok(State::Connecting) | Err(_) => Err(KvError::Nonsense),
        }
    }

    async fn connect(self: Arc<Self>) {
        let _unless_told = DownOnDrop(&self.state);
        let mut made = State::Down { reason: String::new() };
        for client in &self.servers.clients {
            let connecting = self.servers.reach(client.clone());
            made = match tokio::time::timeout(PATIENCE, connecting).await {
                Ok(Ok(connection)) => State::Up(Connected { connection, identity: Arc::new(()) }),
                Ok(Err(reason)) => State::Down { reason },
                Err(_) => State::Down { reason: format!("no connection within {} s", PATIENCE.as_secs()) },
            };
            if matches!(made, State::Up(_)) {
                break;
            }
        }
        self.tell(&made);
        self.state.send_replace(made);
    }

    /// One line for each new reason, however often it is tried.
    fn tell(&self, made: &State) {
        let reason = if let State::Down { reason } = made { reason.as_str() } else { "" };
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if *told != reason {
            reason.clone_into(&mut told);
            if !reason.is_empty() {
                tracing::warn!(dependency = "redis", "there is no connection: {reason}");
            }
        }
    }

    /// Asks nothing more over this connection. Calls that wait for its replies go on waiting.
    pub fn discard(&self, doubtful: &Connected) {
        self.state.send_if_modified(|state| {
            let is_it = matches!(state, State::Up(current) if Arc::ptr_eq(&current.identity, &doubtful.identity));
            if is_it {
                *state = State::Down { reason: String::new() };
            }
            is_it
        });
    }
}

impl Servers {
    /// A connection to this server, or to the one that it names as the slot's.
    async fn reach(&self, mut client: Client) -> Result<MultiplexedConnection, String> {
        // Callers have deadlines of their own.
        let config = AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
        for _ in 0..MOST_MOVES {
            let made = client.get_multiplexed_async_connection_with_config(&config).await;
            let mut connection = made.map_err(|error| error.to_string())?;
            let Some(key) = &self.key else { return Ok(connection) };
            match redis::cmd("EXISTS").arg(key).query_async::<()>(&mut connection).await {
                Ok(()) => return Ok(connection),
                Err(error) => match error.redirect_node() {
                    Some((place, _)) if error.code() == Some("MOVED") => client = moved(&client, place)?,
                    _ => return Err(error.to_string()),
                },
            }
        }
        Err("the servers of the cluster do not agree on who has the slot".into())
    }
}

/// The server of the same cluster at `host:port`; without a host, at the same one.
fn moved(client: &Client, place: &str) -> Result<Client, String> {
    let strange = || format!("the cluster names {place} as a server");
    let (host, port) = place.rsplit_once(':').ok_or_else(strange)?;
    let port = port.parse().map_err(|_| strange())?;
    let info = client.get_connection_info();
    let mut address = info.addr().clone();
    match &mut address {
        ConnectionAddr::Tcp(to, at) | ConnectionAddr::TcpTls { host: to, port: at, .. } => {
            *at = port;
            if !host.is_empty() {
                host.trim_matches(['[', ']']).clone_into(to);
            }
        }
        _ => return Err(strange()),
    }
    Client::open(info.clone().set_addr(address)).map_err(|error| error.to_string())
}

/// Whatever becomes of the task that connects, nobody waits for it for ever.
struct DownOnDrop<'a>(&'a watch::Sender<State>);

impl Drop for DownOnDrop<'_> {
    fn drop(&mut self) {
        self.0.send_if_modified(|state| {
            let is_abandoned = matches!(state, State::Connecting);
            if is_abandoned {
                *state = State::Down { reason: "connecting was given up".into() };
            }
            is_abandoned
        });
    }
}
