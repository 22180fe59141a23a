//! The way to collectors of traces and errors: HTTP with short patience, behind a breaker, silent when nobody is there.
//! Blocks, and is only called by exporters' own threads.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use ureq::Agent;
use ureq::tls::{TlsConfig, TlsProvider};

use crate::resilience::Breaker;
use crate::trust;

/// A collector is waited for so long.
const PATIENCE: Duration = Duration::from_secs(2);

/// A collector of payloads. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Collector {
    agent: Agent,
    breaker: Arc<Breaker>,
}

impl Collector {
    /// Behind this breaker.
    pub fn new(breaker: Arc<Breaker>) -> Self {
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .unversioned_rustls_crypto_provider(trust::provider())
            .build();
        let config = Agent::config_builder().timeout_global(Some(PATIENCE)).http_status_as_error(false).tls_config(tls);
        Self { agent: config.build().new_agent(), breaker }
    }

    /// Posts a body.
    ///
    /// # Errors
    /// When the collector is left alone or does not answer. Refusals are answers.
    pub fn send(&self, request: Request<Vec<u8>>) -> Result<Response<Vec<u8>>, HttpError> {
        let permit = self.breaker.admit()?;
        let answer = self.agent.run(request).and_then(|response| {
            let (head, mut body) = response.into_parts();
            Ok(Response::from_parts(head, body.read_to_vec()?))
        });
        match &answer {
            Ok(response) if !response.status().is_server_error() => permit.succeed(),
            _ => permit.fail(),
        }
        Ok(answer?)
    }
}

impl HttpClient for Collector {
    fn send_bytes<'a, 'b>(
        &'a self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move { Ok(self.send(request.map(Bytes::into))?.map(Bytes::from)) })
    }
}
