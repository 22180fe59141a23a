//! Budgets: limits on what a subject may use in a period.

use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::{Connection, Moment, Period, Result, Store, Subject, Unit, known};

/// A limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    /// Whom it limits.
    pub subject: Subject,
    /// When it is full again.
    pub period: Period,
    /// What it counts.
    pub unit: Unit,
    /// In this unit; 0 lets nothing through.
    pub limit: i64,
}

impl Budget {
    /// The same for all budgets that differ in the limit only; there is one of them.
    pub fn id(&self) -> String {
        format!("{}/{}/{}", self.subject, self.period.as_str(), self.unit.as_str())
    }
}

/// Adds a budget or changes its limit, that of the account of the current period too.
pub async fn set(connection: &mut Connection, budget: &Budget, account: &str, author: &str, at: Moment) -> Result<()> {
    let statement = "INSERT INTO budgets (id, subject, period, unit, amount, author, updated_at) \
                     VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (id) DO UPDATE \
                     SET amount = excluded.amount, author = excluded.author, updated_at = excluded.updated_at";
    sqlx::query(statement)
        .bind(budget.id())
        .bind(budget.subject.to_string())
        .bind(budget.period.as_str())
        .bind(budget.unit.as_str())
        .bind(budget.limit)
        .bind(author)
        .bind(at)
        .execute(&mut *connection)
        .await?;
    let update = sqlx::query("UPDATE accounts SET credit = $2 WHERE id = $1").bind(account).bind(budget.limit);
    update.execute(connection).await?;
    Ok(())
}

/// Removes a budget; false when there was none. What was used stays in its accounts.
pub async fn remove(connection: &mut Connection, id: &str) -> Result<bool> {
    let removed = sqlx::query("DELETE FROM budgets WHERE id = $1").bind(id).execute(connection).await?;
    Ok(removed.rows_affected() > 0)
}

impl Store {
    /// All budgets by subject.
    pub async fn budgets(&self) -> Result<Vec<Budget>> {
        let statement = "SELECT subject, period, unit, amount FROM budgets ORDER BY id";
        sqlx::query(statement).fetch_all(&self.pool).await?.iter().map(budget).collect()
    }
}

fn budget(row: &AnyRow) -> Result<Budget> {
    Ok(Budget {
        subject: known(row.try_get("subject")?)?,
        period: known(row.try_get("period")?)?,
        unit: known(row.try_get("unit")?)?,
        limit: row.try_get("amount")?,
    })
}
