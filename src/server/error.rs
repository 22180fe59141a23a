//! The one error of every endpoint and the envelope it is answered in.

use axum::http::{HeaderValue, StatusCode, header::RETRY_AFTER, header::WWW_AUTHENTICATE};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::problem::{Problem, Reason};
use super::terms::put_rates;
use super::words::message;
use crate::lang::Lang;

/// A request that cannot be answered as asked.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiError {
    /// What is wrong.
    pub problem: Problem,
    /// The field that it is about, such as `messages[0].role`.
    pub param: Option<String>,
    status: StatusCode,
}

/// The body of every error.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorBody {
    /// The error.
    pub error: ErrorObject,
}

/// What went wrong.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorObject {
    /// For people, in the language of `Accept-Language` (en, ru).
    pub message: String,
    /// `invalid_request_error`, `rate_limit_error`, `insufficient_quota` or `server_error`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The field at fault.
    #[schema(required = true)]
    pub param: Option<String>,
    /// For programs; the same in every language.
    #[schema(required = true)]
    pub code: Option<&'static str>,
}

impl ApiError {
    /// An error about the field `param`.
    pub fn about(param: impl Into<String>, problem: Problem) -> Self {
        Self { param: Some(param.into()), ..Self::from(problem) }
    }

    /// An error about the field `param` whose value makes no sense.
    pub fn invalid(param: impl Into<String>, reason: Reason) -> Self {
        Self::about(param, Problem::Invalid(reason))
    }

    /// The same with 422 in the place of 400, for the endpoints outside `/v1`.
    #[must_use]
    pub fn unprocessable(self) -> Self {
        let status =
            if self.status == StatusCode::BAD_REQUEST { StatusCode::UNPROCESSABLE_ENTITY } else { self.status };
        Self { status, ..self }
    }

    /// The status it is answered with.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The envelope in `language`.
    pub fn body(&self, language: Lang) -> ErrorBody {
        ErrorBody {
            error: ErrorObject {
                message: message(language, &self.problem, self.param.as_deref()),
                kind: self.problem.kind(),
                param: self.param.clone(),
                code: self.problem.code(),
            },
        }
    }

    /// The whole answer in `language`.
    pub fn render(&self, language: Lang) -> Response {
        let mut response = (self.status, axum::Json(self.body(language))).into_response();
        let headers = response.headers_mut();
        if let Some(wait) = self.problem.retry_after() {
            headers.insert(RETRY_AFTER, wait.as_secs_f64().ceil().max(1.0).to_string().parse().unwrap_or(ONE));
            headers.insert("retry-after-ms", wait.as_millis().to_string().parse().unwrap_or(ONE));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Problem::RateLimited(refusal) = &self.problem {
            put_rates(headers, &refusal.rates);
        }
        if matches!(self.problem, Problem::Deadline | Problem::Quota { .. }) {
            headers.insert("x-should-retry", HeaderValue::from_static("false"));
        }
        response
    }
}

const ONE: HeaderValue = HeaderValue::from_static("1");

impl From<Problem> for ApiError {
    fn from(problem: Problem) -> Self {
        let status = problem.status();
        Self { problem, param: None, status }
    }
}

/// The error travels as an extension; the outermost layer knows the client's language and writes the envelope.
impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}
