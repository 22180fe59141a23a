//! A row for every finished request, whatever it cost, and what they add up to.

use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::{Connection, Moment, Result, Store};

/// A request that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FinishedRequest {
    /// Made by the server.
    pub id: String,
    /// Who asked.
    pub user_id: String,
    /// With what API key, if with one.
    pub key_id: Option<String>,
    /// For what department, if for one.
    pub department_id: Option<String>,
    /// Which model answered.
    pub model: String,
    /// Tokens of the prompt.
    pub prompt_tokens: i64,
    /// Those of them whose keys and values were in the prefix cache.
    pub cached_tokens: i64,
    /// Tokens of the answer.
    pub completion_tokens: i64,
    /// 10^-6 of the currency.
    pub cost: i64,
    /// How it ended.
    pub outcome: String,
    /// When its hold was taken.
    pub started_at: Moment,
    /// When it was settled.
    pub finished_at: Moment,
    /// JSON.
    pub details: String,
}

/// What requests are added up by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupBy {
    /// Calendar day, `2026-01-31`.
    Day,
    /// Model.
    Model,
    /// API key; empty for requests without one.
    Key,
}

/// What the requests of a group add up to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageRow {
    /// The day (a number since 1970 here), model or key.
    pub group: String,
    /// How many.
    pub requests: i64,
    /// Tokens of the prompts.
    pub prompt_tokens: i64,
    /// Those of them that were in the prefix cache.
    pub cached_tokens: i64,
    /// Tokens of the answers.
    pub completion_tokens: i64,
    /// 10^-6 of the currency.
    pub cost: i64,
}

const COLUMNS: &str = "id, user_id, key_id, department_id, model, prompt_tokens, cached_tokens, completion_tokens, cost, \
                       outcome, started_at, finished_at, details";
const DAY: i64 = 86_400_000;

/// Adds a row; false when there is one of this id.
pub(super) async fn insert(connection: &mut Connection, request: &FinishedRequest) -> Result<bool> {
    let values = "$1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13";
    let statement =
        sqlx::AssertSqlSafe(format!("INSERT INTO requests ({COLUMNS}) VALUES ({values}) ON CONFLICT (id) DO NOTHING"));
    let inserted = sqlx::query(statement)
        .bind(&request.id)
        .bind(&request.user_id)
        .bind(&request.key_id)
        .bind(&request.department_id)
        .bind(&request.model)
        .bind(request.prompt_tokens)
        .bind(request.cached_tokens)
        .bind(request.completion_tokens)
        .bind(request.cost)
        .bind(&request.outcome)
        .bind(request.started_at)
        .bind(request.finished_at)
        .bind(&request.details)
        .execute(connection)
        .await?;
    Ok(inserted.rows_affected() > 0)
}

/// What a request has cost.
pub(super) async fn cost(connection: &mut Connection, id: &str) -> Result<i64> {
    let row = sqlx::query("SELECT cost FROM requests WHERE id = $1").bind(id).fetch_one(connection).await?;
    Ok(row.try_get("cost")?)
}

/// Lets a request cost nothing.
pub(super) async fn waive(connection: &mut Connection, id: &str) -> Result<()> {
    sqlx::query("UPDATE requests SET cost = 0 WHERE id = $1").bind(id).execute(connection).await?;
    Ok(())
}

impl Store {
    /// The finished request of this id.
    pub async fn finished_request(&self, id: &str) -> Result<Option<FinishedRequest>> {
        let statement = || sqlx::AssertSqlSafe(format!("SELECT {COLUMNS} FROM requests WHERE id = $1"));
        self.row(|| sqlx::query(statement()).bind(id)).await?.as_ref().map(request).transpose()
    }

    /// Requests that ended in `from..to`, of one user or of all, added up by group, in the groups' order. Days begin
    /// `offset` milliseconds before UTC's.
    pub async fn usage(
        &self,
        user_id: Option<&str>,
        from: Moment,
        to: Moment,
        by: GroupBy,
        offset: i64,
    ) -> Result<Vec<UsageRow>> {
        let group = match by {
            GroupBy::Day => format!("CAST((finished_at + {offset}) / {DAY} AS TEXT)"),
            GroupBy::Model => "model".to_owned(),
            GroupBy::Key => "COALESCE(key_id, '')".to_owned(),
        };
        let sum = |column| format!("CAST(SUM({column}) AS BIGINT) AS {column}");
        let statement = format!(
            "SELECT {group} AS name, COUNT(*) AS requests, {}, {}, {}, {} FROM requests \
             WHERE finished_at >= $1 AND finished_at < $2 AND (user_id = $3 OR $4 = 1) GROUP BY 1 ORDER BY 1",
            sum("prompt_tokens"),
            sum("cached_tokens"),
            sum("completion_tokens"),
            sum("cost"),
        );
        let query = sqlx::query(sqlx::AssertSqlSafe(statement)).bind(from).bind(to);
        let query = query.bind(user_id.unwrap_or_default()).bind(i64::from(user_id.is_none()));
        query.fetch_all(&self.pool).await?.iter().map(usage).collect()
    }
}

fn usage(row: &AnyRow) -> Result<UsageRow> {
    Ok(UsageRow {
        group: row.try_get("name")?,
        requests: row.try_get("requests")?,
        prompt_tokens: row.try_get("prompt_tokens")?,
        cached_tokens: row.try_get("cached_tokens")?,
        completion_tokens: row.try_get("completion_tokens")?,
        cost: row.try_get("cost")?,
    })
}

fn request(row: &AnyRow) -> Result<FinishedRequest> {
    Ok(FinishedRequest {
        id: row.try_get("id")?,
        user_id: row.try_get("user_id")?,
        key_id: row.try_get("key_id")?,
        department_id: row.try_get("department_id")?,
        model: row.try_get("model")?,
        prompt_tokens: row.try_get("prompt_tokens")?,
        cached_tokens: row.try_get("cached_tokens")?,
        completion_tokens: row.try_get("completion_tokens")?,
        cost: row.try_get("cost")?,
        outcome: row.try_get("outcome")?,
        started_at: row.try_get("started_at")?,
        finished_at: row.try_get("finished_at")?,
        details: row.try_get("details")?,
    })
}
