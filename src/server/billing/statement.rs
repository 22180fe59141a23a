//! What is asked of an account and what is told of it, as the API shows it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::amount;
use crate::ledger::{Entry, UsageRow};

/// Whose account.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Whose {
    /// Another user, for those who may act for others.
    pub user_id: Option<String>,
}

/// Whose transactions, and which of them.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Page {
    /// Another user, for those who may act for others.
    pub user_id: Option<String>,
    /// At most so many.
    #[param(minimum = 1, maximum = 1000, default = 50)]
    pub limit: Option<u32>,
    /// After so many newer ones.
    #[param(minimum = 0, default = 0)]
    pub offset: Option<u32>,
}

/// Whose usage, of what time, added up by what.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Span {
    /// Another user, for those who may act for others.
    pub user_id: Option<String>,
    /// The first day, `2026-01-31`; absent: thirty days ago.
    pub from: Option<String>,
    /// The day after the last one; absent: now.
    pub to: Option<String>,
    /// `day`, `model` or `key`; absent: by day.
    pub group_by: Option<String>,
}

/// What a user has.
#[derive(Debug, Serialize, ToSchema)]
pub struct BalanceAnswer {
    /// Whose.
    pub user_id: String,
    /// What there is.
    pub balance: f64,
    /// Of this, what is set aside for requests that run.
    pub held: f64,
    /// The currency.
    pub currency: String,
    /// Whether requests cost anything here.
    pub billing_enabled: bool,
}

/// A user's transactions.
#[derive(Debug, Serialize, ToSchema)]
pub struct TransactionsAnswer {
    /// Whose.
    pub user_id: String,
    /// Newest first.
    pub transactions: Vec<Transaction>,
    /// At most so many.
    pub limit: u32,
    /// After so many newer ones.
    pub offset: u32,
}

/// What came in or went out.
#[derive(Debug, Serialize, ToSchema)]
pub struct Transaction {
    /// A request's or a top-up's.
    pub id: String,
    /// Negative when it went out.
    pub amount: f64,
    /// The model that answered, or why somebody topped up.
    pub description: String,
    /// Who topped up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// Seconds since 1970.
    pub timestamp: i64,
}

impl From<Entry> for Transaction {
    fn from(entry: Entry) -> Self {
        Self {
            id: entry.id,
            amount: amount(entry.amount),
            description: entry.description,
            author: entry.author,
            timestamp: entry.created_at / 1000,
        }
    }
}

/// What a request would cost at most.
#[derive(Debug, Serialize, ToSchema)]
pub struct Estimate {
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Tokens of all answers at most.
    pub max_completion_tokens: u64,
    /// In the currency.
    pub max_cost: f64,
    /// The currency.
    pub currency: String,
}

/// What was used.
#[derive(Debug, Serialize, ToSchema)]
pub struct UsageAnswer {
    /// Whose.
    pub user_id: String,
    /// In the groups' order.
    pub usage: Vec<UsageGroup>,
    /// The currency.
    pub currency: String,
}

/// What a group of requests adds up to.
#[derive(Debug, Serialize, ToSchema)]
pub struct UsageGroup {
    /// The day, model or key; empty for requests without a key.
    pub group: String,
    /// How many.
    pub requests: i64,
    /// Tokens of the prompts.
    pub prompt_tokens: i64,
    /// Of these, tokens from a cache.
    pub cached_tokens: i64,
    /// Tokens of the answers.
    pub completion_tokens: i64,
    /// In the currency.
    pub cost: f64,
}

impl From<UsageRow> for UsageGroup {
    fn from(row: UsageRow) -> Self {
        Self {
            group: row.group,
            requests: row.requests,
            prompt_tokens: row.prompt_tokens,
            cached_tokens: row.cached_tokens,
            completion_tokens: row.completion_tokens,
            cost: amount(row.cost),
        }
    }
}
