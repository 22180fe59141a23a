//! `/billing/…`: what one has, what it went for, and what a request would cost.

mod statement;

use axum::Json;
use axum::extract::State;

use self::statement::{BalanceAnswer, Estimate, Page, Span, TransactionsAnswer, UsageAnswer, Whose};
use super::AppState;
use super::body::JsonBody;
use super::client::Client;
use super::error::{ApiError, ErrorBody};
use super::openai::answer::refusal;
use super::openai::chat_types::{ChatCompletionRequest, ChatRequest};
use super::problem::{Problem, Reason};
use super::query::Parameters;
use crate::ledger::{Balance, GroupBy, LedgerError, parse_day};
use crate::store::{Moment, now};

const MOST_TRANSACTIONS: u32 = 1000;

/// An amount of the currency.
pub fn amount(millionths: i64) -> f64 {
    millionths as f64 / 1e6
}

impl From<LedgerError> for ApiError {
    fn from(error: LedgerError) -> Self {
        match error {
            LedgerError::Short { account, resets_at, .. } => Problem::Quota { account, resets_at }.into(),
            LedgerError::Amount(_) => Self::invalid("amount", Reason::Amount),
            LedgerError::Store(error) => error.into(),
            error => {
                tracing::error!("{error}");
                Problem::Store.into()
            }
        }
    }
}

/// What one has.
#[utoipa::path(
    get, path = "/billing/balance", tag = "Steppe", params(Whose),
    responses(
        (status = 200, description = "The balance", body = BalanceAnswer),
        (status = "4XX", description = "Not like this", body = ErrorBody),
        (status = "5XX", description = "The database does not answer", body = ErrorBody),
    )
)]
pub async fn balance(
    State(state): State<AppState>,
    client: Client,
    Parameters(Whose { user_id }): Parameters<Whose>,
) -> Result<Json<BalanceAnswer>, ApiError> {
    let user_id = client.acting_for(user_id)?;
    let ledger = &state.gate.ledger;
    let Balance { balance, held } = ledger.balance(&user_id).await?;
    Ok(Json(BalanceAnswer {
        user_id,
        balance: amount(balance),
        held: amount(held),
        currency: ledger.currency().to_owned(),
        billing_enabled: ledger.billing(),
    }))
}

/// What came in and went out.
#[utoipa::path(
    get, path = "/billing/transactions", tag = "Steppe", params(Page),
    responses(
        (status = 200, description = "The transactions", body = TransactionsAnswer),
        (status = "4XX", description = "Not like this", body = ErrorBody),
        (status = "5XX", description = "The database does not answer", body = ErrorBody),
    )
)]
pub async fn transactions(
    State(state): State<AppState>,
    client: Client,
    Parameters(Page { user_id, limit, offset }): Parameters<Page>,
) -> Result<Json<TransactionsAnswer>, ApiError> {
    let user_id = client.acting_for(user_id)?;
    let (limit, offset) = (limit.unwrap_or(50), offset.unwrap_or(0));
    if !(1..=MOST_TRANSACTIONS).contains(&limit) {
        let range = Problem::OutOfRange { low: 1.0, high: f64::from(MOST_TRANSACTIONS) };
        return Err(ApiError::about("limit", range));
    }
    let entries = state.gate.ledger.transactions(&user_id, limit, offset).await?;
    let transactions = entries.into_iter().map(Into::into).collect();
    Ok(Json(TransactionsAnswer { user_id, transactions, limit, offset }))
}

/// What a chat request would cost at most. Nothing is generated.
#[utoipa::path(
    post, path = "/billing/estimate", tag = "Steppe",
    request_body = ChatCompletionRequest,
    responses(
        (status = 200, description = "The most that it would use", body = Estimate),
        (status = "4XX", description = "The request could not be answered as asked", body = ErrorBody),
        (status = "5XX", description = "Loading or stopping", body = ErrorBody),
    )
)]
pub async fn estimate(
    State(state): State<AppState>,
    client: Client,
    JsonBody(body): JsonBody<ChatRequest>,
) -> Result<Json<Estimate>, ApiError> {
    let generator = client.generator(&state, body.options.model.as_deref())?;
    state.check_choices("n", body.options.choices)?;
    let most = generator.most(vec![body.request], body.options.choices).await;
    let (prompt_tokens, max_completion_tokens) = most.map_err(|error| refusal(error, "messages"))?;
    let ledger = &state.gate.ledger;
    let cost = ledger.largest_cost(&generator.model().id, prompt_tokens, max_completion_tokens);
    let currency = ledger.currency().to_owned();
    Ok(Json(Estimate { prompt_tokens, max_completion_tokens, max_cost: amount(cost), currency }))
}

/// What was used, by day, model or key.
#[utoipa::path(
    get, path = "/billing/usage", tag = "Steppe", params(Span),
    responses(
        (status = 200, description = "What was used", body = UsageAnswer),
        (status = "4XX", description = "Not like this", body = ErrorBody),
        (status = "5XX", description = "The database does not answer", body = ErrorBody),
    )
)]
pub async fn usage(
    State(state): State<AppState>,
    client: Client,
    Parameters(span): Parameters<Span>,
) -> Result<Json<UsageAnswer>, ApiError> {
    let user_id = client.acting_for(span.user_id)?;
    let by = match span.group_by.as_deref() {
        None | Some("day") => GroupBy::Day,
        Some("model") => GroupBy::Model,
        Some("key") => GroupBy::Key,
        Some(_) => return Err(ApiError::invalid("group_by", Reason::Word("day, model, key"))),
    };
    let ledger = &state.gate.ledger;
    let day = |param: &str, text: Option<String>, otherwise: Moment| match text {
        Some(text) => match parse_day(&text) {
            Some(day) => Ok(ledger.day_begins(day)),
            None => Err(ApiError::invalid(param, Reason::Day)),
        },
        None => Ok(otherwise),
    };
    let (now, month) = (now(), 30 * 86_400_000);
    let (from, to) = (day("from", span.from, now - month)?, day("to", span.to, now + 1)?);
    let rows = ledger.usage(Some(&user_id), from, to, by).await?;
    let usage = rows.into_iter().map(Into::into).collect();
    Ok(Json(UsageAnswer { user_id, usage, currency: ledger.currency().to_owned() }))
}
