//! Random operations beside a plain model of them, with restarts and crashes: after each the ledger answers as the model
//! does.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::Poll;

use super::*;
use crate::ledger::account::{budget_account, purse_id};
use crate::store::tests::fresh_postgres;

/// The time of a test, which it can put forward.
#[derive(Clone, Copy)]
struct Time {
    later: &'static AtomicI64,
    clock: fn() -> Moment,
}

const ALONE: Time = {
    static LATER: AtomicI64 = AtomicI64::new(0);
    Time { later: &LATER, clock: || now() + LATER.load(Ordering::Relaxed) }
};
const SHARED: Time = {
    static LATER: AtomicI64 = AtomicI64::new(0);
    Time { later: &LATER, clock: || now() + LATER.load(Ordering::Relaxed) }
};

/// Accounts and what is held of them.
type Parts = Vec<(String, i64)>;

#[derive(Default)]
struct Model {
    /// Balances of purses, and what was used of budgets, below zero.
    balances: BTreeMap<String, i64>,
    budgets: BTreeMap<String, Budget>,
    open: Vec<(Hold, NewHold, Parts)>,
    /// Cost of every request that was settled.
    costs: BTreeMap<String, i64>,
}

const USERS: [&str; 4] = ["ann", "bob", "eve", "joe"];
const DEFAULT: i64 = 3000;

impl Model {
    fn balance(&mut self, account: &str) -> &mut i64 {
        let opening = if account.starts_with("budget:") { 0 } else { DEFAULT };
        self.balances.entry(account.to_owned()).or_insert(opening)
    }

    fn held(&self, account: &str) -> i64 {
        let parts = self.open.iter().flat_map(|(_, _, parts)| parts);
        parts.filter(|(id, _)| id == account).map(|(_, amount)| amount).sum()
    }

    /// Accounts with amounts and with what they lack for them.
    fn parts(&mut self, new: &NewHold, now: Moment) -> Vec<(String, i64, i64)> {
        let cost = price(&new.model).largest_cost(new.max_prompt_tokens, new.max_completion_tokens);
        let tokens = (new.max_prompt_tokens + new.max_completion_tokens) as i64;
        let mut parts = vec![(purse_id(&new.user_id), cost, 0)];
        for budget in self.budgets.values() {
            let concerned = match &budget.subject {
                Subject::User(id) => *id == new.user_id,
                Subject::Key(id) => Some(id) == new.key_id.as_ref(),
                Subject::Department(id) => Some(id) == new.department_id.as_ref(),
            };
            if concerned {
                let amount = if budget.unit == Unit::Money { cost } else { tokens };
                parts.push((budget_account(budget, now, 0).0, amount, budget.limit));
            }
        }
        parts.retain(|part| part.1 > 0);
        for (account, amount, credit) in &mut parts {
            *credit = *amount - (*self.balance(account) + *credit - self.held(account));
        }
        parts
    }
}

fn price(model: &str) -> Price {
    if model == "free" { Price::default() } else { PRICE }
}

/// What a future gives, unless it is dropped after so many polls: whoever asked has left.
async fn polled<T>(future: impl Future<Output = T>, patience: usize) -> Option<T> {
    let mut future = std::pin::pin!(future);
    let mut left = patience;
    std::future::poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        if patience < usize::MAX {
            context.waker().wake_by_ref();
        }
        future.as_mut().poll(context).map(Some)
    })
    .await
}

struct World {
    time: Time,
    random: fastrand::Rng,
    model: Model,
    next_id: usize,
}

impl World {
    fn new(seed: u64, time: Time) -> Self {
        Self { time, random: fastrand::Rng::with_seed(seed), model: Model::default(), next_id: 0 }
    }

    async fn step(&mut self, ledger: &Ledger) {
        match self.random.u32(..100) {
            0..40 => self.hold(ledger).await,
            40..75 => self.settle(ledger).await,
            75..82 => self.void(ledger).await,
            82..92 => self.top_up(ledger).await,
            92..98 => self.set_budget(ledger).await,
            _ => {
                self.time.later.fetch_add(self.random.i64(0..40_000_000), Ordering::Relaxed);
            }
        }
    }

    async fn hold(&mut self, ledger: &Ledger) {
        let random = &mut self.random;
        self.next_id += 1;
        let mut some = |id: &str| random.bool().then(|| id.to_owned());
        let (key_id, department_id) = (some("k"), some("d"));
        let new = NewHold {
            request_id: format!("r{}", self.next_id),
            user_id: USERS[random.usize(..USERS.len())].to_owned(),
            key_id,
            department_id,
            model: ["m", "free"][random.usize(..2)].to_owned(),
            max_prompt_tokens: random.u64(..200),
            max_completion_tokens: random.u64(..200),
        };
        let parts = self.model.parts(&new, (self.time.clock)());
        let patience = if self.random.u8(..6) == 0 { self.random.usize(..6) } else { usize::MAX };
        let Some(result) = polled(ledger.hold(new.clone()), patience).await else {
            return ledger.quiet().await;
        };
        if parts.iter().all(|(_, _, missing)| *missing <= 0) {
            let parts = parts.into_iter().map(|(account, amount, _)| (account, amount)).collect();
            self.model.open.push((result.unwrap(), new, parts));
        } else {
            let (account, missing) = short(result);
            let id = match &account {
                Account::Purse { user_id } => purse_id(user_id),
                Account::Budget(budget) => budget_account(budget, (self.time.clock)(), 0).0,
            };
            assert!(parts.iter().any(|part| part.0 == id && part.2 == missing), "{account:?} {missing} {parts:?}");
        }
    }

    async fn settle(&mut self, ledger: &Ledger) {
        if self.model.open.is_empty() {
            return;
        }
        let index = self.random.usize(..self.model.open.len());
        let (hold, new, parts) = self.model.open.swap_remove(index);
        // Now and then more than was said.
        let excess = u64::from(self.random.u8(..10) == 0) * 50;
        let prompt_tokens = self.random.u64(..=new.max_prompt_tokens + excess);
        let used =
            usage(prompt_tokens, self.random.u64(..=prompt_tokens), self.random.u64(..=new.max_completion_tokens));
        let cost = price(&new.model).cost(used);
        for (account, amount) in &parts {
            let used = if account.contains("/tokens/") { used.tokens() } else { cost };
            let charge = used.min(*amount);
            *self.model.balance(account) -= charge;
            if *account == purse_id(&new.user_id) {
                self.model.costs.insert(new.request_id.clone(), charge);
            }
        }
        self.model.costs.entry(new.request_id.clone()).or_insert(0);
        let settling = hold.settle(used, Outcome::Completed, "{}".to_owned());
        let patience = if self.random.u8(..4) == 0 { self.random.usize(1..4) } else { usize::MAX };
        match polled(settling, patience).await {
            Some(cost) => assert_eq!(cost.unwrap(), self.model.costs[&new.request_id]),
            None => ledger.quiet().await,
        }
    }

    async fn void(&mut self, ledger: &Ledger) {
        if !self.model.open.is_empty() {
            let index = self.random.usize(..self.model.open.len());
            drop(self.model.open.swap_remove(index));
            ledger.quiet().await;
        }
    }

    async fn top_up(&mut self, ledger: &Ledger) {
        let user = USERS[self.random.usize(..USERS.len())];
        let amount = self.random.i64(-2000..2500);
        let account = purse_id(user);
        let free = *self.model.balance(&account) - self.model.held(&account);
        let result = ledger.top_up(user, amount, "root", "why not").await;
        if amount == 0 {
            assert!(matches!(result, Err(LedgerError::Amount(0))));
        } else if free + amount < 0 {
            assert_eq!(short(result).1, -(free + amount));
        } else {
            *self.model.balance(&account) += amount;
            assert_eq!(result.unwrap(), *self.model.balance(&account));
        }
    }

    async fn set_budget(&mut self, ledger: &Ledger) {
        let random = &mut self.random;
        let subjects = [Subject::User("ann".into()), Subject::Key("k".into()), Subject::Department("d".into())];
        let budget = Budget {
            subject: subjects[random.usize(..3)].clone(),
            period: [Period::Day, Period::Month, Period::Total][random.usize(..3)],
            unit: [Unit::Money, Unit::Tokens][random.usize(..2)],
            limit: random.i64(0..20_000),
        };
        if random.bool() {
            ledger.set_budget(budget.clone(), "root").await.unwrap();
            self.model.budgets.insert(budget.id(), budget);
        } else {
            let removed = ledger.remove_budget(&budget.id()).await;
            assert_eq!(removed.is_ok(), self.model.budgets.remove(&budget.id()).is_some());
        }
    }

    async fn compare(&mut self, ledger: &Ledger) {
        ledger.assert_sound().await;
        for user in USERS {
            let id = purse_id(user);
            let expected = Balance { balance: *self.model.balance(&id), held: self.model.held(&id) };
            assert_eq!(ledger.balance(user).await.unwrap(), expected, "{user}");
        }
        let states = ledger.budgets().await.unwrap();
        assert_eq!(states.len(), self.model.budgets.len());
        for state in states {
            let (id, _) = budget_account(&state.budget, (self.time.clock)(), 0);
            assert_eq!(self.model.budgets[&state.budget.id()], state.budget);
            assert_eq!((state.used, state.held), (-*self.model.balance(&id), self.model.held(&id)), "{id}");
        }
    }

    /// Every charge that the model knows, and no other.
    async fn compare_costs(&self, ledger: &Ledger) {
        let rows = ledger.usage(None, 0, i64::MAX, GroupBy::Model).await.unwrap();
        assert_eq!(rows.iter().map(|row| row.requests).sum::<i64>(), self.model.costs.len() as i64);
        for (id, cost) in &self.model.costs {
            let row = ledger.inner.store.finished_request(id).await.unwrap().unwrap();
            assert_eq!(row.cost, *cost, "{id}");
        }
    }
}

fn model_settings(time: Time) -> LedgerSettings {
    LedgerSettings { default_balance: DEFAULT, clock: time.clock, ..settings() }
}

/// One run of the program on the file. A run that crashes leaves its holds behind.
fn run(world: &mut World, file: &Path, steps: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let crashes = world.random.bool();
    runtime.block_on(async {
        let store = Store::sqlite(file).await.unwrap();
        let ledger = Ledger::open(store.clone(), model_settings(world.time)).await.unwrap();
        world.compare(&ledger).await;
        for step in 1..=steps {
            world.step(&ledger).await;
            if step % 40 == 0 {
                world.compare(&ledger).await;
            }
        }
        if !crashes {
            world.model.open.clear();
            ledger.close().await;
            world.compare(&ledger).await;
            world.compare_costs(&ledger).await;
            store.close().await;
        }
    });
    drop(runtime);
    world.model.open.clear();
}

fn random_runs(seed: u64, runs: usize, steps: usize) {
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::new(seed, ALONE);
    for _ in 0..runs {
        run(&mut world, &folder.path().join("steppe.db"), steps);
    }
    assert!(world.model.costs.len() > runs * steps / 8, "{} of them settled", world.model.costs.len());
}

#[test]
fn the_ledger_does_as_the_model_does() {
    for seed in 0..3 {
        random_runs(seed, 8, 150);
    }
}

#[test]
#[ignore = "takes minutes; scripts/test --long"]
fn the_ledger_does_as_the_model_does_for_long() {
    for seed in 100..120 {
        random_runs(seed, 15, 200);
    }
}

#[tokio::test]
async fn the_shared_ledger_does_as_the_model_does() {
    let Some(url) = fresh_postgres().await else { return };
    let mut replicas = Vec::new();
    for _ in 0..2 {
        replicas.push(Ledger::open(Store::postgres(&url).await.unwrap(), model_settings(SHARED)).await.unwrap());
    }
    let mut world = World::new(7, SHARED);
    for step in 0..400 {
        let ledger = &replicas[step % 2];
        world.step(ledger).await;
        for replica in &replicas {
            replica.quiet().await;
            replica.inner.read_budgets().await.unwrap();
        }
        if step % 50 == 0 {
            world.compare(ledger).await;
        }
    }
    world.compare(&replicas[0]).await;
    world.compare_costs(&replicas[1]).await;
}
