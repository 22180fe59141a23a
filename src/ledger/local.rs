//! Balances in memory, for the process that has a database file to itself: a hold is checked and taken under one lock, and
//! the database follows. What the database holds of an account is never more than what memory does.

use std::collections::HashMap;
use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::LedgerError;
use super::account::PURSE;
use crate::store::ledger::AccountRow;
use crate::store::{Moment, Store};

/// An ended period's account is forgotten so many milliseconds later.
const GRACE: i64 = 86_400_000;

/// What came of an attempt to take amounts from accounts.
pub(super) enum Taken {
    /// All are held.
    Done,
    /// This account does not exist yet; nothing is held.
    Missing(usize),
    /// This account cannot pay; nothing is held.
    Short {
        /// Which.
        index: usize,
        /// By how much.
        missing: i64,
    },
    /// Nothing is held, but would be if it was tried again.
    Changed,
}

#[derive(Debug)]
pub(super) struct Local {
    accounts: Mutex<HashMap<String, AccountRow>>,
    /// The last write has failed: no hold without the database's word.
    sick: AtomicBool,
    /// Ours while it is open, whatever becomes of the process.
    _lock: File,
}

impl Local {
    /// Locks the ledger, voids what the last run of the program left held, and reads the balances.
    pub(super) async fn open(store: &Store, file: &Path, now: Moment) -> Result<Self, LedgerError> {
        let lock = lock(file)?;
        let voided = store.void_all_holds().await?;
        if voided > 0 {
            tracing::info!(holds = voided, "voided what the last run had left on hold");
        }
        let accounts = store.accounts_from(now - GRACE).await?;
        let accounts = accounts.into_iter().map(|account| (account.id.clone(), account)).collect();
        Ok(Self { accounts: Mutex::new(accounts), sick: AtomicBool::new(false), _lock: lock })
    }

    fn accounts(&self) -> MutexGuard<'_, HashMap<String, AccountRow>> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the last write has failed.
    pub(super) fn is_sick(&self) -> bool {
        self.sick.load(Ordering::Relaxed)
    }

    /// Notes whether a write has failed.
    pub(super) fn wrote(&self, well: bool) {
        self.sick.store(!well, Ordering::Relaxed);
    }

    /// Holds all amounts or none.
    pub(super) fn take(&self, amounts: &[(String, i64)]) -> Taken {
        let mut accounts = self.accounts();
        for (index, (id, amount)) in amounts.iter().enumerate() {
            let Some(account) = accounts.get(id) else { return Taken::Missing(index) };
            let missing = amount.saturating_sub(account.balance + account.credit - account.held);
            if missing > 0 {
                return Taken::Short { index, missing };
            }
        }
        for (id, amount) in amounts {
            if let Some(account) = accounts.get_mut(id) {
                account.held += amount;
            }
        }
        Taken::Done
    }

    /// Ends a hold, and takes over the balances that the database now has.
    pub(super) fn settle(&self, held: &[(String, i64)], balances: &[(String, i64)]) {
        let mut accounts = self.accounts();
        for (id, amount) in held {
            if let Some(account) = accounts.get_mut(id) {
                account.held -= amount;
            }
        }
        for (id, balance) in balances {
            if let Some(account) = accounts.get_mut(id) {
                account.balance = *balance;
            }
        }
    }

    /// Takes up an account that the database has, unless it is here, and forgets those of periods long past.
    pub(super) fn add(&self, account: AccountRow, now: Moment) {
        let mut accounts = self.accounts();
        accounts.retain(|_, account| account.held > 0 || account.ends_at.is_none_or(|end| end > now - GRACE));
        accounts.entry(account.id.clone()).or_insert(account);
    }

    /// Changes a budget's limit.
    pub(super) fn set_credit(&self, id: &str, credit: i64) {
        if let Some(account) = self.accounts().get_mut(id) {
            account.credit = credit;
        }
    }

    /// The account of this id, if it is here.
    pub(super) fn account(&self, id: &str) -> Option<AccountRow> {
        self.accounts().get(id).cloned()
    }

    /// Ids and balances of so many purses at most.
    pub(super) fn purses(&self, most: usize) -> Vec<(String, i64)> {
        let accounts = self.accounts();
        let purses = accounts.values().filter(|account| account.id.starts_with(PURSE));
        let mut purses: Vec<_> = purses.map(|account| (account.id.clone(), account.balance)).collect();
        drop(accounts);
        // The same ones every time.
        purses.sort_unstable();
        purses.truncate(most);
        purses
    }

    /// What differs from these rows, which are all that the database has at the moment of the call.
    pub(super) fn differences(&self, rows: &[AccountRow]) -> Vec<String> {
        let rows: HashMap<&str, &AccountRow> = rows.iter().map(|row| (row.id.as_str(), row)).collect();
        let differs = |account: &&AccountRow| {
            rows.get(account.id.as_str()).is_none_or(|row| {
                (row.balance, row.credit) != (account.balance, account.credit) || row.held > account.held
            })
        };
        let accounts = self.accounts();
        let different = accounts.values().filter(differs);
        different.map(|account| format!("memory and database disagree about {}", account.id)).collect()
    }
}

fn lock(file: &Path) -> Result<File, LedgerError> {
    let path = file.with_added_extension("ledger");
    let failed = |source| LedgerError::File { path: path.display().to_string(), source };
    let lock = File::options().create(true).append(true).open(&path).map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(LedgerError::InUse(file.display().to_string())),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}
