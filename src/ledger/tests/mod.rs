//! The ledger's rules, on SQLite and, where `TEST_POSTGRES_URL` names a server that may be written to, on PostgreSQL.
#![expect(clippy::unwrap_used, reason = "tests")]

mod crash;
mod model;
mod replicas;
mod rules;
mod trouble;

use super::*;
use crate::store::tests::stores;

/// One token of prompt costs 2, from the cache 1, of the answer 3.
const PRICE: Price = Price { input: 2000, cached_input: 1000, output: 3000, hit: 0 };

fn settings() -> LedgerSettings {
    LedgerSettings {
        billing: true,
        default_balance: 1000,
        default_price: PRICE,
        prices: [("free".to_owned(), Price::default())].into(),
        ..LedgerSettings::default()
    }
}

/// Costs 500 at the most.
fn request(id: &str) -> NewHold {
    NewHold {
        request_id: id.to_owned(),
        user_id: "ann".to_owned(),
        key_id: None,
        department_id: None,
        model: "m".to_owned(),
        max_prompt_tokens: 100,
        max_completion_tokens: 100,
    }
}

fn usage(prompt_tokens: u64, cached_tokens: u64, completion_tokens: u64) -> Usage {
    Usage { prompt_tokens, cached_tokens, completion_tokens, from_cache: false }
}

fn daily(subject: Subject, limit: i64) -> Budget {
    Budget { subject, period: Period::Day, unit: Unit::Tokens, limit }
}

impl Ledger {
    /// Waits for what goes on in the background.
    async fn quiet(&self) {
        drop(self.inner.tasks.write().await);
    }

    async fn end(&self, hold: Hold, usage: Usage) -> i64 {
        hold.settle(usage, Outcome::Completed, "{}".to_owned()).await.unwrap()
    }

    /// Nothing runs, and all is well.
    async fn assert_sound(&self) {
        self.quiet().await;
        assert_eq!(self.check().await.unwrap(), Vec::<String>::new());
    }
}

fn short<T>(result: Result<T, LedgerError>) -> (Account, i64) {
    match result {
        Err(LedgerError::Short { account, missing, .. }) => (account, missing),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it is not short"),
    }
}
