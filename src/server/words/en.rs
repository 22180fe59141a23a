//! What each problem is called in English. Must not know how it is answered.

use super::quota;
use crate::lang::Lang;
use crate::server::problem::{Problem, Reason};

/// The message of `problem`, which is about this field.
pub(super) fn message(problem: &Problem, field: &str) -> String {
    match problem {
        Problem::NotUtf8 => "The body is not valid UTF-8; send JSON in UTF-8.".into(),
        Problem::NotJson { detail, line, column } => {
            format!("The body is not valid JSON: {detail} at line {line} column {column}.")
        }
        Problem::TooLarge(limit) => format!("The body is larger than {limit} bytes, the most this server takes."),
        Problem::NotJsonType => "The body must be JSON: send the header `Content-Type: application/json`.".into(),
        Problem::Encoded(coding) => format!("Bodies compressed with `{coding}` are not taken; send plain JSON."),
        Problem::SlowBody => "The body did not arrive in time; send it again.".into(),
        Problem::BrokenBody => "The body broke off before its end; send it again.".into(),
        Problem::Missing => format!("`{field}` is required."),
        Problem::Mismatch(mismatch) => format!("`{field}` must be {}.", mismatch.told(Lang::En)),
        Problem::Repeated(key) => format!("`{field}` has the key `{key}` twice."),
        Problem::Malformed(detail) => format!("`{field}` is not valid: {detail}."),
        Problem::OutOfRange { low, high } => format!("`{field}` must be from {low} to {high}."),
        Problem::Invalid(reason) => self::reason(reason, field),
        Problem::NotBuilt => format!("`{field}` is not supported by this server; leave it out."),
        Problem::ContextLength { limit, prompt, completion } => format!(
            "This model's maximum context length is {limit} tokens, but {total} were asked for ({prompt} in the prompt, \
             {completion} for the answer). Shorten the prompt or ask for a shorter answer.",
            total = prompt + completion
        ),
        Problem::Template(detail) => format!("The model's chat template does not take these messages: {detail}."),
        Problem::NoCredential => "Who asks? Send `Authorization: Bearer` with an API key or an access token.".into(),
        Problem::BadCredential => "The API key or access token is wrong, expired or revoked.".into(),
        Problem::NotAllowed(scope) => {
            format!("This credential may not be used for this; it lacks `{}`.", scope.as_str())
        }
        Problem::ModelNotAllowed(model) => format!("This API key may not be used with the model `{model}`."),
        Problem::NoObject(name) => format!("There is no {name}."),
        Problem::Exists(name) => format!("`{name}` exists already."),
        Problem::IdempotencyReused => "This Idempotency-Key was used for another request; take a new one.".into(),
        Problem::OwnAccount => "Nobody may shut themselves out; another administrator can.".into(),
        Problem::Store => "The server's database does not answer. Try again in a few seconds.".into(),
        Problem::Identity => "The credential cannot be checked now. Try again in a minute.".into(),
        Problem::Audit => "The audit log cannot be written, and nothing is done without it. Try again later.".into(),
        Problem::Host(host) => format!("This server is not to be addressed as `{host}`; its administrator says how."),
        Problem::NoModel(model) => {
            format!("The model `{model}` does not exist here; GET /v1/models lists those that do.")
        }
        Problem::NoRoute(path) => format!("There is nothing at {path}; see /docs for what there is."),
        Problem::NoMethod(method) => format!("This address does not take {method}; see /docs."),
        Problem::RateLimited(refusal) => quota::refusal(Lang::En, refusal),
        Problem::Quota { account, .. } => quota::short(Lang::En, account),
        Problem::Overloaded(_) => "The server is overloaded: its queue is full. Try again later.".into(),
        Problem::ModelResting(_) => "The model has failed several times and is left alone. Try again later.".into(),
        Problem::Loading => "The model is still loading. Try again in a few seconds.".into(),
        Problem::Stopping => "The server is stopping and takes no new requests.".into(),
        Problem::Deadline => "The answer took longer than the server allows; ask for a shorter one.".into(),
        Problem::Engine(error) => format!("The model failed on this request: {error}."),
        Problem::Internal => "The server failed on this request; its log says why.".into(),
    }
}

fn reason(reason: &Reason, field: &str) -> String {
    match reason {
        Reason::Empty => format!("`{field}` must not be empty."),
        Reason::TooMany(limit) => format!("`{field}` asks for too many: at most {limit}."),
        Reason::TokenId { id, vocabulary } => {
            format!("`{field}` names token {id}, but the model has only tokens 0 to {}.", vocabulary.saturating_sub(1))
        }
        Reason::NotATokenId(key) => format!("`{field}` has the key `{key}`, which is not a token id."),
        Reason::Role(role) => format!("`{field}` is `{role}`; system, developer, user, assistant and tool are known."),
        Reason::Part(kind) => format!("`{field}` is `{kind}`; this model takes only text."),
        Reason::Needs(other) => format!("`{field}` needs `{other}`."),
        Reason::Excludes(other) => format!("`{field}` cannot be given together with `{other}`."),
        Reason::UserName => {
            format!("`{field}` must have 1 to 128 bytes, no control characters and no space around it.")
        }
        Reason::Amount => format!("`{field}` is no amount that can be booked."),
        Reason::Day => format!("`{field}` must be a day such as 2026-01-31."),
        Reason::Moment => {
            format!("`{field}` must be a day such as 2026-01-31, or a moment such as 2026-01-31T15:00:00Z.")
        }
        Reason::Short(least) => format!("`{field}` must have at least {least} characters."),
        Reason::Word(known) => format!("`{field}` must be one of: {known}."),
        Reason::Below(least) => format!("`{field}` must be at least {least}."),
        Reason::Above(other) => format!("`{field}` must not be larger than `{other}`."),
    }
}
