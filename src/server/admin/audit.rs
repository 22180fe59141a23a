//! `GET /admin/audit`.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::audit::{AuditError, AuditFilter, AuditRow, parse_moment, timestamp};
use crate::auth::AuthError;
use crate::server::AppState;
use crate::server::error::{ApiError, ErrorBody};
use crate::server::problem::{Problem, Reason};
use crate::server::query::Parameters;
use crate::store::StoreError;

const USUAL: i64 = 100;
const MOST: i64 = 1000;

/// Which events.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Wanted {
    /// From this day or moment on, such as `2026-01-31` or `2026-01-31T15:00:00Z` (UTC).
    pub from: Option<String>,
    /// Before this day or moment.
    pub to: Option<String>,
    /// Only of this user, by id or name.
    pub user: Option<String>,
    /// So many at most; 100 where it is absent.
    #[param(minimum = 1, maximum = 1000)]
    pub limit: Option<i64>,
    /// After the event of this number.
    #[param(minimum = 0)]
    pub after: Option<i64>,
}

/// Events, oldest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct AuditPage {
    /// `list`.
    pub object: &'static str,
    /// The events.
    pub data: Vec<AuditObject>,
    /// What to ask for next as `after`; none where these are the last.
    #[schema(required = true)]
    pub next: Option<i64>,
}

/// An event. What is unknown is empty.
#[derive(Debug, Serialize, ToSchema)]
pub struct AuditObject {
    /// Its place, from 1.
    pub seq: i64,
    /// When, in UTC.
    pub time: String,
    /// `request`, `login`, `refusal`, `admin` or `system`.
    pub kind: String,
    /// Id of who did it.
    pub actor_id: String,
    /// Name of who did it.
    pub actor: String,
    /// What they came with.
    pub credential: String,
    /// With what API key.
    pub key_id: String,
    /// From where.
    pub address: String,
    /// The server's own id of the request.
    pub request_id: String,
    /// What was done.
    pub action: String,
    /// To whom or what.
    pub object: String,
    /// With which model.
    pub model: String,
    /// How it ended.
    pub outcome: String,
    /// Tokens, cost, times, the cache's decision and whatever else there is to say.
    #[schema(value_type = Object)]
    pub details: serde_json::Value,
    /// Seals this row and all before it.
    pub hash: String,
}

impl From<AuditRow> for AuditObject {
    fn from(row: AuditRow) -> Self {
        Self {
            seq: row.seq,
            time: timestamp(row.moment),
            kind: row.kind,
            actor_id: row.actor_id,
            actor: row.actor,
            credential: row.credential,
            key_id: row.key_id,
            address: row.address,
            request_id: row.request_id,
            action: row.action,
            object: row.object,
            model: row.model,
            outcome: row.outcome,
            details: serde_json::from_str(&row.details).unwrap_or_default(),
            hash: row.hash,
        }
    }
}

impl From<AuditError> for ApiError {
    fn from(error: AuditError) -> Self {
        tracing::error!("audit: {error}");
        Problem::Store.into()
    }
}

/// Who did what, oldest first.
#[utoipa::path(
    get, path = "/admin/audit", tag = "Administration", params(Wanted),
    responses(
        (status = 200, description = "The events", body = AuditPage),
        (status = "4XX", description = "Not like this", body = ErrorBody),
        (status = "5XX", description = "The database does not answer", body = ErrorBody),
    )
)]
pub async fn list_events(
    State(state): State<AppState>,
    Parameters(wanted): Parameters<Wanted>,
) -> Result<Json<AuditPage>, ApiError> {
    let moment = |param: &str, text: Option<&str>| {
        let parse = |text| parse_moment(text).ok_or_else(|| ApiError::invalid(param, Reason::Moment));
        text.map(parse).transpose()
    };
    let limit = wanted.limit.unwrap_or(USUAL);
    if !(1..=MOST).contains(&limit) {
        return Err(ApiError::about("limit", Problem::OutOfRange { low: 1.0, high: MOST as f64 }));
    }
    let mut filter = AuditFilter { after: wanted.after.unwrap_or(0), ..AuditFilter::default() };
    filter.from = moment("from", wanted.from.as_deref())?.unwrap_or(filter.from);
    filter.to = moment("to", wanted.to.as_deref())?.unwrap_or(filter.to);
    if let Some(user) = wanted.user {
        // Of those who are gone, the id remains.
        filter.actor_id = Some(match state.auth.find_user(&user).await {
            Ok(user) => user.id,
            Err(AuthError::Store(StoreError::NotFound(_))) => user,
            Err(error) => return Err(error.into()),
        });
    }
    let Some(log) = state.gate.audit.log() else {
        return Ok(Json(AuditPage { object: "list", data: Vec::new(), next: None }));
    };
    let rows = log.rows(&filter, limit).await?;
    let next = rows.last().filter(|_| rows.len() as i64 == limit).map(|row| row.seq);
    Ok(Json(AuditPage { object: "list", data: rows.into_iter().map(Into::into).collect(), next }))
}
