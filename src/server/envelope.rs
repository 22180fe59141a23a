//! The outermost layer: request id, time, language of errors, security headers, metrics, the request's span and its line
//! in the log, which is written when its last byte is.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{HOST, STRICT_TRANSPORT_SECURITY};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use hyper::body::{Frame, SizeHint};
use opentelemetry_http::HeaderExtractor;

use super::AppState;
use super::client::RequestId;
use super::error::ApiError;
use super::problem::Problem;
use super::trail::Visit;
use super::words;
use crate::telemetry::{Notes, RequestTrace};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The id that `/v1/requests` knows a request by.
const OWN_ID: HeaderName = HeaderName::from_static("x-steppe-request-id");
const PROCESSING: HeaderName = HeaderName::from_static("openai-processing-ms");
/// Longest request id taken over from a client.
const MAX_REQUEST_ID: usize = 128;
const SECURITY: [(&str, &str); 4] = [
    (
        "content-security-policy",
        "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; \
      frame-ancestors 'none'",
    ),
    ("x-frame-options", "DENY"),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
];

/// Wraps every request.
pub async fn envelope(State(state): State<AppState>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let own_id = RequestId::fresh();
    let request_id = request_id(request.headers(), &own_id);
    request.extensions_mut().insert(own_id.clone());
    let language = words::language(request.headers());
    let visit = Visit::of(&request, &own_id, &state);
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let matched = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let route = matched.unwrap_or_else(|| "unknown".into());
    let trace = state.traces.request(&HeaderExtractor(request.headers()), method.as_str(), &route, &own_id.0);
    request.extensions_mut().insert(trace.clone());

    let mut response = match foreign_host(&state, &request) {
        Some(host) => ApiError::from(Problem::Host(host)).into_response(),
        None => next.run(request).await,
    };
    let error = response.extensions_mut().remove::<ApiError>();
    visit.record(&state, &mut response, error.as_ref(), started.elapsed());
    if let Some(error) = error {
        // What inner layers have said, such as who may read this, stays.
        let (mut head, _) = response.into_parts();
        let (rendered, body) = error.render(language).into_parts();
        head.headers.extend(rendered.headers);
        response = Response::from_parts(head, body);
    }
    let elapsed = started.elapsed();
    put_headers(response.headers_mut(), &request_id, elapsed);
    if let Ok(own) = HeaderValue::from_str(&format!("req_{}", own_id.0)) {
        response.headers_mut().insert(OWN_ID, own);
    }
    if state.config.tls.is_some() {
        response.headers_mut().insert(STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000"));
    }
    let status = response.status().as_u16();
    state.metrics.request(&route, status, elapsed);
    let request_id = request_id.to_str().unwrap_or_default().to_owned();
    let ended = Ended { request_id, method, path, status, started, trace };
    response.map(|body| Body::new(Watched { body, _ended: ended }))
}

/// Says what became of a request when its answer has been sent or its client has left.
struct Ended {
    request_id: String,
    method: Method,
    path: String,
    status: u16,
    started: Instant,
    trace: RequestTrace,
}

impl Drop for Ended {
    fn drop(&mut self) {
        let Self { request_id, method, path, status, started, trace } = self;
        trace.end(*status);
        let duration_ms = started.elapsed().as_millis() as u64;
        let Notes { user_id, model, cache, prompt_tokens, completion_tokens } = trace.notes().clone();
        tracing::info!(
            request_id,
            %method,
            path,
            status,
            duration_ms,
            user_id,
            model,
            cache,
            prompt_tokens,
            completion_tokens,
            "request"
        );
    }
}

/// A body that knows when it ends.
struct Watched {
    body: Body,
    _ended: Ended,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The name that the request uses for this server, where it is not one of those allowed. Probes may use any.
fn foreign_host(state: &AppState, request: &Request) -> Option<String> {
    let allowed = &state.config.allowed_hosts;
    if allowed.is_empty() || matches!(request.uri().path(), "/health" | "/ready") {
        return None;
    }
    let header = request.headers().get(HOST).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let port = header.rfind(':').filter(|colon| !header[*colon..].contains(']'));
    let host = port.map_or(header, |colon| &header[..colon]).to_ascii_lowercase();
    (!allowed.contains(&host)).then_some(host)
}

fn put_headers(headers: &mut HeaderMap, request_id: &HeaderValue, elapsed: Duration) {
    headers.insert(REQUEST_ID, request_id.clone());
    headers.insert(PROCESSING, HeaderValue::from(elapsed.as_millis() as u64));
    for (name, value) in SECURITY {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
}

/// The client's own id if it is sane, else a new one.
fn request_id(headers: &HeaderMap, own: &RequestId) -> HeaderValue {
    let sane = |value: &&HeaderValue| {
        let bytes = value.as_bytes();
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(byte);
        (1..=MAX_REQUEST_ID).contains(&bytes.len()) && bytes.iter().all(plain)
    };
    let fresh = || format!("req_{}", own.0).parse().unwrap_or(HeaderValue::from_static("req"));
    headers.get(REQUEST_ID).filter(sane).cloned().unwrap_or_else(fresh)
}
