//! What the ledger stores: accounts, holds, entries, budgets and a row for every finished request. Functions that take a
//! [`Connection`] are parts of a transaction. Both databases run the same statements, leases apart. Must not know prices.

pub mod accounts;
pub mod budgets;
mod entries;
pub mod holds;
pub mod leases;
pub mod proof;
mod requests;
pub mod settlement;

use std::str::FromStr;

pub use accounts::AccountRow;
pub use budgets::Budget;
pub use entries::{Cursor, Entry};
pub use requests::{FinishedRequest, GroupBy, UsageRow};

use super::{Connection, Moment, Result, Store, StoreError};

/// What an account counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Unit {
    /// 10^-6 of the currency.
    Money,
    /// Tokens of prompts and answers.
    Tokens,
}

/// How long a budget lasts before it is full again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Period {
    /// A calendar day.
    Day,
    /// A calendar month.
    Month,
    /// For ever.
    Total,
}

/// Whom a budget limits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// A user, by id.
    User(String),
    /// An API key, by id.
    Key(String),
    /// A department, by id.
    Department(String),
}

impl Unit {
    /// The word for it, in the database and in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Money => "money",
            Self::Tokens => "tokens",
        }
    }
}

impl Period {
    /// The word for it, in the database and in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Month => "month",
            Self::Total => "total",
        }
    }
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::User(id) => write!(f, "user:{id}"),
            Self::Key(id) => write!(f, "key:{id}"),
            Self::Department(id) => write!(f, "department:{id}"),
        }
    }
}

impl FromStr for Unit {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        [Self::Money, Self::Tokens]
            .into_iter()
            .find(|unit| unit.as_str() == text)
            .ok_or_else(|| format!("`{text}` is no unit; money and tokens are"))
    }
}

impl FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        [Self::Day, Self::Month, Self::Total]
            .into_iter()
            .find(|period| period.as_str() == text)
            .ok_or_else(|| format!("`{text}` is no period; day, month and total are"))
    }
}

impl FromStr for Subject {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text.split_once(':') {
            Some(("user", id)) => Ok(Self::User(id.to_owned())),
            Some(("key", id)) => Ok(Self::Key(id.to_owned())),
            Some(("department", id)) => Ok(Self::Department(id.to_owned())),
            _ => Err(format!("`{text}` is no subject; user:<id>, key:<id> and department:<id> are")),
        }
    }
}

/// A word that is read back.
fn known<T: FromStr<Err = String>>(text: &str) -> Result<T> {
    text.parse().map_err(|_| StoreError::Foreign(format!("the word `{text}`")))
}
