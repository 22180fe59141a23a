//! The end of a request: its hold goes, its charges and its row come, in one transaction and once.

use sqlx::Row as _;

use super::accounts::{self, NewEntry};
use super::{Connection, FinishedRequest, Result, holds, requests};

/// What a request used of one account.
#[derive(Debug, Clone)]
pub struct Charge {
    /// Which.
    pub account: String,
    /// The account that takes the amount.
    pub counter: &'static str,
    /// In the account's unit, no more than was held.
    pub amount: i64,
}

/// A request's end.
#[derive(Debug, Clone)]
pub struct Settlement {
    /// Its row. The cost is what the purse is charged.
    pub request: FinishedRequest,
    /// By account, as they were held.
    pub charges: Vec<Charge>,
    /// Whether what is charged is certainly there, even if the database knows of no hold: the process that settles is the
    /// only one that holds, and keeps the holds in memory.
    pub covered: bool,
}

/// What became of it.
#[derive(Debug, Clone)]
pub struct Settled {
    /// What the request cost in the end.
    pub cost: i64,
    /// The balances of its accounts afterwards.
    pub balances: Vec<(String, i64)>,
    /// Whether the hold had been voided by others and the accounts could not pay any more.
    pub waived: bool,
}

/// Settles a request. If it is settled already, nothing is charged.
pub async fn settle(connection: &mut Connection, settlement: &Settlement) -> Result<Settled> {
    let Settlement { request, charges, covered } = settlement;
    if !requests::insert(connection, request).await? {
        holds::void(connection, &request.id).await?;
        let cost = requests::cost(connection, &request.id).await?;
        return Ok(Settled { cost, balances: balances(connection, charges).await?, waived: false });
    }
    if charges.is_empty() {
        return Ok(Settled { cost: request.cost, balances: Vec::new(), waived: false });
    }
    let mut held = holds::remove(connection, &request.id).await?;
    let mut waived = false;
    if held.is_empty() && !covered {
        // The lease of this process ended while it lived. What was used is charged if it is still there.
        let amounts = charges.iter().map(|charge| (charge.account.clone(), charge.amount)).collect();
        let again = holds::HoldRow { request_id: request.id.clone(), owner: String::new(), amounts };
        waived = holds::take(connection, &again, false).await?.is_some();
        if waived {
            requests::waive(connection, &request.id).await?;
        } else {
            held = holds::remove(connection, &request.id).await?;
        }
    }
    let charged = if waived { 0 } else { request.cost };
    let mut balances = Vec::with_capacity(charges.len());
    for charge in charges.iter().filter(|_| !waived) {
        let held = held.iter().find(|(account, _)| *account == charge.account).map_or(0, |(_, amount)| *amount);
        let statement = "UPDATE accounts SET balance = balance - $2, held = held - $3 WHERE id = $1 RETURNING balance";
        let update = sqlx::query(statement).bind(&charge.account).bind(charge.amount).bind(held);
        balances.push((charge.account.clone(), update.fetch_one(&mut *connection).await?.try_get("balance")?));
        if charge.amount > 0 {
            let entry = NewEntry {
                transaction: &request.id,
                account: &charge.account,
                counter: charge.counter,
                amount: -charge.amount,
                author: None,
                description: &request.model,
                at: request.finished_at,
            };
            entry.insert(connection).await?;
        }
    }
    Ok(Settled { cost: charged, balances, waived })
}

async fn balances(connection: &mut Connection, charges: &[Charge]) -> Result<Vec<(String, i64)>> {
    let mut balances = Vec::with_capacity(charges.len());
    for charge in charges {
        if let Some(account) = accounts::account(connection, &charge.account).await? {
            balances.push((account.id, account.balance));
        }
    }
    Ok(balances)
}
