//! Entries of purses: what a user sees as transactions, and what an administrator exports.

use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::accounts::{ISSUED, SPENT};
use super::{Moment, Result, Store};

/// What came into a purse or left it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// A request's id, or a top-up's.
    pub id: String,
    /// The purse, `user:<id>`.
    pub account: String,
    /// 10^-6 of the currency; negative when it left.
    pub amount: i64,
    /// Who topped up.
    pub author: Option<String>,
    /// A top-up's reason, or the model that answered.
    pub description: String,
    /// When.
    pub created_at: Moment,
}

/// Where an export goes on: after the last entry that was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cursor {
    created_at: Moment,
    id: String,
    account: String,
}

impl Entry {
    /// Where an export goes on after this entry.
    pub fn cursor(&self) -> Cursor {
        Cursor { created_at: self.created_at, id: self.id.clone(), account: self.account.clone() }
    }
}

const COLUMNS: &str = "transaction_id, account_id, amount, author, description, created_at";

impl Store {
    /// An account's entries, newest first.
    pub async fn entries_of(&self, account: &str, limit: i64, offset: i64) -> Result<Vec<Entry>> {
        let statement = sqlx::AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM entries WHERE account_id = $1 ORDER BY created_at DESC, transaction_id DESC \
             LIMIT $2 OFFSET $3"
        ));
        let query = sqlx::query(statement).bind(account).bind(limit).bind(offset);
        query.fetch_all(&self.pool).await?.iter().map(entry).collect()
    }

    /// The next entries of all purses after the cursor, oldest first; the default cursor is before all.
    pub async fn purse_entries_after(&self, cursor: &Cursor, limit: i64) -> Result<Vec<Entry>> {
        let statement = sqlx::AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM entries WHERE (created_at, transaction_id, account_id) > ($1, $2, $3) \
             AND counter_account IN ('{ISSUED}', '{SPENT}') \
             ORDER BY created_at, transaction_id, account_id LIMIT $4"
        ));
        let query = sqlx::query(statement).bind(cursor.created_at).bind(&cursor.id).bind(&cursor.account).bind(limit);
        query.fetch_all(&self.pool).await?.iter().map(entry).collect()
    }
}

fn entry(row: &AnyRow) -> Result<Entry> {
    Ok(Entry {
        id: row.try_get("transaction_id")?,
        account: row.try_get("account_id")?,
        amount: row.try_get("amount")?,
        author: row.try_get("author")?,
        description: row.try_get("description")?,
        created_at: row.try_get("created_at")?,
    })
}
