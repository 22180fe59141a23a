//! Whether the parts that a server is made of are well: looks at each, says why in a few words, and remembers the last few
//! hundred looks. Must not know HTTP.

mod component;
mod machine;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

pub use component::{Component, Part, State, Why};
pub use machine::{Disk, Gpu, Machine, MachineReport};

use crate::kv_store::{KvError, KvStore};
use crate::ledger::Ledger;
use crate::store::{Store, StoreError};

/// So many looks are remembered: 2.4 hours at one every 30 seconds.
const REMEMBERED: usize = 288;
/// A part that has not answered by then is down.
const PATIENCE: Duration = Duration::from_secs(2);
/// Less free space than this is worth a warning, bytes.
const SCARCE: u64 = 1 << 30;
/// With less free space than this nothing can be relied on, bytes.
const NONE_LEFT: u64 = 64 << 20;

/// One look at everything.
#[derive(Debug, Clone)]
pub struct Checkup {
    /// When.
    pub at: SystemTime,
    /// The server as a whole.
    pub state: State,
    /// Its parts.
    pub components: Vec<Component>,
}

/// Looks at the parts. Cheap to clone; clones share what is remembered.
#[derive(Debug, Clone)]
pub struct Health {
    parts: Arc<Parts>,
    past: Arc<Mutex<VecDeque<Checkup>>>,
}

#[derive(Debug)]
struct Parts {
    store: Store,
    shared: KvStore,
    ledger: Ledger,
    machine: Machine,
}

impl Health {
    /// Nothing is remembered yet. `data` is the directory whose disk counts.
    pub fn new(store: Store, shared: KvStore, ledger: Ledger, data: PathBuf) -> Self {
        let parts = Parts { store, shared, ledger, machine: Machine::new(data) };
        Self { parts: Arc::new(parts), past: Arc::default() }
    }

    /// Looks at every part; the caller knows the model.
    pub async fn look(&self, model: Why) -> Checkup {
        let (database, shared, disk) = tokio::join!(self.database(), self.shared(), self.disk());
        let ledger = if database.state() == State::Down { database.clone() } else { self.ledger() };
        let shared_part = if matches!(shared, Why::InProcess) { Part::Memory } else { Part::Redis };
        let components = vec![
            Component { part: Part::Model, why: model },
            Component { part: Part::Database, why: database },
            Component { part: shared_part, why: shared },
            Component { part: Part::Ledger, why: ledger },
            Component { part: Part::Disk, why: disk },
        ];
        Checkup { at: SystemTime::now(), state: component::overall(&components), components }
    }

    /// Remembers a look.
    pub fn remember(&self, checkup: Checkup) {
        let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        if past.len() == REMEMBERED {
            past.pop_front();
        }
        past.push_back(checkup);
    }

    /// What is remembered, newest first.
    pub fn past(&self) -> Vec<Checkup> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner).iter().rev().cloned().collect()
    }

    /// The machine as it is now. Asks the system, which may take some milliseconds.
    pub async fn machine(&self) -> MachineReport {
        let parts = Arc::clone(&self.parts);
        tokio::task::spawn_blocking(move || parts.machine.report()).await.unwrap_or_default()
    }

    async fn database(&self) -> Why {
        let asked = Instant::now();
        match tokio::time::timeout(PATIENCE, self.parts.store.ping()).await {
            Ok(Ok(())) => Why::Answered(asked.elapsed()),
            Ok(Err(StoreError::Resting(_))) => Why::LeftAlone,
            Ok(Err(error)) => Why::Failed(error.to_string()),
            Err(_) => Why::Silent(PATIENCE),
        }
    }

    async fn shared(&self) -> Why {
        if matches!(self.parts.shared, KvStore::Memory(_)) {
            return Why::InProcess;
        }
        let asked = Instant::now();
        match self.parts.shared.get("health").await {
            Ok(_) => Why::Answered(asked.elapsed()),
            Err(KvError::Open(_)) => Why::LeftAlone,
            Err(error) => Why::Failed(error.to_string()),
        }
    }

    fn ledger(&self) -> Why {
        if self.parts.ledger.writes() { Why::Writes } else { Why::DoesNotWrite }
    }

    async fn disk(&self) -> Why {
        let parts = Arc::clone(&self.parts);
        // A network's file system may hang.
        let asked = tokio::task::spawn_blocking(move || parts.machine.disk());
        match tokio::time::timeout(PATIENCE, asked).await {
            Ok(Ok(Ok(Disk { free, .. }))) if free < NONE_LEFT => Why::NoSpace(free),
            Ok(Ok(Ok(Disk { free, .. }))) if free < SCARCE => Why::LittleSpace(free),
            Ok(Ok(Ok(Disk { free, .. }))) => Why::Space(free),
            Ok(Ok(Err(error))) => Why::Failed(error.to_string()),
            Ok(Err(error)) => Why::Failed(error.to_string()),
            Err(_) => Why::Silent(PATIENCE),
        }
    }
}
