//! The way to collectors of traces and errors: HTTP with short patience, behind a breaker, silent when nobody is there.
//! Blocks, and is only called by exporters' own threads.

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use ureq::Agent;
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};

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
    /// At this URL, behind this breaker. By https, it shows a certificate that those of `ca_file` have signed, or those
    /// that the system trusts.
    ///
    /// # Errors
    /// When there are no certificates to trust.
    pub fn new(url: &str, ca_file: Option<&Path>, breaker: Arc<Breaker>) -> anyhow::Result<Self> {
        let trusted = if url.starts_with("https://") { trust::certificates(ca_file) } else { Ok(Vec::new()) };
        let roots = trusted.map_err(anyhow::Error::msg)?;
        let roots: Vec<_> = roots.iter().map(|root| Certificate::from_der(root).to_owned()).collect();
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .root_certs(RootCerts::new_with_certs(&roots))
            .unversioned_rustls_crypto_provider(trust::provider())
            .build();
        let config = Agent::config_builder().timeout_global(Some(PATIENCE)).http_status_as_error(false).tls_config(tls);
        Ok(Self { agent: config.build().new_agent(), breaker })
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
