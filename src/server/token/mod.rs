//! `POST /token`, `/token/refresh` and `/token/revoke`: from name and password to tokens. Errors are in the form of RFC 6749,
//! section 5.2; no cache keeps an answer.

mod oauth;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CACHE_CONTROL;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use self::oauth::{OAuthBody, OAuthError, Refusal, required};
use super::AppState;
use super::client::Address;
use super::trail::Deed;
use crate::audit::Actor;
use crate::auth::Login;
use crate::store::User;

/// The body of `/token`: JSON, or OAuth2's form.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub struct TokenRequest {
    /// `password`, which is also meant where it is absent, or `refresh_token`.
    pub grant_type: Option<String>,
    /// Whose tokens.
    pub username: Option<String>,
    /// The user's password.
    pub password: Option<String>,
    /// For `refresh_token`.
    pub refresh_token: Option<String>,
}

/// Tokens.
#[derive(Debug, Serialize, ToSchema)]
pub struct TokenAnswer {
    /// What to send as `Authorization: Bearer`.
    pub access_token: String,
    /// `bearer`.
    pub token_type: &'static str,
    /// Seconds that it is good for.
    pub expires_in: u64,
    /// Good for one refresh.
    pub refresh_token: String,
    /// `admin` or `user`.
    pub role: &'static str,
}

/// The body of `/token/refresh`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub struct RefreshRequest {
    /// The newest one of its login.
    #[schema(required = true)]
    pub refresh_token: Option<String>,
}

/// The body of `/token/revoke`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub struct RevokeRequest {
    /// An access or refresh token.
    #[schema(required = true)]
    pub token: Option<String>,
}

/// Log in. `grant_type=refresh_token` does what `/token/refresh` does.
#[utoipa::path(
    post, path = "/token", tag = "Steppe", security(()),
    request_body(content((TokenRequest = "application/json"), (TokenRequest = "application/x-www-form-urlencoded"))),
    responses(
        (status = 200, description = "Tokens", body = TokenAnswer),
        (status = "4XX", description = "No tokens for this", body = OAuthError),
        (status = "5XX", description = "The database does not answer", body = OAuthError),
    )
)]
pub async fn token(
    State(state): State<AppState>,
    address: Address,
    OAuthBody(body, lang): OAuthBody<TokenRequest>,
) -> Result<Response, Refusal> {
    match body.grant_type.as_deref() {
        None | Some("password") => {
            let name = required(body.username, "username", lang)?;
            let password = required(body.password, "password", lang)?;
            let login = state.auth.log_in(&name, &password, address.0).await;
            state.metrics.credential(
                "password",
                match &login {
                    Ok(_) => "accepted",
                    Err(error) if error.is_ours() => "error",
                    Err(_) => "refused",
                },
            );
            match login {
                Ok(login) => Ok(tokens(login, "password")),
                Err(error) => {
                    // What belongs to nobody may be a password in the wrong field, and is not written down.
                    let user = state.auth.store().user_named(&name).await.ok().flatten();
                    let known = |user: User| Actor { id: user.id, name: user.name, ..Actor::default() };
                    let deed = Deed { actor: user.map(known), ..Deed::default() };
                    Ok((Extension(deed), Refusal::new(&error, lang)).into_response())
                }
            }
        }
        Some("refresh_token") => {
            let body = RefreshRequest { refresh_token: body.refresh_token };
            refresh(State(state), OAuthBody(body, lang)).await
        }
        Some(other) => {
            let told = lang.pick(
                format!("`{other}` is not taken; password and refresh_token are"),
                format!("`{other}` не принимается; есть password и refresh_token"),
            );
            Err(Refusal::bad("unsupported_grant_type", told))
        }
    }
}

/// New tokens for a refresh token, which is used up. A second use ends everything that descends from its login.
#[utoipa::path(
    post, path = "/token/refresh", tag = "Steppe", security(()),
    request_body(content((RefreshRequest = "application/json"), (RefreshRequest = "application/x-www-form-urlencoded"))),
    responses(
        (status = 200, description = "Tokens", body = TokenAnswer),
        (status = "4XX", description = "No tokens for this", body = OAuthError),
        (status = "5XX", description = "The database does not answer", body = OAuthError),
    )
)]
pub async fn refresh(
    State(state): State<AppState>,
    OAuthBody(body, lang): OAuthBody<RefreshRequest>,
) -> Result<Response, Refusal> {
    let token = required(body.refresh_token, "refresh_token", lang)?;
    let login = state.auth.refresh(&token).await.map_err(|error| Refusal::new(&error, lang))?;
    Ok(tokens(login, "refresh token"))
}

/// Take a token back. One that is not good is none to take back (RFC 7009).
#[utoipa::path(
    post, path = "/token/revoke", tag = "Steppe", security(()),
    request_body(content((RevokeRequest = "application/json"), (RevokeRequest = "application/x-www-form-urlencoded"))),
    responses(
        (status = 200, description = "It is not good any more"),
        (status = "4XX", description = "There is no token in the request", body = OAuthError),
        (status = "5XX", description = "The database does not answer", body = OAuthError),
    )
)]
pub async fn revoke(
    State(state): State<AppState>,
    OAuthBody(body, lang): OAuthBody<RevokeRequest>,
) -> Result<StatusCode, Refusal> {
    let token = required(body.token, "token", lang)?;
    state.auth.revoke(&token).await.map_err(|error| Refusal::new(&error, lang))?;
    Ok(StatusCode::OK)
}

fn tokens(login: Login, credential: &'static str) -> Response {
    let actor = Actor { id: login.user_id, name: login.name, credential, ..Actor::default() };
    let deed = Deed { actor: Some(actor), ..Deed::default() };
    let answer = TokenAnswer {
        access_token: login.access_token,
        token_type: "bearer",
        expires_in: login.expires_in,
        refresh_token: login.refresh_token,
        role: login.role.as_str(),
    };
    (Extension(deed), [(CACHE_CONTROL, "no-store")], Json(answer)).into_response()
}
