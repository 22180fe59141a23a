//! The issuer of the company's own tokens (Keycloak, AD FS): checks a token with the issuer's public keys
//! under one pinned algorithm. What a token's header says of keys, other than `kid`, is never followed.

mod keys;

use std::collections::HashSet;

use jsonwebtoken::{Algorithm, Validation};
use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use self::keys::IssuerKeys;
use super::AuthError;
use super::group_name::normal;
use super::outside::{Person, Rules};
use crate::config::{IssuerConfig, PublicAlgorithm};
use crate::store::{Moment, now};

/// The issuer's clock and ours may differ by so many seconds.
const LEEWAY: u64 = 60;

/// The issuer of the company's own tokens.
pub(super) struct Issuer {
    iss: String,
    name_claim: String,
    groups_claim: String,
    keys: IssuerKeys,
    validation: Validation,
    algorithm: Algorithm,
    /// What its groups mean.
    pub rules: Rules,
}

impl std::fmt::Debug for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issuer").field("iss", &self.iss).finish_non_exhaustive()
    }
}

/// What must stand in a token, and all the rest.
#[derive(Deserialize)]
struct Claims {
    sub: String,
    iat: f64,
    exp: f64,
    jti: Option<String>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// A good token.
pub(super) struct CompanyToken {
    pub person: Person,
    /// Names this token among all, those of other issuers included.
    pub id: String,
    pub issued_at: Moment,
    pub expires_at: Moment,
}

impl Issuer {
    /// Reads certificates, and keys where they are in a file.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn open(config: IssuerConfig) -> Result<Self, AuthError> {
        let algorithm = match config.algorithm {
            PublicAlgorithm::Rs256 => Algorithm::RS256,
            PublicAlgorithm::Es256 => Algorithm::ES256,
            PublicAlgorithm::EdDsa => Algorithm::EdDSA,
        };
        let keys = IssuerKeys::open(config.jwks, algorithm)
            .map_err(|problem| AuthError::Secret("configuration of [issuer]", problem))?;
        let mut validation = Validation::new(algorithm);
        validation.leeway = LEEWAY;
        validation.validate_nbf = true;
        validation.set_issuer(&[&config.iss]);
        validation.set_audience(&[&config.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        let IssuerConfig { iss, name_claim, groups_claim, rules, .. } = config;
        Ok(Self { iss, name_claim, groups_claim, keys, validation, algorithm, rules: Rules::new(rules, false) })
    }

    /// Whether a token says that it comes from here, which proves nothing.
    pub fn is_named_by(&self, token: &str) -> bool {
        #[derive(Deserialize)]
        struct Said {
            iss: String,
        }
        let said = jsonwebtoken::dangerous::insecure_decode_claims::<Said>(token);
        said.is_ok_and(|said| said.iss == self.iss)
    }

    /// What a token says, if it is good now.
    ///
    /// # Errors
    /// [`AuthError::Invalid`], or [`AuthError::Unavailable`] when the issuer's keys cannot be had.
    pub async fn verify(&self, token: &str) -> Result<CompanyToken, AuthError> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| AuthError::Invalid)?;
        if header.alg != self.algorithm || header.crit.is_some() {
            return Err(AuthError::Invalid);
        }
        let kid = header.kid.ok_or(AuthError::Invalid)?;
        let key = self.keys.get(&kid).await?.ok_or(AuthError::Invalid)?;
        let claims = jsonwebtoken::decode(token, &key, &self.validation).map_err(|_| AuthError::Invalid)?.claims;
        self.read(claims, token).ok_or(AuthError::Invalid)
    }

    fn read(&self, claims: Claims, token: &str) -> Option<CompanyToken> {
        let Claims { sub, iat, exp, jti, others } = claims;
        let millis = |seconds: f64| (seconds * 1000.0).round() as Moment;
        if sub.is_empty() || millis(iat) > now() + LEEWAY as Moment * 1000 {
            return None;
        }
        let claim =
            |name: &str| if name == "sub" { Some(Value::from(sub.as_str())) } else { at(&others, name).cloned() };
        let Value::String(name) = claim(&self.name_claim)? else { return None };
        let groups: HashSet<String> = match claim(&self.groups_claim) {
            Some(Value::Array(groups)) => groups.iter().filter_map(Value::as_str).map(normal).collect(),
            Some(Value::String(group)) => HashSet::from([normal(&group)]),
            _ => HashSet::new(),
        };
        // Its own name where it has one, else its hash; the issuer's name keeps both apart from our tokens.
        let id = jti.filter(|jti| !jti.is_empty()).unwrap_or_else(|| hex::encode(Sha256::digest(token)));
        let id = format!("{} {id}", self.iss);
        let person = Person { name, subject: Some(sub), groups, department: None };
        Some(CompanyToken { person, id, issued_at: millis(iat), expires_at: millis(exp) })
    }
}

/// The claim of this name, or where its dots lead.
fn at<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    claims.get(name).or_else(|| {
        let (first, rest) = name.split_once('.')?;
        at(claims.get(first)?.as_object()?, rest)
    })
}
