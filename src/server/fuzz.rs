//! The body of the fuzz target for request bodies: whatever arrives is read or refused, never a panic.

use super::ask::{AskBody, GenerateBody};
use super::body::{FromBody, parse};
use super::openai::chat_types::ChatRequest;
use super::openai::completion_types::CompletionRequest;
use super::tokens::{DetokenizeBody, TokenizeBody};
use crate::lang::Lang;

/// Reads `bytes` as the body of every endpoint; renders every refusal in both languages.
pub fn request_body(bytes: &[u8]) {
    read::<ChatRequest>(bytes);
    read::<CompletionRequest>(bytes);
    read::<GenerateBody>(bytes);
    read::<AskBody>(bytes);
    read::<TokenizeBody>(bytes);
    read::<DetokenizeBody>(bytes);
}

fn read<T: FromBody>(bytes: &[u8]) {
    if let Err(error) = parse::<T>(bytes) {
        for language in [Lang::En, Lang::Ru] {
            let body = error.body(language);
            assert!(!body.error.message.is_empty(), "a refusal without words");
        }
        assert!(error.status().is_client_error(), "a body must not be able to cause {}", error.status());
    }
}
