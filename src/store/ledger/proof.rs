//! What must hold of the stored ledger at every moment, as queries whose every row is a finding.

use sqlx::Row as _;

use super::{AccountRow, Connection, Result, accounts};

/// Each names what is wrong and lists where.
const LAWS: [(&str, &str); 6] = [
    (
        "the sum of a unit is not zero",
        // What the accounts have, less what their counter-accounts gave.
        "SELECT a.unit AS place FROM accounts a \
         GROUP BY a.unit HAVING SUM(a.balance) <> (SELECT COALESCE(SUM(e.amount), 0) FROM entries e \
         WHERE e.counter_account LIKE '%:' || a.unit)",
    ),
    (
        "a balance is not the sum of its entries",
        "SELECT a.id AS place FROM accounts a \
         WHERE a.balance <> (SELECT COALESCE(SUM(e.amount), 0) FROM entries e WHERE e.account_id = a.id)",
    ),
    (
        "what an account holds is not the sum of its holds",
        "SELECT a.id AS place FROM accounts a \
         WHERE a.held <> (SELECT COALESCE(SUM(h.amount), 0) FROM holds h WHERE h.account_id = a.id)",
    ),
    (
        "an account is overdrawn",
        "SELECT id AS place FROM accounts \
         WHERE held < 0 OR (kind = 'purse' AND balance - held < 0) OR (kind = 'budget' AND balance > 0)",
    ),
    (
        "a request's cost is not what its purse was charged",
        "SELECT r.id AS place FROM requests r LEFT JOIN entries e \
         ON e.transaction_id = r.id AND e.counter_account = 'spent:money' WHERE r.cost + COALESCE(e.amount, 0) <> 0",
    ),
    (
        "a charge belongs to no request",
        "SELECT e.transaction_id AS place FROM entries e LEFT JOIN requests r ON r.id = e.transaction_id \
         WHERE e.counter_account <> 'issued:money' AND r.id IS NULL",
    ),
];

/// What is wrong in the database; an empty list is as it should be. Reads everything: slow on a large ledger.
pub async fn findings(connection: &mut Connection) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for (law, statement) in LAWS {
        for row in sqlx::query(statement).fetch_all(&mut *connection).await? {
            findings.push(format!("{law}: {}", row.try_get::<String, _>("place")?));
        }
    }
    Ok(findings)
}

/// All accounts.
pub async fn all_accounts(connection: &mut Connection) -> Result<Vec<AccountRow>> {
    let statement = "SELECT id, unit, balance, credit, held, ends_at FROM accounts";
    sqlx::query(statement).fetch_all(connection).await?.iter().map(accounts::row).collect()
}
