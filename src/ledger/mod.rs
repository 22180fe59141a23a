//! The ledger: what requests may cost is held before they start, what they did cost is settled when they end. Balances are
//! in memory where the process has the database to itself, and in the database where replicas share it. Must not know what
//! a request is, or HTTP.

mod account;
mod administration;
mod error;
mod hold;
mod local;
mod part;
mod price;
mod shared;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

pub use crate::calendar::parse_day;
pub use account::Account;
pub use administration::{Balance, BudgetState};
pub use error::LedgerError;
pub use hold::{Hold, Outcome};
pub use price::{Price, Usage};

pub use crate::store::ledger::{Budget, Cursor, Entry, FinishedRequest, GroupBy, Period, Subject, Unit, UsageRow};

use self::local::Local;
use crate::store::{Moment, Store, StoreError, Write, new_id, now};

/// What the ledger is told by the configuration.
#[derive(Debug, Clone)]
pub struct LedgerSettings {
    /// Whether money is held and charged. Tokens are counted in any case.
    pub billing: bool,
    /// The currency's name, for people.
    pub currency: String,
    /// What a user has who is seen for the first time, in 10^-6 of the currency.
    pub default_balance: i64,
    /// Prices by model.
    pub prices: BTreeMap<String, Price>,
    /// The price of the others.
    pub default_price: Price,
    /// Days begin so many milliseconds before UTC's: Moscow's 10,800,000.
    pub day_offset: i64,
    /// What a replica holds is void when it has not been heard of for so long.
    pub lease: Duration,
    /// What time it is.
    pub clock: fn() -> Moment,
}

impl Default for LedgerSettings {
    fn default() -> Self {
        Self {
            billing: false,
            currency: "RUB".to_owned(),
            default_balance: 0,
            prices: BTreeMap::new(),
            default_price: Price::default(),
            day_offset: 0,
            lease: Duration::from_mins(1),
            clock: now,
        }
    }
}

/// A request that wants to run.
#[derive(Debug, Clone)]
pub struct NewHold {
    /// Made by the server, unique for ever.
    pub request_id: String,
    /// Who asks.
    pub user_id: String,
    /// With what API key, if with one.
    pub key_id: Option<String>,
    /// For what department, if for one.
    pub department_id: Option<String>,
    /// Which model answers.
    pub model: String,
    /// So many tokens of prompt at the most.
    pub max_prompt_tokens: u64,
    /// So many tokens of answer at the most, of all choices together.
    pub max_completion_tokens: u64,
}

/// The ledger. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Ledger {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    settings: LedgerSettings,
    /// This process among those that share the database.
    owner: String,
    runtime: Handle,
    /// Where the process has the database to itself.
    local: Option<Arc<Local>>,
    /// By subject.
    budgets: RwLock<HashMap<Subject, Vec<Budget>>>,
    /// Keeps changes of budgets and reads of all of them apart.
    changing: tokio::sync::Mutex<()>,
    /// Requests that have a hold.
    open: Mutex<HashSet<String>>,
    /// Read by every task in the background.
    tasks: Arc<tokio::sync::RwLock<()>>,
    closed: AtomicBool,
}

const DAY: i64 = 86_400_000;

impl Ledger {
    /// When a day since 1970 begins, where this ledger is.
    pub fn day_begins(&self, day: i64) -> Moment {
        day * DAY - self.inner.settings.day_offset
    }

    /// Opens the ledger. What an earlier run of the program has left held is voided.
    ///
    /// # Errors
    /// When the database fails, or another process keeps the ledger of this file.
    pub async fn open(store: Store, settings: LedgerSettings) -> Result<Self, LedgerError> {
        let local = match store.file() {
            Some(file) => Some(Arc::new(Local::open(&store, file, (settings.clock)()).await?)),
            None => None,
        };
        let inner = Arc::new(Inner {
            store,
            settings,
            owner: new_id("ledger"),
            runtime: Handle::current(),
            local,
            budgets: RwLock::default(),
            changing: tokio::sync::Mutex::default(),
            open: Mutex::default(),
            tasks: Arc::default(),
            closed: AtomicBool::new(false),
        });
        if inner.local.is_none() {
            shared::join(&inner).await?;
        }
        inner.read_budgets().await?;
        Ok(Self { inner })
    }

    /// Holds what a request may cost at the most, of its user's purse and of every budget that concerns it: of all or of
    /// none. When nothing concerns it, nothing is written.
    ///
    /// # Errors
    /// [`LedgerError::Short`] when an account cannot pay, [`LedgerError::Duplicate`] when this request has a hold,
    /// [`LedgerError::Store`] when the database fails: then nothing may run.
    pub async fn hold(&self, new: NewHold) -> Result<Hold, LedgerError> {
        Arc::clone(&self.inner).hold(new).await
    }

    /// The most that a request can cost, in 10^-6 of the currency; 0 when billing is off.
    pub fn largest_cost(&self, model: &str, prompt_tokens: u64, completion_tokens: u64) -> i64 {
        self.inner.price(model).largest_cost(prompt_tokens, completion_tokens)
    }

    /// Whether money is held and charged.
    pub fn billing(&self) -> bool {
        self.inner.settings.billing
    }

    /// The currency's name.
    pub fn currency(&self) -> &str {
        &self.inner.settings.currency
    }

    /// Whether the last write was written, where the process has the database to itself; true where replicas share it.
    pub fn writes(&self) -> bool {
        self.inner.local.as_ref().is_none_or(|local| !local.is_sick())
    }

    /// Waits until everything is settled and voided that was to be. Holds that are open stay so.
    pub async fn close(&self) {
        self.inner.close().await;
    }
}

impl Inner {
    /// Nothing when billing is off.
    fn price(&self, model: &str) -> Price {
        let LedgerSettings { billing, prices, default_price, .. } = &self.settings;
        if *billing { *prices.get(model).unwrap_or(default_price) } else { Price::default() }
    }

    fn open_requests(&self) -> MutexGuard<'_, HashSet<String>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a task whether somebody waits for it or not.
    fn background<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        let running = Arc::clone(&self.tasks).try_read_owned().ok();
        self.runtime.spawn(async move {
            let done = task.await;
            drop(running);
            done
        })
    }

    /// Writes, and has memory follow in the order of the commits.
    async fn commit<A: Send + Sync + 'static, T: Send + 'static>(
        &self,
        write: Write<A, T>,
        then: impl FnOnce(&Local, &T) + Send + 'static,
    ) -> Result<T, StoreError> {
        let local = self.local.clone();
        let committed = move |result: &Result<T, StoreError>| {
            let Some(local) = local else { return };
            local.wrote(result.is_ok());
            if let Ok(done) = result {
                then(&local, done);
            }
        };
        self.store.write(write, committed).await
    }

    /// The same for what locks rows in an order of its own: alone, where replicas may wait for them.
    async fn commit_apart<A: Send + Sync + 'static, T: Send + 'static>(
        &self,
        write: Write<A, T>,
        then: impl FnOnce(&Local, &T) + Send + 'static,
    ) -> Result<T, StoreError> {
        if self.local.is_some() { self.commit(write, then).await } else { self.store.write_apart(write).await }
    }

    /// Tries until the database has it, or objects. `attempt` does nothing when it has been done before.
    async fn persist<T, F: Future<Output = Result<T, StoreError>>>(
        &self,
        id: &str,
        attempt: impl Fn() -> F,
    ) -> Result<T, StoreError> {
        let mut delay = Duration::from_millis(50);
        loop {
            match attempt().await {
                Err(error) if error.may_pass() => {
                    tracing::warn!(id, %error, "the ledger could not be written; it is tried again");
                    tokio::time::sleep(delay.mul_f64(rand::random_range(0.5..1.5))).await;
                    delay = (delay * 2).min(Duration::from_secs(10));
                }
                done => return done,
            }
        }
    }
}

#[cfg(test)]
mod tests;
