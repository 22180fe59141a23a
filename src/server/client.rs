//! What a handler needs to know of who asks: the language of messages and the key of fair queueing.

use std::convert::Infallible;
use std::net::SocketAddr;

use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::request::Parts;

use super::AppState;
use super::messages;
use super::openai::fields::user_key;
use crate::generate::GenerateRequest;
use crate::lang::Lang;

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct Client {
    /// Lang of messages.
    pub language: Lang,
    /// Requests without a `user` share the turn of their address.
    address_key: u64,
}

impl Client {
    /// The request in this client's name, unless it names a user itself.
    pub fn own(&self, request: GenerateRequest) -> GenerateRequest {
        let user = if request.user == 0 { self.address_key } else { request.user };
        GenerateRequest { user, ..request }
    }
}

impl FromRequestParts<AppState> for Client {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> Result<Self, Infallible> {
        let address = parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip().to_string());
        Ok(Self {
            language: messages::language(&parts.headers),
            address_key: user_key(&address.map(|ip| format!("address {ip}")).unwrap_or_default()),
        })
    }
}
