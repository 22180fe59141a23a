//! Holds: amounts that are set aside while a request runs. One is there as a whole or not at all.

use sqlx::Row as _;

use super::{Connection, Result, Store};
use crate::store::Write;

/// A hold to be taken.
#[derive(Debug, Clone)]
pub struct HoldRow {
    /// Whose request it is for; there is one hold for a request.
    pub request_id: String,
    /// The process that holds.
    pub owner: String,
    /// Accounts and amounts, by account, so that no two transactions wait for each other.
    pub amounts: Vec<(String, i64)>,
}

/// Takes a hold. When an account cannot spend its amount, its index is the answer, and nothing is held. `covered` says that
/// somebody has made sure already.
pub async fn take(connection: &mut Connection, hold: &HoldRow, covered: bool) -> Result<Option<usize>> {
    for (index, (account, amount)) in hold.amounts.iter().enumerate() {
        let statement = "UPDATE accounts SET held = held + $2 \
                         WHERE id = $1 AND ($3 = 1 OR balance + credit - held >= $2)";
        let update = sqlx::query(statement).bind(account).bind(amount).bind(i64::from(covered));
        if update.execute(&mut *connection).await?.rows_affected() == 0 {
            for (account, amount) in &hold.amounts[..index] {
                give_back(connection, account, *amount).await?;
            }
            return Ok(Some(index));
        }
    }
    for (account, amount) in &hold.amounts {
        let statement = "INSERT INTO holds (request_id, account_id, amount, owner) VALUES ($1, $2, $3, $4)";
        let insert = sqlx::query(statement).bind(&hold.request_id).bind(account).bind(amount).bind(&hold.owner);
        insert.execute(&mut *connection).await?;
    }
    Ok(None)
}

/// Ends a hold whose accounts still count it, and gives its amounts by account; none when there is no such hold.
pub(super) async fn remove(connection: &mut Connection, request_id: &str) -> Result<Vec<(String, i64)>> {
    let statement = "DELETE FROM holds WHERE request_id = $1 RETURNING account_id, amount";
    let rows = sqlx::query(statement).bind(request_id).fetch_all(connection).await?;
    let amounts = rows.iter().map(|row| Ok((row.try_get("account_id")?, row.try_get("amount")?)));
    let mut amounts = amounts.collect::<Result<Vec<_>>>()?;
    amounts.sort();
    Ok(amounts)
}

/// Gives back what was held for a request. Nothing happens when nothing is.
pub async fn void(connection: &mut Connection, request_id: &str) -> Result<()> {
    for (account, amount) in remove(connection, request_id).await? {
        give_back(connection, &account, amount).await?;
    }
    Ok(())
}

async fn give_back(connection: &mut Connection, account: &str, amount: i64) -> Result<()> {
    let update = sqlx::query("UPDATE accounts SET held = held - $2 WHERE id = $1").bind(account).bind(amount);
    update.execute(connection).await?;
    Ok(())
}

impl Store {
    /// Voids every hold. For a database that nobody else uses.
    pub async fn void_all_holds(&self) -> Result<u64> {
        let void = Write::new((), |connection, ()| {
            Box::pin(async move {
                sqlx::query("UPDATE accounts SET held = 0 WHERE held <> 0").execute(&mut *connection).await?;
                let ended = sqlx::query("DELETE FROM holds").execute(&mut *connection).await?;
                Ok(ended.rows_affected())
            })
        });
        self.write_apart(void).await
    }
}
