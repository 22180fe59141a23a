//! What a handler needs to know of who asks: identity, address, language of messages, the key of fair queueing.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::extract::{ConnectInfo, FromRequestParts, MatchedPath};
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap};

use super::AppState;
use super::error::ApiError;
use super::openai::fields::user_key;
use super::problem::Problem;
use super::terms::cache_use;
use super::trail::actor;
use super::words;
use crate::auth::{Credential, Identity, Scope};
use crate::config::{Network, Tenant};
use crate::generate::{CacheUse, Caller, Generator};
use crate::lang::Lang;
use crate::store::new_digits;
use crate::telemetry::RequestTrace;

const MAX_IDEMPOTENCY_KEY: usize = 255;

/// Who asks, on a route that is not open.
#[derive(Debug, Clone)]
pub struct Client {
    /// Language of messages.
    pub language: Lang,
    /// Whose credential it is.
    pub identity: Identity,
    /// From where.
    pub address: Address,
    /// The request's id, made here.
    pub request_id: RequestId,
    /// Method and route.
    action: String,
    /// Told what becomes of the request.
    pub trace: RequestTrace,
    /// What may come from the prompt cache.
    cache: CacheUse,
    idempotency_key: Option<String>,
    tenant: Tenant,
}

/// The address that a request comes from, seen through trusted proxies.
#[derive(Debug, Clone, Copy)]
pub struct Address(pub IpAddr);

/// The id of a request, 32 hexadecimal digits made by the server. Later ones sort after earlier ones: rows that are added at
/// the same time then lie side by side in the database's indexes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(pub String);

impl RequestId {
    /// A new one.
    pub fn fresh() -> Self {
        Self(new_digits())
    }
}

impl Client {
    /// The user whom this client speaks for: themselves, or another if it may.
    ///
    /// # Errors
    /// Where it names another and may not.
    pub fn acting_for(&self, user_id: Option<String>) -> Result<String, ApiError> {
        match user_id {
            Some(other) if other != self.identity.user_id => {
                if self.identity.may(Scope::ActAs) || self.identity.may(Scope::Admin) {
                    return Ok(other);
                }
                Err(ApiError::about("user_id", Problem::NotAllowed(Scope::ActAs)))
            }
            _ => Ok(self.identity.user_id.clone()),
        }
    }

    /// In whose name something is generated: the client's own, or that of the user whom the request names, where the client
    /// may act for others. Such a client may also say whose turn it is.
    ///
    /// # Errors
    /// When the client may not act for others, or there is no such user.
    pub async fn caller(
        &self,
        state: &AppState,
        user: Option<&str>,
        user_id: Option<String>,
    ) -> Result<Caller, ApiError> {
        let other = match self.acting_for(user_id)? {
            id if id == self.identity.user_id => None,
            id => Some(state.auth.acting_for(&id, &self.identity).await?),
        };
        Ok(self.caller_as(other.as_ref().unwrap_or(&self.identity), user))
    }

    fn caller_as(&self, identity: &Identity, user: Option<&str>) -> Caller {
        let Identity { user_id, department, credential, .. } = identity;
        let anonymous = *credential == Credential::Anonymous;
        let turn = match user {
            Some(user) if anonymous || self.identity.may(Scope::ActAs) => user_key(user),
            _ if anonymous => user_key(&format!("address {}", self.address.0)),
            _ => user_key(&format!("user {user_id}")),
        };
        let key = match credential {
            Credential::Key { id, limits, .. } => Some((id.clone(), *limits)),
            _ => None,
        };
        let tenant = match (self.tenant, department) {
            (Tenant::All, _) => "all".to_owned(),
            (Tenant::Department, Some((department, _))) => format!("department {department}"),
            _ => format!("user {user_id}"),
        };
        Caller {
            request_id: self.request_id.0.clone(),
            user_id: user_id.clone(),
            actor: actor(&self.identity),
            action: self.action.clone(),
            key,
            department: department.clone(),
            address: Some(self.address.0),
            turn,
            tenant,
            cache: self.cache,
            idempotency_key: self.idempotency_key.clone(),
            trace: self.trace.clone(),
        }
    }

    /// The generator of the model of this name, if this client may use it; none means the default model.
    ///
    /// # Errors
    /// While loading and while stopping, or when there is no such model, or not for this client.
    pub fn generator<'a>(&self, state: &'a AppState, name: Option<&str>) -> Result<&'a Generator, ApiError> {
        let generator = state.generator_for(name)?;
        let id = &generator.model().id;
        if self.identity.may_use(id) {
            return Ok(generator);
        }
        Err(ApiError::about("model", Problem::ModelNotAllowed(id.clone())))
    }
}

impl FromRequestParts<AppState> for Client {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        let identity = parts.extensions.get::<Identity>().cloned().ok_or(Problem::NoCredential)?;
        let request_id = parts.extensions.get::<RequestId>().cloned().unwrap_or_else(RequestId::fresh);
        let route = parts.extensions.get::<MatchedPath>();
        Ok(Self {
            language: words::language(&parts.headers),
            identity,
            address: Address::of(&parts.extensions, &parts.headers, &state.config.trusted_proxies),
            action: format!("{} {}", parts.method, route.map_or(parts.uri.path(), MatchedPath::as_str)),
            request_id,
            trace: parts.extensions.get::<RequestTrace>().cloned().unwrap_or_default(),
            cache: cache_use(&parts.headers),
            idempotency_key: idempotency_key(&parts.headers),
            tenant: state.tenant,
        })
    }
}

/// The key under which a repeated request gets the first answer; too long a one is none.
fn idempotency_key(headers: &HeaderMap) -> Option<String> {
    let key = headers.get("idempotency-key")?.to_str().ok()?;
    (1..=MAX_IDEMPOTENCY_KEY).contains(&key.len()).then(|| key.to_owned())
}

impl FromRequestParts<AppState> for Address {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Infallible> {
        Ok(Self::of(&parts.extensions, &parts.headers, &state.config.trusted_proxies))
    }
}

impl Address {
    /// Of a request with these extensions and headers.
    pub fn of(extensions: &Extensions, headers: &HeaderMap, trusted: &[Network]) -> Self {
        let peer = extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip());
        Self(forwarded(peer.unwrap_or(Ipv4Addr::UNSPECIFIED.into()).to_canonical(), headers, trusted))
    }
}

/// Each proxy appends the address that it was called from: the last one that is no trusted proxy is the client's.
fn forwarded(peer: IpAddr, headers: &HeaderMap, trusted: &[Network]) -> IpAddr {
    let is_trusted = |address: &IpAddr| trusted.iter().any(|network| network.contains(*address));
    let header = headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok());
    let listed: Vec<&str> = header.flat_map(|value| value.split(',')).map(str::trim).collect();
    let mut client = peer;
    for hop in listed.into_iter().rev() {
        if !is_trusted(&client) {
            break;
        }
        let Ok(address) = hop.parse::<IpAddr>() else { break };
        client = address.to_canonical();
    }
    client
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn only_trusted_proxies_are_believed() {
        let trusted: Vec<Network> = ["10.0.0.0/8", "::1"].iter().map(|text| text.parse().unwrap()).collect();
        let client = |peer: &str, header: &str| {
            let headers = HeaderMap::from_iter([("x-forwarded-for".parse().unwrap(), header.parse().unwrap())]);
            forwarded(peer.parse().unwrap(), &headers, &trusted).to_string()
        };
        assert_eq!(client("192.0.2.1", "198.51.100.7"), "192.0.2.1");
        assert_eq!(client("10.0.0.1", "198.51.100.7"), "198.51.100.7");
        assert_eq!(client("10.0.0.1", "203.0.113.9, 198.51.100.7, 10.1.1.1"), "198.51.100.7");
        assert_eq!(client("10.0.0.1", "nonsense"), "10.0.0.1");
        assert_eq!(client("::1", "2001:db8::1"), "2001:db8::1");
        assert_eq!(client("10.0.0.1", ""), "10.0.0.1");
    }
}
