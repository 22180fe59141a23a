//! Everything that can be wrong with a request, with its status, type and code. The words are in `messages.rs`.

use std::time::Duration;

use axum::http::StatusCode;

use super::mismatch::Mismatch;
use crate::auth::Scope;
use crate::engine::EngineError;
use crate::ledger::Account;
use crate::limits::Refusal;
use crate::store::Moment;

/// What went wrong.
#[derive(Debug, Clone, PartialEq)]
pub enum Problem {
    /// The body is not UTF-8.
    NotUtf8,
    /// The body is not JSON.
    NotJson {
        /// The parser's words.
        detail: String,
        /// Where, from 1 on.
        line: usize,
        /// Where in the line, from 1 on.
        column: usize,
    },
    /// The body is larger than so many bytes.
    TooLarge(usize),
    /// The content type is not JSON.
    NotJsonType,
    /// The body is compressed.
    Encoded(String),
    /// The body did not arrive in time.
    SlowBody,
    /// The body broke off.
    BrokenBody,
    /// A required field is absent.
    Missing,
    /// A field has the wrong type or form.
    Mismatch(Mismatch),
    /// An object has this key twice.
    Repeated(String),
    /// A field cannot be used; the library's words.
    Malformed(String),
    /// A field is outside its range.
    OutOfRange {
        /// Smallest value allowed.
        low: f64,
        /// Largest value allowed.
        high: f64,
    },
    /// A field has a value that makes no sense here.
    Invalid(Reason),
    /// A known field that this server does not do.
    NotBuilt,
    /// Prompt and answer do not fit into the context.
    ContextLength {
        /// Tokens that fit.
        limit: usize,
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens asked for as answer.
        completion: usize,
    },
    /// The chat template refused the messages.
    Template(String),
    /// There is no credential.
    NoCredential,
    /// The credential is not good.
    BadCredential,
    /// The credential is good, but not for this.
    NotAllowed(Scope),
    /// The key is not for this model.
    ModelNotAllowed(String),
    /// There is no such object, or it is somebody else's.
    NoObject(String),
    /// There is one of this name already.
    Exists(String),
    /// The idempotency key was used for another request.
    IdempotencyReused,
    /// Nobody shuts themselves out.
    OwnAccount,
    /// The database does not answer.
    Store,
    /// Who could say whether the credential is good does not answer.
    Identity,
    /// Nothing can be written into the audit log, which must be.
    Audit,
    /// The server is not to be addressed by this name.
    Host(String),
    /// No such model.
    NoModel(String),
    /// No such route.
    NoRoute(String),
    /// The route does not take this method.
    NoMethod(String),
    /// A limit is reached.
    RateLimited(Box<Refusal>),
    /// The balance or a budget cannot pay for this.
    Quota {
        /// Which account.
        account: Account,
        /// When it is full again; never by itself when none.
        resets_at: Option<Moment>,
    },
    /// The queue is full.
    Overloaded(Duration),
    /// The model failed lately and is left alone.
    ModelResting(Duration),
    /// Weights are not loaded yet.
    Loading,
    /// The server is stopping.
    Stopping,
    /// The request took longer than it may.
    Deadline,
    /// The engine failed on this request.
    Engine(EngineError),
    /// A bug here.
    Internal,
}

/// Why a value makes no sense although its type and range are right.
#[derive(Debug, Clone, PartialEq)]
pub enum Reason {
    /// A list or string that must not be empty.
    Empty,
    /// More entries than allowed.
    TooMany(usize),
    /// Token ids outside the vocabulary of so many.
    TokenId {
        /// The id.
        id: u64,
        /// Ids that exist.
        vocabulary: usize,
    },
    /// A key that is not a token id.
    NotATokenId(String),
    /// A role that does not exist.
    Role(String),
    /// A content part that is not text.
    Part(String),
    /// Only makes sense together with another field.
    Needs(&'static str),
    /// Cannot be given together with another field.
    Excludes(&'static str),
    /// No name that a user can have.
    UserName,
    /// No amount that can be booked.
    Amount,
    /// No day such as `2026-01-31`.
    Day,
    /// No day or moment such as `2026-01-31T15:00:00Z`.
    Moment,
    /// Fewer characters than this.
    Short(usize),
    /// None of these words.
    Word(&'static str),
    /// Less than makes sense.
    Below(usize),
    /// Must not be larger than another field.
    Above(&'static str),
}

impl Problem {
    /// The status it is answered with.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::NotJsonType | Self::Encoded(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::SlowBody | Self::Deadline => StatusCode::REQUEST_TIMEOUT,
            Self::NoCredential | Self::BadCredential => StatusCode::UNAUTHORIZED,
            Self::NotAllowed(_) | Self::ModelNotAllowed(_) | Self::Host(_) => StatusCode::FORBIDDEN,
            Self::NoModel(_) | Self::NoObject(_) | Self::NoRoute(_) => StatusCode::NOT_FOUND,
            Self::Exists(_) | Self::OwnAccount | Self::IdempotencyReused => StatusCode::CONFLICT,
            Self::RateLimited(_) | Self::Quota { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::NoMethod(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::Overloaded(_)
            | Self::ModelResting(_)
            | Self::Loading
            | Self::Stopping
            | Self::Store
            | Self::Identity
            | Self::Audit => StatusCode::SERVICE_UNAVAILABLE,
            Self::Engine(_) | Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// The envelope's `type`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::RateLimited(_) => "rate_limit_error",
            Self::Quota { .. } => "insufficient_quota",
            _ if self.status().is_server_error() => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// The envelope's `code`.
    pub fn code(&self) -> Option<&'static str> {
        Some(match self {
            Self::NotUtf8 | Self::NotJson { .. } | Self::BrokenBody => "invalid_json",
            Self::TooLarge(_) => "request_too_large",
            Self::NotJsonType | Self::Encoded(_) => "unsupported_media_type",
            Self::SlowBody | Self::Deadline => "timeout",
            Self::Missing => "missing_required_parameter",
            Self::Mismatch(_) | Self::Repeated(_) | Self::Malformed(_) => "invalid_type",
            Self::OutOfRange { .. } | Self::Invalid(_) | Self::Template(_) => "invalid_value",
            Self::NotBuilt => "unsupported_parameter",
            Self::ContextLength { .. } => "context_length_exceeded",
            Self::NoCredential | Self::BadCredential => "invalid_api_key",
            Self::NotAllowed(_) => "not_allowed",
            Self::ModelNotAllowed(_) => "model_not_allowed",
            Self::Exists(_) => "already_exists",
            Self::IdempotencyReused => "idempotency_key_reused",
            Self::OwnAccount => "own_account",
            Self::Store => "database_unavailable",
            Self::Identity => "identity_unavailable",
            Self::Audit => "audit_unavailable",
            Self::Host(_) => "host_not_allowed",
            Self::NoModel(_) => "model_not_found",
            Self::NoObject(_) | Self::NoRoute(_) => "not_found",
            Self::NoMethod(_) => "method_not_allowed",
            Self::RateLimited(_) => "rate_limit_exceeded",
            Self::Quota { .. } => "insufficient_quota",
            Self::Overloaded(_) | Self::Stopping => "server_is_overloaded",
            Self::ModelResting(_) => "model_unavailable",
            Self::Loading => "model_loading",
            Self::Engine(_) => "engine_error",
            Self::Internal => return None,
        })
    }

    /// How long a client should wait before it tries again, for answers that say so.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited(refusal) => refusal.retry_after,
            Self::Overloaded(wait) | Self::ModelResting(wait) => Some((*wait).max(Duration::from_millis(100))),
            Self::Loading | Self::Stopping | Self::Store | Self::Identity | Self::Audit => Some(Duration::from_secs(5)),
            _ => None,
        }
    }
}
