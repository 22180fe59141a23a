//! What administrators and users ask of the ledger: top-ups, balances, budgets, lists, and whether all is well.

use std::sync::{Arc, Mutex, PoisonError};

use super::account::{PURSE, budget_account, date, purse_id};
use super::hold::PATIENCE;
use super::local::Taken;
use super::part::Part;
use super::{Account, Budget, Entry, GroupBy, Inner, Ledger, LedgerError, NewHold, Subject, UsageRow, new_id};
use crate::store::ledger::accounts::{self, Posting};
use crate::store::ledger::{AccountRow, budgets, proof};
use crate::store::{Moment, StoreError, Write};

/// A top-up is this at the most: 10^9 of the currency.
const LARGEST_AMOUNT: i64 = 1_000_000_000_000_000;

/// A user's money, in 10^-6 of the currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Balance {
    /// What they have.
    pub balance: i64,
    /// What of it is set aside for requests that run.
    pub held: i64,
}

/// A budget in its current period.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BudgetState {
    /// Which.
    pub budget: Budget,
    /// What was used, in the budget's unit.
    pub used: i64,
    /// What is set aside for requests that run.
    pub held: i64,
    /// When it is full again.
    pub resets_at: Option<Moment>,
}

impl Ledger {
    /// Adds to a user's purse, or takes from it what is not held when the amount is negative, and gives the balance.
    ///
    /// # Errors
    /// [`LedgerError::Short`] when there is less than is to be taken, [`LedgerError::Amount`] for 0 and what is too much.
    pub async fn top_up(&self, user_id: &str, amount: i64, author: &str, reason: &str) -> Result<i64, LedgerError> {
        if amount == 0 || amount.unsigned_abs() > LARGEST_AMOUNT.unsigned_abs() {
            return Err(LedgerError::Amount(amount));
        }
        let inner = &self.inner;
        inner.ensure(&Part::purse(user_id, 0)).await?;
        let posting = Posting {
            id: new_id("topup"),
            account: purse_id(user_id),
            amount,
            author: author.to_owned(),
            reason: reason.to_owned(),
            at: (inner.settings.clock)(),
            covered: inner.local.is_some(),
        };
        let posted = inner.background(Arc::clone(inner).post(posting));
        match tokio::time::timeout(PATIENCE, posted).await {
            Ok(Ok(Ok(Some(balance)))) => Ok(balance),
            Ok(Ok(Ok(None))) => {
                let Balance { balance, held } = self.balance(user_id).await?;
                let account = Account::Purse { user_id: user_id.to_owned() };
                Err(LedgerError::Short { account, missing: (held - balance - amount).max(1), resets_at: None })
            }
            Ok(Ok(Err(error))) => Err(error.into()),
            Ok(Err(_)) | Err(_) => Err(LedgerError::Late),
        }
    }

    /// What a user has. One who is seen for the first time has the default.
    pub async fn balance(&self, user_id: &str) -> Result<Balance, LedgerError> {
        let row = self.inner.account(&purse_id(user_id)).await?;
        if let Some(AccountRow { balance, held, .. }) = row {
            return Ok(Balance { balance, held });
        }
        self.inner.ensure(&Part::purse(user_id, 0)).await?;
        let row = self.inner.account(&purse_id(user_id)).await?;
        Ok(row.map_or(Balance { balance: 0, held: 0 }, |row| Balance { balance: row.balance, held: row.held }))
    }

    /// What users have, of so many of them at most.
    pub async fn balances(&self, most: usize) -> Result<Vec<(String, i64)>, LedgerError> {
        let rows = match &self.inner.local {
            Some(local) => local.purses(most),
            None => self.inner.store.purses(most).await?,
        };
        let user = |(id, balance): (String, i64)| Some((id.strip_prefix(PURSE)?.to_owned(), balance));
        Ok(rows.into_iter().filter_map(user).collect())
    }

    /// A user's transactions, newest first.
    pub async fn transactions(&self, user_id: &str, limit: u32, offset: u32) -> Result<Vec<Entry>, LedgerError> {
        let account = purse_id(user_id);
        Ok(self.inner.store.entries_of(&account, i64::from(limit), i64::from(offset)).await?)
    }

    /// Requests that ended in `from..to`, of one user or of all, added up by day (`2026-01-31`), model or key.
    pub async fn usage(
        &self,
        user_id: Option<&str>,
        from: Moment,
        to: Moment,
        by: GroupBy,
    ) -> Result<Vec<UsageRow>, LedgerError> {
        let mut rows = self.inner.store.usage(user_id, from, to, by, self.inner.settings.day_offset).await?;
        if by == GroupBy::Day {
            for row in &mut rows {
                row.group = date(row.group.parse().unwrap_or_default());
            }
        }
        Ok(rows)
    }

    /// Adds a budget, or changes the limit of the one of the same subject, period and unit, at once. Other replicas hear
    /// of a new one within a third of a lease.
    ///
    /// # Errors
    /// [`LedgerError::Amount`] for a limit below zero or beyond 10^15.
    pub async fn set_budget(&self, budget: Budget, author: &str) -> Result<(), LedgerError> {
        if !(0..=LARGEST_AMOUNT).contains(&budget.limit) {
            return Err(LedgerError::Amount(budget.limit));
        }
        let inner = Arc::clone(&self.inner);
        let author = author.to_owned();
        let task = self.inner.background(async move {
            let changing = inner.changing.lock().await;
            let now = (inner.settings.clock)();
            let (account, _) = budget_account(&budget, now, inner.settings.day_offset);
            let (id, limit) = (account.clone(), budget.limit);
            let set = Write::new((budget, account, author, now), |connection, (budget, account, author, now)| {
                Box::pin(budgets::set(connection, budget, account, author, *now))
            });
            inner.commit_apart(set, move |local, ()| local.set_credit(&id, limit)).await?;
            drop(changing);
            inner.read_budgets().await
        });
        task.await.unwrap_or(Err(LedgerError::Late))
    }

    /// Removes a budget by its id.
    ///
    /// # Errors
    /// When there is none.
    pub async fn remove_budget(&self, id: &str) -> Result<(), LedgerError> {
        let remove = Write::new(id.to_owned(), |connection, id| Box::pin(budgets::remove(connection, id)));
        if !self.inner.commit_apart(remove, |_, _| ()).await? {
            return Err(StoreError::NotFound(format!("budget {id}")).into());
        }
        self.inner.read_budgets().await
    }

    /// All budgets by subject, and what is used of them.
    pub async fn budgets(&self) -> Result<Vec<BudgetState>, LedgerError> {
        let (inner, now) = (&self.inner, (self.inner.settings.clock)());
        let mut states = Vec::new();
        for budget in inner.store.budgets().await? {
            let (id, resets_at) = budget_account(&budget, now, inner.settings.day_offset);
            let (used, held) = inner.account(&id).await?.map_or((0, 0), |row| (-row.balance, row.held));
            states.push(BudgetState { budget, used, held, resets_at });
        }
        Ok(states)
    }

    /// What is wrong with the ledger; an empty list is as it should be. Reads everything: slow on a large ledger.
    pub async fn check(&self) -> Result<Vec<String>, LedgerError> {
        let inner = &self.inner;
        let Some(local) = &inner.local else {
            return Ok(inner.store.snapshot(|connection| Box::pin(proof::findings(connection))).await?);
        };
        let different = Arc::new(Mutex::new(Vec::new()));
        let (seen, local) = (Arc::clone(&different), Arc::clone(local));
        let read = Write::new((), |connection, ()| {
            Box::pin(async move {
                let findings = proof::findings(connection).await?;
                Ok((findings, proof::all_accounts(connection).await?))
            })
        });
        // Here memory is as far as the database is, for both follow the order of the commits.
        let compare = move |found: &Result<(Vec<String>, Vec<AccountRow>), StoreError>| {
            if let Ok((_, rows)) = found {
                *seen.lock().unwrap_or_else(PoisonError::into_inner) = local.differences(rows);
            }
        };
        let found = inner.store.write(read, compare);
        let (mut findings, _) = found.await?;
        findings.append(&mut different.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(findings)
    }
}

impl Inner {
    /// Posts an amount and gives the balance; nothing when the purse cannot spend it.
    async fn post(self: Arc<Self>, posting: Posting) -> Result<Option<i64>, StoreError> {
        let reserved = [(posting.account.clone(), (-posting.amount).max(0))];
        if let Some(local) = &self.local
            && !matches!(local.take(&reserved), Taken::Done)
        {
            return Ok(None);
        }
        let posted = self.persist(&posting.id, || {
            let reserved = reserved.clone();
            let post = Write::new(posting.clone(), |connection, posting| Box::pin(accounts::post(connection, posting)));
            self.commit_apart(post, move |local, balance| {
                let balance = balance.map(|balance| (reserved[0].0.clone(), balance));
                local.settle(&reserved, balance.as_slice());
            })
        });
        let posted = posted.await;
        if let (Err(_), Some(local)) = (&posted, &self.local) {
            local.settle(&reserved, &[]);
        }
        posted
    }

    async fn account(&self, id: &str) -> Result<Option<AccountRow>, LedgerError> {
        match self.local.as_ref().and_then(|local| local.account(id)) {
            Some(row) => Ok(Some(row)),
            None => Ok(self.store.account(id).await?),
        }
    }

    /// The budgets that concern a request.
    pub(super) fn budgets_for(&self, new: &NewHold) -> Vec<Budget> {
        let budgets = self.budgets.read().unwrap_or_else(PoisonError::into_inner);
        if budgets.is_empty() {
            return Vec::new();
        }
        let subjects = [
            Some(Subject::User(new.user_id.clone())),
            new.key_id.clone().map(Subject::Key),
            new.department_id.clone().map(Subject::Department),
        ];
        subjects.into_iter().flatten().filter_map(|subject| budgets.get(&subject)).flatten().cloned().collect()
    }

    /// Learns of the budgets that there are.
    pub(super) async fn read_budgets(&self) -> Result<(), LedgerError> {
        let _apart = self.changing.lock().await;
        let mut by_subject = std::collections::HashMap::<Subject, Vec<Budget>>::new();
        for budget in self.store.budgets().await? {
            by_subject.entry(budget.subject.clone()).or_default().push(budget);
        }
        *self.budgets.write().unwrap_or_else(PoisonError::into_inner) = by_subject;
        Ok(())
    }
}
