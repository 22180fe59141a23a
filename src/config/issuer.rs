//! `[issuer]`: whoever issues the company's own tokens, which are taken like those of `/token`.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::auth::AuthConfig;
use super::check::{Origin, invalid, seconds};
use super::groups::{GroupRules, departments};

/// The issuer as it is written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawIssuer {
    pub iss: String,
    pub audience: String,
    pub jwks: String,
    pub ca_file: String,
    pub algorithm: String,
    pub name_claim: String,
    pub groups_claim: String,
    pub user_groups: Vec<String>,
    pub admin_groups: Vec<String>,
    pub department_groups: Vec<String>,
    pub timeout_seconds: u64,
}

impl Default for RawIssuer {
    fn default() -> Self {
        Self {
            iss: String::new(),
            audience: String::new(),
            jwks: String::new(),
            ca_file: String::new(),
            algorithm: "RS256".into(),
            name_claim: "preferred_username".into(),
            groups_claim: "groups".into(),
            user_groups: Vec::new(),
            admin_groups: Vec::new(),
            department_groups: Vec::new(),
            timeout_seconds: 5,
        }
    }
}

/// `[issuer]`, resolved.
#[derive(Debug, Clone)]
pub struct IssuerConfig {
    /// `iss` of the tokens.
    pub iss: String,
    /// `aud` of the tokens.
    pub audience: String,
    /// Where the public keys are (JWK Set, RFC 7517).
    pub jwks: JwksPlace,
    /// The only algorithm.
    pub algorithm: PublicAlgorithm,
    /// The claim that holds the user's name.
    pub name_claim: String,
    /// The claim that holds the groups.
    pub groups_claim: String,
    /// What groups mean.
    pub rules: GroupRules,
}

/// Where public keys are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JwksPlace {
    /// A file.
    File(PathBuf),
    /// An address.
    Url {
        /// `https://…`, or `http://` on this machine.
        url: String,
        /// PEM certificates that are trusted; absent, those of the system.
        ca_file: Option<PathBuf>,
        /// The keys must arrive within so long.
        timeout: Duration,
    },
}

/// Signatures that anybody may check and only the issuer can make (RFC 7518, section 3.1; RFC 8037).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the standard's names")]
pub enum PublicAlgorithm {
    Rs256,
    Es256,
    EdDsa,
}

impl RawIssuer {
    /// Judges the values; no `iss` is no issuer.
    pub(super) fn resolve(self, auth: &AuthConfig, origin: Origin) -> Result<Option<IssuerConfig>, ConfigError> {
        let wrong = |key, problem: &str| Err(invalid(key, origin, problem.to_owned()));
        let algorithm = match self.algorithm.as_str() {
            "RS256" => PublicAlgorithm::Rs256,
            "ES256" => PublicAlgorithm::Es256,
            "EdDSA" => PublicAlgorithm::EdDsa,
            _ => return wrong("issuer.algorithm", "must be RS256, ES256 or EdDSA"),
        };
        let timeout = seconds("issuer.timeout_seconds", self.timeout_seconds, 1..=60, origin)?;
        if self.iss.is_empty() {
            return Ok(None);
        }
        if self.iss == auth.issuer {
            return wrong("issuer.iss", "must not be auth.issuer, who issues this server's own tokens");
        }
        if self.audience.is_empty() {
            return wrong("issuer.audience", "must name whom the tokens are for");
        }
        if self.jwks.is_empty() {
            return wrong("issuer.jwks", "must name the issuer's public keys: a file or an https:// address");
        }
        let ca_file = Some(self.ca_file).filter(|file| !file.is_empty()).map(PathBuf::from);
        let jwks = match self.jwks.split_once("://") {
            None => JwksPlace::File(self.jwks.into()),
            Some(("https", _)) => JwksPlace::Url { url: self.jwks, ca_file, timeout },
            Some(("http", rest)) if is_here(rest) => JwksPlace::Url { url: self.jwks, ca_file, timeout },
            Some(_) => return wrong("issuer.jwks", "must be a file or an https:// address (http:// on this machine)"),
        };
        if self.name_claim.is_empty() {
            return wrong("issuer.name_claim", "must name the claim that holds people's names");
        }
        let rules = GroupRules {
            users: self.user_groups,
            admins: self.admin_groups,
            departments: departments("issuer.department_groups", self.department_groups, origin)?,
        };
        Ok(Some(IssuerConfig {
            iss: self.iss,
            audience: self.audience,
            jwks,
            algorithm,
            name_claim: self.name_claim,
            groups_claim: self.groups_claim,
            rules,
        }))
    }
}

/// Whether `127.0.0.1:80/path` is on this machine.
fn is_here(rest: &str) -> bool {
    let place = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = place.rsplit_once(':').map_or(place, |(host, _)| host);
    host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}
