//! Who asks, and whether they may: the layer around every route that is not open. Behind it the request carries an
//! [`Identity`].

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::{Router, http::HeaderValue};

use super::AppState;
use super::error::ApiError;
use super::problem::{Problem, Reason};
use crate::auth::{AuthError, Authenticator, Identity, KEY_PREFIX, Scope};
use crate::store::StoreError;
use crate::telemetry::RequestTrace;

const INTERNAL: &str = "x-internal-auth";

/// These routes, for those whose credential may be used for `scope`.
pub fn guarded(routes: Router<AppState>, scope: Scope, state: &AppState) -> Router<AppState> {
    routes.route_layer(from_fn_with_state((state.clone(), scope), guard))
}

async fn guard(
    State((state, scope)): State<(AppState, Scope)>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let kind = kind(request.headers());
    let identified = identify(&state.auth, request.headers()).await;
    state.metrics.credential(
        kind,
        match &identified {
            Ok(identity) if identity.may(scope) => "accepted",
            Ok(_) => "forbidden",
            Err(error) if error.is_ours() => "error",
            Err(_) => "refused",
        },
    );
    let identity = identified?;
    if let Some(trace) = request.extensions().get::<RequestTrace>() {
        trace.notes().user_id = Some(identity.user_id.clone());
    }
    let refusal = if !identity.may(scope) {
        Some(Problem::NotAllowed(scope))
    } else if state.gate.audit.is_blocked() && scope != Scope::Metrics {
        Some(Problem::Audit)
    } else {
        None
    };
    let mut response = if let Some(problem) = refusal {
        ApiError::from(problem).into_response()
    } else {
        request.extensions_mut().insert(identity.clone());
        next.run(request).await
    };
    // The audit log asks who it was.
    response.extensions_mut().insert(identity);
    Ok(response)
}

async fn identify(auth: &Authenticator, headers: &HeaderMap) -> Result<Identity, AuthError> {
    let text = |value: &HeaderValue| value.to_str().unwrap_or_default().trim().to_owned();
    // A client library may send a bearer of its own beside the key of a service: the key counts first, if it is right.
    let internal = headers.get(INTERNAL).map(|key| auth.internal(&text(key)));
    if let Some(Ok(identity)) = internal {
        return Ok(identity);
    }
    let Some(header) = headers.get(AUTHORIZATION).map(text) else { return internal.unwrap_or_else(|| auth.nobody()) };
    match header.split_once(' ') {
        Some((scheme, credential)) if scheme.eq_ignore_ascii_case("bearer") => auth.bearer(credential.trim()).await,
        _ => Err(AuthError::Invalid),
    }
}

/// What kind of credential a request comes with, good or not.
fn kind(headers: &HeaderMap) -> &'static str {
    let header = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes);
    match header {
        _ if headers.contains_key(INTERNAL) => "internal",
        None => "none",
        Some(value) => match value.split_at_checked("bearer ".len()) {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"bearer ") => {
                if token.trim_ascii_start().starts_with(KEY_PREFIX.as_bytes()) { "key" } else { "token" }
            }
            _ => "other",
        },
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Exists(name) => Problem::Exists(name).into(),
            StoreError::NotFound(name) => Problem::NoObject(name).into(),
            // Its breaker has said so.
            StoreError::Resting(_) => Problem::Store.into(),
            error => {
                tracing::error!("{error}");
                Problem::Store.into()
            }
        }
    }
}

impl From<AuthError> for ApiError {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::Missing => Problem::NoCredential.into(),
            AuthError::Invalid | AuthError::WrongPassword | AuthError::TooMany(_) => Problem::BadCredential.into(),
            AuthError::WeakPassword(least) => ApiError::invalid("password", Reason::Short(least)),
            AuthError::BadName => ApiError::invalid("username", Reason::UserName),
            AuthError::Store(error) => error.into(),
            AuthError::Unavailable(..) => {
                tracing::error!("{error}");
                Problem::Identity.into()
            }
            AuthError::Secret(..) | AuthError::System(_) => {
                tracing::error!("{error}");
                Problem::Internal.into()
            }
        }
    }
}
