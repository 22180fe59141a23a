//! Accounts: purses of users, and budgets in a period. An account can spend `balance + credit - held`.

use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::{Connection, Moment, Result, Store, Unit, known};

/// Where money comes from.
pub const ISSUED: &str = "issued:money";
/// Where money goes to.
pub const SPENT: &str = "spent:money";

/// The account that faces the budgets of a unit.
pub fn budgets_counter(unit: Unit) -> &'static str {
    match unit {
        Unit::Money => "budgets:money",
        Unit::Tokens => "budgets:tokens",
    }
}

/// An account as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountRow {
    /// `user:<id>`, or `budget:<budget>/<first day of the period>`.
    pub id: String,
    /// What it counts.
    pub unit: Unit,
    /// The sum of its entries. A purse's is never negative, a budget's never positive.
    pub balance: i64,
    /// How far below zero the balance may go: the limit of a budget.
    pub credit: i64,
    /// The sum of its open holds.
    pub held: i64,
    /// The end of a budget's period.
    pub ends_at: Option<Moment>,
}

/// An amount that came from outside, or that an administrator took back.
#[derive(Debug, Clone)]
pub struct Posting {
    /// Unique; posted once however often it is tried.
    pub id: String,
    /// A purse.
    pub account: String,
    /// 10^-6 of the currency; negative to take back.
    pub amount: i64,
    /// Who.
    pub author: String,
    /// Why.
    pub reason: String,
    /// When.
    pub at: Moment,
    /// Whether somebody has made sure already that the account can spend a negative amount.
    pub covered: bool,
}

const COLUMNS: &str = "id, unit, balance, credit, held, ends_at";
const ACCOUNT: &str = "SELECT id, unit, balance, credit, held, ends_at FROM accounts WHERE id = $1";

/// The account of this id.
pub async fn account(connection: &mut Connection, id: &str) -> Result<Option<AccountRow>> {
    sqlx::query(ACCOUNT).bind(id).fetch_optional(connection).await?.as_ref().map(row).transpose()
}

/// Locks these accounts until the transaction ends. They are taken in the order of their bytes, as everything
/// takes them that needs more than one. For PostgreSQL.
pub async fn lock(connection: &mut Connection, ids: &[&str]) -> Result<()> {
    // Few different numbers of places make few different statements.
    let width = ids.len().next_power_of_two();
    let places: Vec<String> = (1..=width).map(|place| format!("${place}")).collect();
    let places = places.join(", ");
    let statement = format!("SELECT id FROM accounts WHERE id IN ({places}) ORDER BY id COLLATE \"C\" FOR UPDATE");
    let mut query = sqlx::query(sqlx::AssertSqlSafe(statement));
    for index in 0..width {
        query = query.bind(ids[index.min(ids.len() - 1)].to_owned());
    }
    query.execute(connection).await?;
    Ok(())
}

/// A purse, which is made with an opening balance when there is none.
pub async fn purse(connection: &mut Connection, id: &str, opening: i64, at: Moment) -> Result<Option<AccountRow>> {
    let statement = "INSERT INTO accounts (id, kind, unit, balance, credit, held) VALUES ($1, 'purse', 'money', 0, 0, 0) \
                     ON CONFLICT (id) DO NOTHING";
    let made = sqlx::query(statement).bind(id).execute(&mut *connection).await?.rows_affected() > 0;
    if made && opening > 0 {
        let posting = Posting {
            id: format!("opening/{id}"),
            account: id.to_owned(),
            amount: opening,
            author: "system".to_owned(),
            reason: "opening balance".to_owned(),
            at,
            covered: true,
        };
        post(connection, &posting).await?;
    }
    account(connection, id).await
}

/// A budget's account, which is made when there is none; nothing when the budget is gone.
pub async fn budget(
    connection: &mut Connection,
    id: &str,
    budget_id: &str,
    ends_at: Option<Moment>,
) -> Result<Option<AccountRow>> {
    // Writes so that a change of the limit at the same moment comes before or after, not in between.
    let statement = "UPDATE budgets SET amount = amount WHERE id = $1 RETURNING amount, unit";
    let Some(limit) = sqlx::query(statement).bind(budget_id).fetch_optional(&mut *connection).await? else {
        return Ok(None);
    };
    let (amount, unit): (i64, String) = (limit.try_get("amount")?, limit.try_get("unit")?);
    let statement = "INSERT INTO accounts (id, kind, unit, balance, credit, held, ends_at) \
                     VALUES ($1, 'budget', $2, 0, $3, 0, $4) ON CONFLICT (id) DO NOTHING";
    let insert = sqlx::query(statement).bind(id).bind(unit).bind(amount).bind(ends_at);
    insert.execute(&mut *connection).await?;
    account(connection, id).await
}

/// Posts an amount and gives the new balance; nothing when the account cannot spend it.
pub async fn post(connection: &mut Connection, posting: &Posting) -> Result<Option<i64>> {
    let known = sqlx::query("SELECT 1 FROM entries WHERE transaction_id = $1 AND account_id = $2");
    if known.bind(&posting.id).bind(&posting.account).fetch_optional(&mut *connection).await?.is_some() {
        return Ok(account(connection, &posting.account).await?.map(|account| account.balance));
    }
    let statement = "UPDATE accounts SET balance = balance + $2 \
                     WHERE id = $1 AND ($3 = 1 OR balance + credit - held + $2 >= 0) RETURNING balance";
    let unconditional = posting.covered || posting.amount >= 0;
    let update = sqlx::query(statement).bind(&posting.account).bind(posting.amount).bind(i64::from(unconditional));
    let Some(changed) = update.fetch_optional(&mut *connection).await? else { return Ok(None) };
    let entry = NewEntry {
        transaction: &posting.id,
        account: &posting.account,
        counter: ISSUED,
        amount: posting.amount,
        author: Some(&posting.author),
        description: &posting.reason,
        at: posting.at,
    };
    entry.insert(connection).await?;
    Ok(Some(changed.try_get("balance")?))
}

/// An entry to be added.
pub(super) struct NewEntry<'a> {
    pub transaction: &'a str,
    pub account: &'a str,
    pub counter: &'a str,
    pub amount: i64,
    pub author: Option<&'a str>,
    pub description: &'a str,
    pub at: Moment,
}

impl NewEntry<'_> {
    pub(super) async fn insert(&self, connection: &mut Connection) -> Result<()> {
        let statement = "INSERT INTO entries \
                         (transaction_id, account_id, counter_account, amount, author, description, created_at) \
                         VALUES ($1, $2, $3, $4, $5, $6, $7)";
        sqlx::query(statement)
            .bind(self.transaction)
            .bind(self.account)
            .bind(self.counter)
            .bind(self.amount)
            .bind(self.author)
            .bind(self.description)
            .bind(self.at)
            .execute(connection)
            .await?;
        Ok(())
    }
}

impl Store {
    /// The account of this id.
    pub async fn account(&self, id: &str) -> Result<Option<AccountRow>> {
        self.row(|| sqlx::query(ACCOUNT).bind(id)).await?.as_ref().map(row).transpose()
    }

    /// Ids and balances of so many users' accounts at most.
    pub async fn purses(&self, most: usize) -> Result<Vec<(String, i64)>> {
        let statement = "SELECT id, balance FROM accounts WHERE id LIKE 'user:%' ORDER BY id LIMIT $1";
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let rows = self.guard.read(|| sqlx::query(statement).bind(most).fetch_all(&self.pool)).await?;
        rows.iter().map(|row| Ok((row.try_get("id")?, row.try_get("balance")?))).collect()
    }

    /// Accounts that can be used at this moment or later.
    pub async fn accounts_from(&self, moment: Moment) -> Result<Vec<AccountRow>> {
        let condition = "ends_at IS NULL OR ends_at > $1";
        let statement = sqlx::AssertSqlSafe(format!("SELECT {COLUMNS} FROM accounts WHERE {condition}"));
        sqlx::query(statement).bind(moment).fetch_all(&self.pool).await?.iter().map(row).collect()
    }
}

pub(super) fn row(row: &AnyRow) -> Result<AccountRow> {
    Ok(AccountRow {
        id: row.try_get("id")?,
        unit: known(row.try_get("unit")?)?,
        balance: row.try_get("balance")?,
        credit: row.try_get("credit")?,
        held: row.try_get("held")?,
        ends_at: row.try_get("ends_at")?,
    })
}
