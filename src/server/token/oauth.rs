//! OAuth2's form of bodies and errors (RFC 6749, section 5.2). Must not know what a token is.

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Form, Json};
use serde::Serialize;
use serde::de::DeserializeOwned;
use utoipa::ToSchema;

use crate::auth::AuthError;
use crate::lang::Lang;
use crate::server::{AppState, words};

/// An error in OAuth2's form.
#[derive(Debug, Serialize, ToSchema)]
pub struct OAuthError {
    /// For programs.
    pub error: &'static str,
    /// For people.
    pub error_description: String,
}

/// A field that must be there.
pub(super) fn required(value: Option<String>, name: &str, lang: Lang) -> Result<String, Refusal> {
    let told = || lang.pick(format!("`{name}` is required"), format!("нужно поле `{name}`"));
    value.filter(|value| !value.is_empty()).ok_or_else(|| Refusal::bad("invalid_request", told()))
}

/// A body of OAuth2, and the language of what is said about it.
#[derive(Debug)]
pub struct OAuthBody<T>(pub T, pub Lang);

impl<T: DeserializeOwned> FromRequest<AppState> for OAuthBody<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, Refusal> {
        let lang = words::language(request.headers());
        let form = is_form(request.headers());
        let malformed = || {
            let told = lang.pick("the body is neither valid JSON nor a form", "тело запроса — не JSON и не форма");
            Refusal::bad("invalid_request", told.to_owned())
        };
        let read = async {
            if form {
                return Form::from_request(request, state).await.map(|Form(body)| body).map_err(|_| malformed());
            }
            let bytes = Bytes::from_request(request, state).await.map_err(|_| malformed())?;
            serde_json::from_slice(&bytes).map_err(|_| malformed())
        };
        if state.gate.audit.is_blocked() {
            let told = lang.pick("The audit log cannot be written now", "Журнал аудита сейчас не записывается");
            return Err(Refusal::unavailable(told));
        }
        match tokio::time::timeout(state.config.receive, read).await {
            Ok(body) => Ok(Self(body?, lang)),
            Err(_) => Err(malformed()),
        }
    }
}

fn is_form(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    kind.starts_with("application/x-www-form-urlencoded")
}

/// No tokens, and why.
#[derive(Debug)]
pub struct Refusal {
    status: StatusCode,
    error: &'static str,
    description: String,
    /// Seconds.
    retry_after: Option<u64>,
}

impl Refusal {
    /// A request that makes no sense.
    pub(super) fn bad(error: &'static str, description: String) -> Self {
        Self { status: StatusCode::BAD_REQUEST, error, description, retry_after: None }
    }

    fn unavailable(told: &str) -> Self {
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            retry_after: Some(5),
            ..Self::bad("temporarily_unavailable", told.into())
        }
    }

    /// Why these credentials get no tokens.
    pub(super) fn new(error: &AuthError, lang: Lang) -> Self {
        match error {
            AuthError::WrongPassword => {
                let told = lang.pick("Incorrect username or password", "Неверное имя пользователя или пароль");
                Self::bad("invalid_grant", told.into())
            }
            AuthError::Missing | AuthError::Invalid | AuthError::BadName | AuthError::WeakPassword(_) => {
                let told = lang.pick(
                    "The refresh token is wrong, expired, revoked or was used before",
                    "Токен обновления неверен, истёк, отозван или уже использован",
                );
                Self::bad("invalid_grant", told.into())
            }
            AuthError::TooMany(wait) => {
                let seconds = wait.as_secs_f64().ceil() as u64;
                let told = lang.pick(
                    format!("Too many failed logins; try again in {seconds} s"),
                    format!("Слишком много неудачных входов; повторите через {seconds} с"),
                );
                Self {
                    status: StatusCode::TOO_MANY_REQUESTS,
                    retry_after: Some(seconds),
                    ..Self::bad("temporarily_unavailable", told)
                }
            }
            AuthError::Unavailable(..) | AuthError::Store(_) | AuthError::Secret(..) | AuthError::System(_) => {
                tracing::error!("login: {error}");
                let told = lang.pick("The server cannot check it now", "Сервер сейчас не может это проверить");
                Self::unavailable(told)
            }
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = OAuthError { error: self.error, error_description: self.description };
        let mut response = (self.status, [(CACHE_CONTROL, "no-store")], Json(body)).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        response
    }
}
