//! `[auth]`: who may ask, and how tokens are made.

use std::time::Duration;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::check::{Origin, invalid, within};
use super::server::ServerConfig;

/// Fewer bytes than this are no secret (RFC 7518, section 3.2, for HS256).
const LEAST_SECRET_BYTES: usize = 32;
/// A secret of fewer different characters than this is a placeholder.
const LEAST_DIFFERENT: usize = 8;
/// What examples write where a secret belongs.
const PLACEHOLDERS: [&str; 6] = ["change", "secret-key", "secret_key", "example", "your-", "your_"];

/// Who may ask, and how tokens are made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawAuth {
    pub required: bool,
    pub issuer: String,
    pub jwt_algorithm: String,
    pub jwt_secret: String,
    pub access_token_minutes: u64,
    pub refresh_token_days: u64,
    pub internal_key: String,
}

impl Default for RawAuth {
    fn default() -> Self {
        Self {
            required: true,
            issuer: "steppe".into(),
            jwt_algorithm: "auto".into(),
            jwt_secret: String::new(),
            access_token_minutes: 60,
            refresh_token_days: 30,
            internal_key: String::new(),
        }
    }
}

/// `[auth]`, resolved.
#[derive(Debug, Clone)]
pub struct AuthConfig {
    /// Requests without a credential are refused; else they are answered as those of one anonymous user.
    pub required: bool,
    /// `iss` and `aud` of tokens.
    pub issuer: String,
    /// HS256 under this secret; absent, EdDSA under a key of the program's own.
    pub jwt_secret: Option<SecretString>,
    /// How long an access token is good.
    pub access_token: Duration,
    /// How long a refresh token is good.
    pub refresh_token: Duration,
    /// What services of the same installation send as `x-internal-auth`.
    pub internal_key: Option<SecretString>,
}

impl RawAuth {
    /// Judges the values; outside loopback more strictly.
    pub(super) fn resolve(self, server: &ServerConfig, origin: Origin) -> Result<AuthConfig, ConfigError> {
        let open = !server.address.ip().is_loopback();
        if open && !self.required {
            let problem =
                format!("must be true where others reach the server (server.host is {})", server.address.ip());
            return Err(invalid("auth.required", origin, problem));
        }
        if self.issuer.is_empty() {
            return Err(invalid("auth.issuer", origin, "must not be empty".into()));
        }
        let jwt_secret = secret("auth.jwt_secret", self.jwt_secret, true, origin)?;
        let jwt_secret = match self.jwt_algorithm.as_str() {
            "auto" => jwt_secret,
            "EdDSA" => None,
            "HS256" if jwt_secret.is_some() => jwt_secret,
            "HS256" => return Err(invalid("auth.jwt_algorithm", origin, "needs auth.jwt_secret".into())),
            other => {
                let problem = format!("must be auto, EdDSA or HS256, not `{other}`");
                return Err(invalid("auth.jwt_algorithm", origin, problem));
            }
        };
        let minutes = within("auth.access_token_minutes", self.access_token_minutes, 1..=525_600, origin)?;
        let days = within("auth.refresh_token_days", self.refresh_token_days, 1..=3650, origin)?;
        Ok(AuthConfig {
            required: self.required,
            issuer: self.issuer,
            jwt_secret,
            access_token: Duration::from_mins(minutes),
            refresh_token: Duration::from_hours(24 * days),
            internal_key: secret("auth.internal_key", self.internal_key, open, origin)?,
        })
    }
}

/// A secret that may be empty; where it must be `strong`, one that could be guessed is refused.
fn secret(key: &'static str, value: String, strong: bool, origin: Origin) -> Result<Option<SecretString>, ConfigError> {
    let advice = "`openssl rand -hex 32` makes a good one";
    let lower = value.to_lowercase();
    let different = value.chars().collect::<std::collections::HashSet<_>>().len();
    if value.is_empty() {
        Ok(None)
    } else if strong && value.len() < LEAST_SECRET_BYTES {
        let problem = format!("has {} bytes and needs {LEAST_SECRET_BYTES}; {advice}", value.len());
        Err(invalid(key, origin, problem))
    } else if strong && (different < LEAST_DIFFERENT || PLACEHOLDERS.iter().any(|word| lower.contains(word))) {
        Err(invalid(key, origin, format!("is a placeholder that anybody can guess; {advice}")))
    } else {
        Ok(Some(value.into()))
    }
}
