//! Reading a request's JSON body: type, size, time, encoding, nesting, repeated keys, and at last its fields. Every
//! refusal names the field at fault.

use std::collections::HashSet;
use std::fmt;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, FailedToBufferBody};
use axum::extract::{FromRequest, Request};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use serde::de::{DeserializeOwned, Deserializer, MapAccess, SeqAccess, Visitor};

use super::AppState;
use super::error::ApiError;
use super::mismatch::Mismatch;
use super::problem::Problem;

/// What is said of a key that an object has twice, before its name.
const TWICE: &str = "repeated key: ";
/// Bodies beyond this size are parsed off the asynchronous threads.
const LARGE: usize = 64 * 1024;

/// Something that a JSON body is read as.
pub trait FromBody: Sized + Send + 'static {
    /// Reads and validates; `text` is known to be JSON.
    fn from_body(text: &str) -> Result<Self, ApiError>;
}

/// Extracts a JSON body.
#[derive(Debug)]
pub struct JsonBody<T>(pub T);

impl<T: FromBody> FromRequest<AppState> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        check_headers(request.headers())?;
        let limit = state.config.max_body;
        let bytes = match tokio::time::timeout(state.config.receive, Bytes::from_request(request, state)).await {
            Err(_) => return Err(Problem::SlowBody.into()),
            Ok(Err(rejection)) => return Err(refused(&rejection, limit)),
            Ok(Ok(bytes)) => bytes,
        };
        if bytes.len() < LARGE {
            return parse(&bytes).map(Self);
        }
        let parsed = tokio::task::spawn_blocking(move || parse(&bytes)).await;
        parsed.unwrap_or(Err(Problem::Internal.into())).map(Self)
    }
}

fn check_headers(headers: &HeaderMap) -> Result<(), ApiError> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    if let Some(kind) = text(CONTENT_TYPE) {
        let essence = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let json = essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"));
        if !json {
            return Err(Problem::NotJsonType.into());
        }
    }
    match text(CONTENT_ENCODING) {
        Some(coding) if !coding.eq_ignore_ascii_case("identity") => Err(Problem::Encoded(coding.to_owned()).into()),
        _ => Ok(()),
    }
}

fn refused(rejection: &BytesRejection, limit: usize) -> ApiError {
    match rejection {
        BytesRejection::FailedToBufferBody(FailedToBufferBody::LengthLimitError(_)) => Problem::TooLarge(limit),
        _ => Problem::BrokenBody,
    }
    .into()
}

/// Parses a body that has arrived whole.
pub(super) fn parse<T: FromBody>(bytes: &[u8]) -> Result<T, ApiError> {
    let text = std::str::from_utf8(bytes).map_err(|_| Problem::NotUtf8)?;
    fields::<Sound>(text)?;
    T::from_body(text)
}

/// Reads the fields of `T` from JSON; unknown ones are passed over.
pub(super) fn fields<T: DeserializeOwned>(text: &str) -> Result<T, ApiError> {
    let mut json = serde_json::Deserializer::from_str(text);
    let value: T = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        explain(error.inner(), Some(path).filter(|path| path != "."))
    })?;
    json.end().map_err(|error| explain(&error, None))?;
    Ok(value)
}

fn explain(error: &serde_json::Error, path: Option<String>) -> ApiError {
    let place = format!(" at line {} column {}", error.line(), error.column());
    let words = error.to_string();
    let words = words.strip_suffix(&place).unwrap_or(&words);
    if !error.is_data() {
        return Problem::NotJson { detail: words.to_owned(), line: error.line(), column: error.column() }.into();
    }
    if let Some(name) = words.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')) {
        let param = path.map_or_else(|| name.to_owned(), |path| format!("{path}.{name}"));
        return ApiError::about(param, Problem::Missing);
    }
    let problem = match (words.strip_prefix(TWICE), Mismatch::parse(words)) {
        (Some(key), _) => Problem::Repeated(key.to_owned()),
        (None, Some(mismatch)) => Problem::Mismatch(mismatch),
        (None, None) => Problem::Malformed(words.to_owned()),
    };
    match path {
        Some(path) => ApiError::about(path, problem),
        None => problem.into(),
    }
}

/// JSON that is an object and repeats no key at any depth. (`serde_json` itself bounds the depth.)
struct Sound;

impl<'de> serde::Deserialize<'de> for Sound {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(SoundVisitor).map(|()| Self)
    }
}

/// Any JSON value.
struct SoundValue;

impl<'de> serde::Deserialize<'de> for SoundValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SoundVisitor).map(|()| Self)
    }
}

struct SoundVisitor;

impl<'de> Visitor<'de> for SoundVisitor {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            map.next_value::<SoundValue>()?;
            if !seen.insert(key.clone()) {
                return Err(serde::de::Error::custom(format_args!("{TWICE}{key}")));
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element::<SoundValue>()?.is_some() {}
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}
