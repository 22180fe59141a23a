//! The headers by which a client learns on what terms its request was taken: limits, cache, place in the queue.

use std::time::Duration;

use axum::http::header::AGE;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::Response;

use crate::generate::{CacheUse, Terms};
use crate::limits::{Rate, Rates};

/// Puts the terms of an answer into its headers.
pub fn with_terms(mut response: Response, terms: &Terms) -> Response {
    let headers = response.headers_mut();
    headers.insert("x-cache", HeaderValue::from_static(terms.cache.as_str()));
    if let Some(age) = terms.age {
        headers.insert(AGE, HeaderValue::from(age.as_secs()));
    }
    headers.insert("x-queue-position", HeaderValue::from(terms.queue_position));
    headers.insert("x-queue-wait-ms", HeaderValue::from(terms.expected_wait.as_millis() as u64));
    put_rates(headers, &terms.rates);
    response
}

/// Puts what is left of the limits into the headers; nothing where there is no limit.
pub fn put_rates(headers: &mut HeaderMap, rates: &Rates) {
    let names = [
        ["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"],
        ["x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"],
    ];
    for (names, rate) in names.into_iter().zip([rates.requests, rates.tokens]) {
        let Some(Rate { limit, remaining, reset }) = rate else { continue };
        let [limit_name, remaining_name, reset_name] = names.map(HeaderName::from_static);
        headers.insert(limit_name, HeaderValue::from(limit));
        headers.insert(remaining_name, HeaderValue::from(remaining));
        if let Ok(reset) = HeaderValue::from_str(&duration(reset)) {
            headers.insert(reset_name, reset);
        }
    }
}

/// A duration as OpenAI writes it: `120ms`, `1.5s`, `6m0s`, `2h0m0s`.
fn duration(time: Duration) -> String {
    let milliseconds = time.as_millis();
    if milliseconds < 1000 {
        return format!("{milliseconds}ms");
    }
    let seconds = milliseconds.div_ceil(1000);
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{}s", (milliseconds as f64 / 100.0).ceil() / 10.0),
        (0, _) => format!("{minutes}m{rest}s"),
        _ => format!("{hours}h{minutes}m{rest}s"),
    }
}

/// How a request wants to use the prompt cache, by its `Cache-Control` header (RFC 9111, section 5.2.1).
pub fn cache_use(headers: &HeaderMap) -> CacheUse {
    let mut wanted = CacheUse::default();
    let values = headers.get_all(axum::http::header::CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    for directive in values.flat_map(|value| value.split(',')).map(|text| text.trim().to_ascii_lowercase()) {
        match directive.split_once('=') {
            None if directive == "no-store" => wanted.write = false,
            None if directive == "no-cache" => wanted.read = false,
            Some(("max-age", seconds)) => {
                if let Ok(seconds) = seconds.trim_matches('"').parse() {
                    wanted.always = true;
                    wanted.max_age = Some(Duration::from_secs(seconds));
                }
            }
            _ => {}
        }
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (milliseconds, written) in [
            (0, "0ms"),
            (120, "120ms"),
            (1000, "1s"),
            (1501, "1.6s"),
            (59_000, "59s"),
            (360_000, "6m0s"),
            (7_200_500, "2h0m1s"),
        ] {
            assert_eq!(duration(Duration::from_millis(milliseconds)), written);
        }
    }

    #[test]
    fn cache_control() {
        let header = |text: &'static str| {
            cache_use(&HeaderMap::from_iter([(axum::http::header::CACHE_CONTROL, HeaderValue::from_static(text))]))
        };
        assert_eq!(cache_use(&HeaderMap::new()), CacheUse::default());
        assert_eq!(header("private, No-Store"), CacheUse { write: false, ..CacheUse::default() });
        assert_eq!(header("no-cache"), CacheUse { read: false, ..CacheUse::default() });
        let aged = CacheUse { always: true, max_age: Some(Duration::from_mins(1)), ..CacheUse::default() };
        assert_eq!(header("max-age=60"), aged);
        assert_eq!(header("max-age=x"), CacheUse::default());
    }
}
