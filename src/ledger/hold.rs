//! A hold: what a running request may cost at the most, set aside. It ends once: settled, or voided by being dropped.
//! Either outlives its caller and is tried until the database has it.

use std::sync::Arc;
use std::time::Duration;

use super::account::{budget_account, purse_id};
use super::local::Taken;
use super::{Account, Inner, LedgerError, NewHold, Unit, Usage};
use crate::store::ledger::accounts::{SPENT, budgets_counter};
use crate::store::ledger::holds::{self, HoldRow};
use crate::store::ledger::settlement::{self, Charge, Settled, Settlement};
use crate::store::ledger::{FinishedRequest, accounts};
use crate::store::{Moment, StoreError};

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

/// A part of a hold: one account.
#[derive(Debug, Clone)]
pub(super) struct Part {
    id: String,
    account: Account,
    ends_at: Option<Moment>,
    amount: i64,
}

impl Part {
    pub(super) fn purse(user_id: &str, amount: i64) -> Self {
        let account = Account::Purse { user_id: user_id.to_owned() };
        Self { id: purse_id(user_id), account, ends_at: None, amount }
    }
}

/// Why a transaction is undone that was to hold.
enum Undone {
    Short(usize),
    Store(StoreError),
}

impl From<StoreError> for Undone {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
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
}

impl Inner {
    /// The accounts that a request concerns, with the most that it may take of each, by account.
    fn parts(&self, new: &NewHold, now: Moment) -> Vec<Part> {
        let cost = self.price(&new.model).largest_cost(new.max_prompt_tokens, new.max_completion_tokens);
        let largest = Usage {
            prompt_tokens: new.max_prompt_tokens,
            completion_tokens: new.max_completion_tokens,
            ..Usage::default()
        };
        let of_unit = |unit| if unit == Unit::Money { cost } else { largest.tokens() };
        let budgets = self.budgets_for(new).into_iter().map(|budget| {
            let (id, ends_at) = budget_account(&budget, now, self.settings.day_offset);
            Part { id, ends_at, amount: of_unit(budget.unit), account: Account::Budget(budget) }
        });
        let mut parts: Vec<Part> = budgets.chain([Part::purse(&new.user_id, cost)]).collect();
        parts.retain(|part| part.amount > 0);
        parts.sort_by(|a, b| a.id.cmp(&b.id));
        parts
    }

    /// See [`super::Ledger::hold`].
    pub(super) async fn hold(self: Arc<Self>, new: NewHold) -> Result<Hold, LedgerError> {
        let started_at = (self.settings.clock)();
        let parts = self.parts(&new, started_at);
        if !self.open_requests().insert(new.request_id.clone()) {
            return Err(LedgerError::Duplicate(new.request_id));
        }
        let mut hold = Hold { inner: Arc::clone(&self), new, parts: Vec::new(), started_at };
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
        let wanted = row.clone();
        let taken = self.store.transact(|connection| {
            Box::pin(
                async move { holds::take(connection, &wanted, false).await?.map_or(Ok(()), |i| Err(Undone::Short(i))) },
            )
        });
        let index = match taken.await {
            Ok(()) => return Ok(Taken::Done),
            Err(Undone::Store(error)) if error.is_duplicate() => {
                return Err(LedgerError::Duplicate(row.request_id.clone()));
            }
            Err(Undone::Store(error)) => return Err(error.into()),
            Err(Undone::Short(index)) => index,
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
        let ensured = self.commit(
            move |connection| {
                Box::pin(async move {
                    match account {
                        Account::Purse { .. } => accounts::purse(connection, &id, opening, now).await,
                        Account::Budget(budget) => accounts::budget(connection, &id, &budget.id(), ends_at).await,
                    }
                })
            },
            move |local, row| {
                if let Some(row) = row {
                    local.add(row.clone(), now);
                }
            },
        );
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

    /// Has what memory holds written down. Nobody waits for it while the database is well.
    async fn journal(&self, row: HoldRow) -> Result<(), LedgerError> {
        let Some(local) = &self.inner.local else { return Ok(()) };
        let noted = Arc::clone(local);
        let written = self.inner.store.write(
            move |connection| Box::pin(async move { holds::take(connection, &row, true).await.map(drop) }),
            move |result| noted.wrote(result.is_ok()),
        );
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
        let settlement = Arc::new(self.settlement(usage, outcome, details));
        let held: Arc<[_]> = amounts(&self.parts).into();
        let inner = Arc::clone(&self.inner);
        let settled = inner.persist(self.request_id(), || {
            let (settlement, held) = (Arc::clone(&settlement), Arc::clone(&held));
            inner.commit(
                move |connection| Box::pin(async move { settlement::settle(connection, &settlement).await }),
                move |local, Settled { balances, .. }| local.settle(&held, balances),
            )
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
        let held: Arc<[_]> = amounts(&self.parts).into();
        let void = async move {
            let voided = inner.persist(&request_id, || {
                let (request_id, held) = (request_id.clone(), Arc::clone(&held));
                inner.commit(
                    move |connection| Box::pin(async move { holds::void(connection, &request_id).await }),
                    move |local, ()| local.settle(&held, &[]),
                )
            });
            if let Err(error) = voided.await {
                tracing::error!(request_id, %error, "a hold could not be voided");
            }
            inner.open_requests().remove(&request_id);
        };
        self.inner.background(void);
    }
}

fn amounts(parts: &[Part]) -> Vec<(String, i64)> {
    parts.iter().map(|part| (part.id.clone(), part.amount)).collect()
}
