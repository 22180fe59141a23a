//! What the audit log is told of requests that generate nothing: logins, refusals, changes by administrators. What was
//! generated tells `generate` itself.

use std::net::IpAddr;
use std::time::Duration;

use axum::extract::{MatchedPath, Request};
use axum::http::{Method, StatusCode};
use axum::response::Response;
use serde_json::{Map, Value as Json, json};

use super::AppState;
use super::client::{Address, RequestId};
use super::error::ApiError;
use crate::audit::{Actor, Event, Kind};
use crate::auth::{Credential, Identity};

/// What a handler says of what it did; it travels in the answer's extensions.
#[derive(Debug, Clone, Default)]
pub struct Deed {
    /// Who did it, where no credential says so.
    pub actor: Option<Actor>,
    /// To whom or what.
    pub object: String,
    /// What. Never a secret.
    pub details: Map<String, Json>,
}

impl Deed {
    /// Something done to this object.
    pub fn to(object: impl Into<String>, details: Json) -> Self {
        let details = if let Json::Object(details) = details { details } else { Map::new() };
        Self { actor: None, object: object.into(), details }
    }
}

/// What is known of a request before it is answered.
pub(super) struct Visit {
    method: Method,
    path: String,
    /// The route that leads there; none where there is none.
    route: Option<String>,
    address: IpAddr,
    request_id: String,
}

impl Visit {
    pub fn of(request: &Request, request_id: &RequestId, state: &AppState) -> Self {
        Self {
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            route: request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned()),
            address: Address::of(request.extensions(), request.headers(), &state.config.trusted_proxies).0,
            request_id: request_id.0.clone(),
        }
    }

    /// Tells the audit log how the request ended, if that is of interest.
    pub fn record(self, state: &AppState, response: &mut Response, error: Option<&ApiError>, elapsed: Duration) {
        let (identity, deed) =
            (response.extensions_mut().remove::<Identity>(), response.extensions_mut().remove::<Deed>());
        let status = response.status();
        let Some(kind) = self.kind(status) else { return };
        let deed = deed.unwrap_or_default();
        let action = format!("{} {}", self.method, self.route.as_deref().unwrap_or(&self.path));
        let mut event = Event {
            actor: deed.actor.or_else(|| identity.as_ref().map(actor)).unwrap_or_default(),
            address: Some(self.address),
            request_id: self.request_id,
            object: if deed.object.is_empty() && kind != Kind::Login { self.path } else { deed.object },
            outcome: outcome(kind, status).into(),
            details: deed.details,
            ..Event::new(kind, action)
        };
        event.details.insert("status".into(), status.as_u16().into());
        event.details.insert("duration_ms".into(), json!(elapsed.as_millis() as u64));
        if let Some(code) = error.and_then(|error| error.problem.code()) {
            event.details.insert("code".into(), code.into());
        }
        state.gate.audit.record(event);
    }

    fn kind(&self, status: StatusCode) -> Option<Kind> {
        let route = self.route.as_deref().unwrap_or_default();
        let refused =
            [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::TOO_MANY_REQUESTS].contains(&status);
        if self.method == Method::POST && (route == "/token" || route.starts_with("/token/")) {
            Some(Kind::Login)
        } else if refused {
            Some(Kind::Refusal)
        } else {
            (route.starts_with("/admin/") && self.method != Method::GET && self.method != Method::HEAD)
                .then_some(Kind::Admin)
        }
    }
}

fn outcome(kind: Kind, status: StatusCode) -> &'static str {
    match kind {
        Kind::Refusal => "refused",
        _ if status.is_success() => "done",
        Kind::Login if status == StatusCode::TOO_MANY_REQUESTS => "slowed",
        _ => "failed",
    }
}

/// Who this is, as the audit log names them.
pub(super) fn actor(identity: &Identity) -> Actor {
    let (credential, key_id) = match &identity.credential {
        Credential::Anonymous => ("anonymous", ""),
        Credential::Internal => ("internal", ""),
        Credential::Token(_) => ("token", ""),
        Credential::Key { id, .. } => ("key", id.as_str()),
    };
    Actor { id: identity.user_id.clone(), name: identity.name.clone(), credential, key_id: key_id.to_owned() }
}
