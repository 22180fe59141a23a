//! Errors and panics for a Sentry server: what the log says at level error, where it was, and nothing of users, prompts or
//! requests' headers. Sent by a thread of its own with a bounded queue.

use std::path::Path;
use std::sync::Arc;

use opentelemetry_http::Request;
use secrecy::{ExposeSecret as _, SecretString};
use sentry::protocol::Event;
use sentry::transports::{RateLimiter, StdTransportThread, StdTransportThreadOptions};
use sentry::types::Dsn;
use sentry::{ClientOptions, Envelope, Transport, TransportFactory, TransportOptions};

use super::collector::Collector;
use crate::resilience::Breaker;

/// How events are sent to this DSN; for [`sentry::init`].
///
/// # Errors
/// When the DSN is none, or nobody is trusted to be there.
pub(super) fn options(
    dsn: &SecretString,
    environment: &str,
    ca_file: Option<&Path>,
    breaker: Arc<Breaker>,
) -> anyhow::Result<ClientOptions> {
    let dsn: Dsn = dsn.expose_secret().parse()?;
    let url = format!("{}://", dsn.scheme());
    let collector = Collector::new(&url, ca_file, breaker)?;
    let mut options = ClientOptions::new();
    options.dsn = Some(dsn);
    options.release = Some(concat!("steppe@", env!("CARGO_PKG_VERSION")).into());
    options.environment = Some(environment.to_owned().into());
    options.max_breadcrumbs = 0;
    options.send_default_pii = false;
    options.before_send = Some(Arc::new(|event| Some(bare(event))));
    options.transport = Some(Arc::new(Way { collector }));
    options.shutdown_timeout = std::time::Duration::from_secs(2);
    Ok(options)
}

/// Without what may be a user's. A panic's message may quote the text that it was about.
fn bare(mut event: Event<'static>) -> Event<'static> {
    event.user = None;
    event.request = None;
    event.server_name = None;
    event.breadcrumbs.values.clear();
    for exception in &mut event.exception.values {
        if exception.ty == "panic" {
            let quote = exception.value.as_ref().and_then(|words| words.find(['`', '"', '\'']));
            if let (Some(words), Some(quote)) = (&mut exception.value, quote) {
                words.truncate(quote);
            }
        }
    }
    event
}

/// Posts envelopes.
struct Way {
    collector: Collector,
}

struct Sending(StdTransportThread);

impl TransportFactory for Way {
    fn create_transport_with_options(&self, options: TransportOptions) -> Arc<dyn Transport> {
        let collector = self.collector.clone();
        let auth = options.dsn.to_auth(Some(&options.user_agent)).to_string();
        let url = options.dsn.envelope_api_url().to_string();
        let send = move |envelope: Envelope, limits: &mut RateLimiter| {
            let mut body = Vec::new();
            let Ok(()) = envelope.to_writer(&mut body) else { return };
            let request = Request::post(&url).header("x-sentry-auth", &auth).body(body);
            let Ok(Ok(answer)) = request.map(|request| collector.send(request)) else { return };
            if answer.status() == 429 {
                limits.update_from_429();
            }
        };
        Arc::new(Sending(StdTransportThreadOptions::new(send).spawn_thread()))
    }
}

impl Transport for Sending {
    fn send_envelope(&self, envelope: Envelope) {
        self.0.send(envelope);
    }

    fn flush(&self, timeout: std::time::Duration) -> bool {
        self.0.flush(timeout)
    }

    fn shutdown(&self, timeout: std::time::Duration) -> bool {
        self.flush(timeout)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::time::Duration;

    use sentry::{Client, Hub, Scope};
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;
    use crate::resilience::{BreakerSettings, BreakerState};

    fn sent(dsn: String, breaker: &Arc<Breaker>) {
        let options = options(&dsn.into(), "tests", None, Arc::clone(breaker)).unwrap();
        let client = Arc::new(Client::from(sentry::apply_defaults(options)));
        let hub = Arc::new(Hub::new(Some(Arc::clone(&client)), Arc::new(Scope::default())));
        let errors = sentry::integrations::tracing::ErrorLayer::new();
        let subscriber = tracing_subscriber::Registry::default().with(errors);
        Hub::run(hub, || {
            tracing::subscriber::with_default(subscriber, || tracing::error!(request_id = "req_1", "the step failed"));
        });
        client.close(Some(Duration::from_secs(5)));
    }

    #[test]
    fn an_error_arrives_with_its_fields_and_environment() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            let (mut all, mut part) = (Vec::new(), [0; 4096]);
            while let Ok(read @ 1..) = stream.read(&mut part) {
                all.extend_from_slice(&part[..read]);
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}").unwrap();
            String::from_utf8_lossy(&all).into_owned()
        });
        let breaker = Breaker::new("sentry", BreakerSettings::default());
        sent(format!("http://public@{address}/42"), &breaker);
        let payload = server.join().unwrap();
        assert!(payload.starts_with("POST /api/42/envelope/ HTTP/1.1"), "{payload}");
        for told in ["the step failed", "req_1", "\"environment\":\"tests\"", "steppe@"] {
            assert!(payload.contains(told), "{told} in {payload}");
        }
        for hidden in ["server_name", "\"user\"", "\"request\":"] {
            assert!(!payload.contains(hidden), "{hidden} in {payload}");
        }
    }

    #[test]
    fn a_server_that_is_gone_is_left_alone() {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let breaker = Breaker::new("sentry", BreakerSettings { failure_threshold: 1, ..BreakerSettings::default() });
        sent(format!("http://public@{address}/42"), &breaker);
        assert_eq!(breaker.report().state, BreakerState::Open);
    }

    #[test]
    fn a_panic_does_not_quote() {
        let mut event = Event::default();
        let value = Some("byte index 1 is not a char boundary; it is inside `prompt`".into());
        event.exception.values.push(sentry::protocol::Exception { ty: "panic".into(), value, ..Default::default() });
        let value = bare(event).exception.values.remove(0).value;
        assert_eq!(value.as_deref(), Some("byte index 1 is not a char boundary; it is inside "));
    }
}
