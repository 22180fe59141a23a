//! The one connection to Redis, which all calls share: made when it is wanted, by a task of its own, so that no caller's
//! patience or leaving decides over it; thrown away when it is doubtful.

use std::sync::Arc;
use std::time::Duration;

use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use tokio::sync::watch;

use super::KvError;

/// A new connection may take so long, even when callers wait for less.
const PATIENCE: Duration = Duration::from_secs(2);

pub(super) struct Link {
    client: redis::Client,
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
    pub fn new(client: redis::Client) -> Arc<Self> {
        Arc::new(Self { client, state: watch::Sender::new(State::Down { reason: String::new() }) })
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
        // Callers have deadlines of their own.
        let config = AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
        let connecting = self.client.get_multiplexed_async_connection_with_config(&config);
        let made = match tokio::time::timeout(PATIENCE, connecting).await {
            Ok(Ok(connection)) => State::Up(Connected { connection, identity: Arc::new(()) }),
            Ok(Err(error)) => State::Down { reason: error.to_string() },
            Err(_) => State::Down { reason: format!("no connection within {} s", PATIENCE.as_secs()) },
        };
        self.state.send_replace(made);
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
