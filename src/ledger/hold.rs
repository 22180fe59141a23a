//! A hold: what a running request may cost at the most, set aside. It ends once: settled, or voided by being dropped.
//! Either outlives its caller and is tried until the database has it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::local::Taken;
use super::part::{Part, accounts, amounts};
use super::{Account, Inner, LedgerError, NewHold, Unit, Usage};
use crate::store::ledger::accounts::{SPENT, budgets_counter};
use crate::store::ledger::holds::{self, HoldRow};
use crate::store::ledger::settlement::{self, Charge, Settled, Settlement};
use crate::store::ledger::{FinishedRequest, accounts as rows};
use crate::store::{Moment, StoreError, Write};

/// A caller waits so long for a settlement; it goes on without them.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// Accounts that come and go between two looks at them are looked at again so often.
const ATTEMPTS: usize = 16;

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It came to its end.
    Completed,
    /// Whoever asked has gone, or its time was over.
    Cancelled,
    /// Something broke.
    Failed,
}

impl Outcome {
    /// The word for it, in the database and in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
        }
    }
}

/// What a request may cost at the most, set aside. Dropping it voids it.
#[derive(Debug)]
#[must_use = "a hold that is dropped is void"]
pub struct Hold {
    inner: Arc<Inner>,
    new: NewHold,
    /// By account. Empty when nothing is held any more.
    parts: Vec<Part>,
    started_at: Moment,
    /// It need not be written down any more.
    ended: Arc<AtomicBool>,
}

impl Inner {
    /// See [`super::Ledger::hold`].
    pub(super) async fn hold(self: Arc<Self>, new: NewHold) -> Result<Hold, LedgerError> {
        let started_at = (self.settings.clock)();
        let parts = self.parts(&new, started_at);
        if !self.open_requests().insert(new.request_id.clone()) {
            return Err(LedgerError::Duplicate(new.request_id));
        }
        let mut hold = Hold { inner: Arc::clone(&self), new, parts: Vec::new(), started_at, ended: Arc::default() };
        if self.local.is_some() || parts.is_empty() {
            hold.take(parts).await?;
            return Ok(hold);
        }
        // In a task of its own, so that a caller who leaves while the database commits leaves no hold behind.
        let task = self.background(async move {
            hold.take(parts).await?;
            Ok(hold)
        });
        task.await.unwrap_or(Err(LedgerError::Late))
    }

    async fn try_take(&self, row: &HoldRow) -> Result<Taken, LedgerError> {
        if let Some(local) = &self.local {
            return Ok(local.take(&row.amounts));
        }
        let take = Write::new(row.clone(), |connection, row| Box::pin(holds::take(connection, row, false)));
        let index = match self.store.write(take.locking(accounts(&row.amounts)), |_| ()).await {
            Ok(None) => return Ok(Taken::Done),
            Ok(Some(index)) => index,
            Err(error) if error.is_duplicate() => return Err(LedgerError::Duplicate(row.request_id.clone())),
            Err(error) => return Err(error.into()),
        };
        let (id, amount) = &row.amounts[index];
        let Some(account) = self.store.account(id).await? else { return Ok(Taken::Missing(index)) };
        match amount.saturating_sub(account.balance + account.credit - account.held) {
            missing @ 1.. => Ok(Taken::Short { index, missing }),
            // Others have made the account meanwhile, or given back what was short.
            _ => Ok(Taken::Changed),
        }
    }

    /// Makes a part's account if there is none; false when its budget is gone.
    pub(super) async fn ensure(&self, part: &Part) -> Result<bool, LedgerError> {
        let Part { id, account, ends_at, .. } = part.clone();
        let (opening, now) = (self.settings.default_balance, (self.settings.clock)());
        let ensure =
            Write::new((id, account, ends_at, opening, now), |connection, (id, account, ends_at, opening, now)| {
                Box::pin(async move {
                    match account {
                        Account::Purse { .. } => rows::purse(connection, id, *opening, *now).await,
                        Account::Budget(budget) => rows::budget(connection, id, &budget.id(), *ends_at).await,
                    }
                })
            });
        let ensured = self.commit_apart(ensure, move |local, row| {
            if let Some(row) = row {
                local.add(row.clone(), now);
            }
        });
        Ok(ensured.await?.is_some())
    }
}

impl Hold {
    /// Whose request it is for.
    pub fn request_id(&self) -> &str {
        &self.new.request_id
    }

    /// Takes the parts, which are the hold's from then on.
    async fn take(&mut self, mut parts: Vec<Part>) -> Result<(), LedgerError> {
        for _ in 0..ATTEMPTS {
            if parts.is_empty() {
                return Ok(());
            }
            let row = HoldRow {
                request_id: self.new.request_id.clone(),
                owner: self.inner.owner.clone(),
                amounts: amounts(&parts),
            };
            match self.inner.try_take(&row).await? {
                Taken::Done => {
                    self.parts = parts;
                    return self.journal(row).await;
                }
                Taken::Changed => {}
                Taken::Missing(index) => {
                    if !self.inner.ensure(&parts[index]).await? {
                        parts.remove(index);
                    }
                }
                Taken::Short { index, missing } => {
                    let Part { account, ends_at, .. } = parts.swap_remove(index);
                    return Err(LedgerError::Short { account, missing, resets_at: ends_at });
                }
            }
        }
        Err(LedgerError::Late)
    }

    /// Has what memory holds written down, unless the hold ends before. Nobody waits for it while the database is well.
    async fn journal(&self, row: HoldRow) -> Result<(), LedgerError> {
        let Some(local) = &self.inner.local else { return Ok(()) };
        let noted = Arc::clone(local);
        let write = Write::new((row, Arc::clone(&self.ended)), |connection, (row, ended)| {
            Box::pin(async move {
                let open = !ended.load(Ordering::Relaxed);
                if open {
                    holds::take(connection, row, true).await?;
                }
                Ok(open)
            })
        });
        let note = move |written: &Result<bool, StoreError>| {
            // What needed no writing says nothing of the database.
            if !matches!(written, Ok(false)) {
                noted.wrote(written.is_ok());
            }
        };
        let written = self.inner.store.write(write.soon(), note);
        if local.is_sick() {
            written.await?;
        }
        Ok(())
    }

    /// Ends the hold by what the request used, and gives what it costs. When this returns, it is on the disk; when the
    /// caller leaves before, it is settled all the same.
    ///
    /// # Errors
    /// When the database refuses or does not answer in time; in the second case it is tried further.
    pub async fn settle(self, usage: Usage, outcome: Outcome, details: String) -> Result<i64, LedgerError> {
        let inner = Arc::clone(&self.inner);
        let task = inner.background(self.settle_to_the_end(usage, outcome, details));
        match tokio::time::timeout(PATIENCE, task).await {
            Ok(Ok(settled)) => settled,
            Ok(Err(_)) | Err(_) => Err(LedgerError::Late),
        }
    }

    async fn settle_to_the_end(mut self, usage: Usage, outcome: Outcome, details: String) -> Result<i64, LedgerError> {
        self.ended.store(true, Ordering::Relaxed);
        let settlement = Arc::new(self.settlement(usage, outcome, details));
        let held: Arc<[_]> = amounts(&self.parts).into();
        let inner = Arc::clone(&self.inner);
        let settled = inner.persist(self.request_id(), || {
            let settle = Write::new(Arc::clone(&settlement), |connection, settlement| {
                Box::pin(settlement::settle(connection, settlement))
            });
            let (locked, held) = (accounts(&held), Arc::clone(&held));
            inner.commit(settle.locking(locked), move |local, Settled { balances, .. }| local.settle(&held, balances))
        });
        let Settled { cost, waived, .. } = settled.await?;
        self.parts.clear();
        if waived {
            tracing::error!(
                request_id = self.request_id(),
                cost = settlement.request.cost,
                "a cost is waived: the hold \
                had been voided while this process was away, and the balance is used up"
            );
        }
        Ok(cost)
    }

    fn settlement(&self, usage: Usage, outcome: Outcome, details: String) -> Settlement {
        let Inner { settings, local, .. } = &*self.inner;
        let cost = self.inner.price(&self.new.model).cost(usage);
        let charge = |part: &Part| {
            let used = if part.account.unit() == Unit::Money { cost } else { usage.tokens() };
            if used > part.amount {
                let (request_id, held) = (self.request_id(), part.amount);
                tracing::error!(request_id, used, held, "a request used more than it had said it would");
            }
            let counter = match &part.account {
                Account::Purse { .. } => SPENT,
                Account::Budget(budget) => budgets_counter(budget.unit),
            };
            Charge { account: part.id.clone(), counter, amount: used.min(part.amount) }
        };
        let charges: Vec<Charge> = self.parts.iter().map(charge).collect();
        let cost = charges.iter().find(|charge| charge.counter == SPENT).map_or(0, |charge| charge.amount);
        let count = |tokens: u64| i64::try_from(tokens).unwrap_or(i64::MAX);
        let request = FinishedRequest {
            id: self.new.request_id.clone(),
            user_id: self.new.user_id.clone(),
            key_id: self.new.key_id.clone(),
            department_id: self.new.department_id.clone(),
            model: self.new.model.clone(),
            prompt_tokens: count(usage.prompt_tokens),
            cached_tokens: count(usage.cached_tokens),
            completion_tokens: count(usage.completion_tokens),
            cost,
            outcome: outcome.as_str().to_owned(),
            started_at: self.started_at,
            finished_at: (settings.clock)(),
            details,
        };
        Settlement { request, charges, covered: local.is_some() }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let (inner, request_id) = (Arc::clone(&self.inner), self.new.request_id.clone());
        if self.parts.is_empty() {
            inner.open_requests().remove(&request_id);
            return;
        }
        self.ended.store(true, Ordering::Relaxed);
        let held: Arc<[_]> = amounts(&self.parts).into();
        let void = async move {
            let voided = inner.persist(&request_id, || {
                let void = Write::new(request_id.clone(), |connection, id| Box::pin(holds::void(connection, id)));
                let (locked, held) = (accounts(&held), Arc::clone(&held));
                inner.commit(void.locking(locked), move |local, ()| local.settle(&held, &[]))
            });
            if let Err(error) = voided.await {
                tracing::error!(request_id, %error, "a hold could not be voided");
            }
            inner.open_requests().remove(&request_id);
        };
        self.inner.background(void);
    }
}
