//! Reading a request's query string.

use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use super::AppState;
use super::error::ApiError;
use super::problem::Problem;

/// Extracts the parameters of the query string.
#[derive(Debug)]
pub struct Parameters<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<AppState> for Parameters<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        let malformed = |rejection: axum::extract::rejection::QueryRejection| {
            let words = rejection.body_text();
            let detail = words.rsplit(": ").next().unwrap_or_default().to_owned();
            ApiError::about("query", Problem::Malformed(detail))
        };
        let Query(value) = Query::<T>::from_request_parts(parts, state).await.map_err(malformed)?;
        Ok(Self(value))
    }
}
