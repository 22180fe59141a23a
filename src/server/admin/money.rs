//! `/admin/users/{id}/topups`, `/admin/budgets` and `/admin/transactions.csv`.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use utoipa::ToSchema;

use super::List;
use crate::ledger::{Budget, BudgetState, Cursor, Entry, Period, Subject, Unit};
use crate::server::AppState;
use crate::server::billing::amount;
use crate::server::body::{FromBody, JsonBody, fields};
use crate::server::client::Client;
use crate::server::error::{ApiError, ErrorBody};
use crate::server::problem::Reason;
use crate::server::trail::Deed;
use crate::store::Store;

/// Largest amount of a top-up or budget, in the currency.
const LARGEST: f64 = 1e9;
/// Lines of an export read at once.
const LINES: i64 = 1000;

/// What to add to somebody's balance.
#[derive(Debug, Deserialize, ToSchema)]
pub struct TopUpBody {
    /// In the currency; negative takes away what is not held.
    pub amount: f64,
    /// Told in the transactions.
    pub reason: String,
}

/// A balance after a top-up.
#[derive(Debug, Serialize, ToSchema)]
pub struct TopUpAnswer {
    /// Whose.
    pub user_id: String,
    /// What there is now.
    pub balance: f64,
    /// The currency.
    pub currency: String,
}

/// A budget: how much somebody may use in a period.
#[derive(Debug, Deserialize, ToSchema)]
pub struct BudgetBody {
    /// `user`, `key` or `department`.
    pub subject: String,
    /// Id of the user, key or department.
    pub subject_id: String,
    /// `day`, `month` or `total`.
    pub period: String,
    /// `money` or `tokens`.
    pub unit: String,
    /// In the currency, or tokens.
    #[schema(minimum = 0)]
    pub limit: f64,
}

/// A budget and what is used of it.
#[derive(Debug, Serialize, ToSchema)]
pub struct BudgetObject {
    /// What to remove it by.
    pub id: String,
    /// `budget`.
    pub object: &'static str,
    /// `user`, `key` or `department`.
    pub subject: &'static str,
    /// Id of the user, key or department.
    pub subject_id: String,
    /// `day`, `month` or `total`.
    pub period: &'static str,
    /// `money` or `tokens`.
    pub unit: &'static str,
    /// In the currency, or tokens.
    pub limit: f64,
    /// Of it, what was used.
    pub used: f64,
    /// Of it, what is set aside for requests that run.
    pub held: f64,
    /// When it is full again, seconds since 1970.
    #[schema(required = true)]
    pub resets: Option<i64>,
}

impl From<BudgetState> for BudgetObject {
    fn from(state: BudgetState) -> Self {
        let BudgetState { budget, used, held, resets_at } = state;
        let told = |value: i64| if budget.unit == Unit::Money { amount(value) } else { value as f64 };
        let (subject, subject_id) = match &budget.subject {
            Subject::User(id) => ("user", id),
            Subject::Key(id) => ("key", id),
            Subject::Department(id) => ("department", id),
        };
        Self {
            id: budget.id(),
            object: "budget",
            subject,
            subject_id: subject_id.clone(),
            period: budget.period.as_str(),
            unit: budget.unit.as_str(),
            limit: told(budget.limit),
            used: told(used),
            held: told(held),
            resets: resets_at.map(|moment| moment / 1000),
        }
    }
}

impl FromBody for TopUpBody {
    fn from_body(text: &str) -> Result<Self, ApiError> {
        let body: Self = fields(text)?;
        if body.amount.abs() > LARGEST {
            return Err(ApiError::invalid("amount", Reason::Amount));
        }
        Ok(body)
    }
}

impl FromBody for BudgetBody {
    fn from_body(text: &str) -> Result<Self, ApiError> {
        fields(text)
    }
}

impl BudgetBody {
    fn budget(self) -> Result<Budget, ApiError> {
        let word = |param: &str, known| ApiError::invalid(param, Reason::Word(known));
        let id = self.subject_id;
        let subject = match self.subject.as_str() {
            "user" => Subject::User(id),
            "key" => Subject::Key(id),
            "department" => Subject::Department(id),
            _ => return Err(word("subject", "user, key, department")),
        };
        let period = match self.period.as_str() {
            "day" => Period::Day,
            "month" => Period::Month,
            "total" => Period::Total,
            _ => return Err(word("period", "day, month, total")),
        };
        let unit = match self.unit.as_str() {
            "money" => Unit::Money,
            "tokens" => Unit::Tokens,
            _ => return Err(word("unit", "money, tokens")),
        };
        if !(0.0..=LARGEST).contains(&self.limit) {
            return Err(ApiError::invalid("limit", Reason::Amount));
        }
        let limit = if unit == Unit::Money { self.limit * 1e6 } else { self.limit };
        Ok(Budget { subject, period, unit, limit: limit.round() as i64 })
    }
}

/// Add to a user's balance, or take from it.
#[utoipa::path(
    post, path = "/admin/users/{id}/topups", tag = "Administration",
    params(("id" = String, Path, description = "Id or name of the user")),
    request_body = TopUpBody,
    responses(
        (status = 201, description = "The balance", body = TopUpAnswer),
        (status = "4XX", description = "Not like this", body = ErrorBody),
        (status = "5XX", description = "The database does not answer", body = ErrorBody),
    )
)]
pub async fn top_up(
    State(state): State<AppState>,
    client: Client,
    Path(id): Path<String>,
    JsonBody(body): JsonBody<TopUpBody>,
) -> Result<(StatusCode, Extension<Deed>, Json<TopUpAnswer>), ApiError> {
    let user = state.auth.find_user(&id).await?;
    let ledger = &state.gate.ledger;
    let millionths = (body.amount * 1e6).round() as i64;
    let balance = ledger.top_up(&user.id, millionths, &client.identity.name, &body.reason).await?;
    let currency = ledger.currency().to_owned();
    let told = json!({"amount": body.amount, "reason": body.reason, "balance": amount(balance)});
    let deed = Extension(Deed::to(format!("user:{}", user.id), told));
    Ok((StatusCode::CREATED, deed, Json(TopUpAnswer { user_id: user.id, balance: amount(balance), currency })))
}

/// List the budgets and what is used of them.
#[utoipa::path(
    get, path = "/admin/budgets", tag = "Administration",
    responses(
        (status = 200, description = "All budgets", body = List<BudgetObject>),
        (status = "4XX", description = "Not for this credential", body = ErrorBody),
        (status = "5XX", description = "The database does not answer", body = ErrorBody),
    )
)]
pub async fn list_budgets(State(state): State<AppState>) -> Result<Json<List<BudgetObject>>, ApiError> {
    Ok(Json(List::of(state.gate.ledger.budgets().await?)))
}

/// Set a budget, in place of one of the same subject, period and unit.
#[utoipa::path(
    put, path = "/admin/budgets", tag = "Administration",
    request_body = BudgetBody,
    responses(
        (status = 204, description = "It counts from now on"),
        (status = "4XX", description = "Not like this", body = ErrorBody),
        (status = "5XX", description = "The database does not answer", body = ErrorBody),
    )
)]
pub async fn set_budget(
    State(state): State<AppState>,
    client: Client,
    JsonBody(body): JsonBody<BudgetBody>,
) -> Result<(StatusCode, Extension<Deed>), ApiError> {
    let told = json!({"limit": body.limit});
    let budget = body.budget()?;
    let deed = Deed::to(format!("budget:{}", budget.id()), told);
    state.gate.ledger.set_budget(budget, &client.identity.name).await?;
    Ok((StatusCode::NO_CONTENT, Extension(deed)))
}

/// Remove a budget.
#[utoipa::path(
    delete, path = "/admin/budgets/{id}", tag = "Administration",
    params(("id" = String, Path, description = "Id of the budget")),
    responses(
        (status = 204, description = "It does not count any more"),
        (status = "4XX", description = "There is no such budget", body = ErrorBody),
        (status = "5XX", description = "The database does not answer", body = ErrorBody),
    )
)]
pub async fn remove_budget(
    State(state): State<AppState>,
    Path(id): Path<String>,
) -> Result<(StatusCode, Extension<Deed>), ApiError> {
    state.gate.ledger.remove_budget(&id).await?;
    Ok((StatusCode::NO_CONTENT, Extension(Deed::to(format!("budget:{id}"), json!({})))))
}

/// Everybody's transactions, oldest first, as CSV.
#[utoipa::path(
    get, path = "/admin/transactions.csv", tag = "Administration",
    responses(
        (status = 200, description = "One line each", body = String, content_type = "text/csv"),
        (status = "4XX", description = "Not for this credential", body = ErrorBody),
        (status = "5XX", description = "The database does not answer", body = ErrorBody),
    )
)]
pub async fn transactions_csv(State(state): State<AppState>) -> Response {
    let (sender, receiver) = mpsc::channel(4);
    let store = state.auth.store().clone();
    tokio::spawn(async move {
        let header = "id,user_id,amount,description,author,timestamp\r\n".to_owned();
        if sender.send(Ok(header)).await.is_ok() {
            export(&store, &sender).await;
        }
    });
    let headers =
        [(CONTENT_TYPE, "text/csv; charset=utf-8"), (CONTENT_DISPOSITION, "attachment; filename=\"transactions.csv\"")];
    (headers, Body::from_stream(ReceiverStream::new(receiver))).into_response()
}

async fn export(store: &Store, sender: &mpsc::Sender<Result<String, String>>) {
    let mut cursor = Cursor::default();
    loop {
        let entries = match store.purse_entries_after(&cursor, LINES).await {
            Ok(entries) => entries,
            Err(error) => {
                tracing::error!("export: {error}");
                // The connection breaks off, so that nobody takes a part for the whole.
                let _ = sender.send(Err(error.to_string())).await;
                return;
            }
        };
        let Some(last) = entries.last() else { return };
        cursor = last.cursor();
        if sender.send(Ok(entries.iter().map(line).collect())).await.is_err() {
            return;
        }
    }
}

fn line(entry: &Entry) -> String {
    let user_id = entry.account.strip_prefix("user:").unwrap_or(&entry.account);
    let (millionths, sign) = (entry.amount.unsigned_abs(), if entry.amount < 0 { "-" } else { "" });
    format!(
        "{},{},{sign}{}.{:06},{},{},{}\r\n",
        field(&entry.id),
        field(user_id),
        millionths / 1_000_000,
        millionths % 1_000_000,
        field(&entry.description),
        field(entry.author.as_deref().unwrap_or_default()),
        entry.created_at / 1000
    )
}

/// A field of CSV (RFC 4180); what a spreadsheet would take for a formula is made text.
fn field(text: &str) -> String {
    let text = if text.starts_with(['=', '+', '-', '@']) { format!("'{text}") } else { text.to_owned() };
    if text.contains(['"', ',', '\r', '\n']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_csv() {
        for (text, written) in
            [("a", "a"), ("a,b", "\"a,b\""), ("say \"hi\"", "\"say \"\"hi\"\"\""), ("=1+1", "'=1+1"), ("", "")]
        {
            assert_eq!(field(text), written);
        }
    }
}
