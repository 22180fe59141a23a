//! Access tokens: JWT (RFC 7519) under one pinned algorithm, with every claim required.

use std::time::Duration;

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};

use super::AuthError;
use crate::config::AuthConfig;
use crate::store::{Moment, Purpose, Secret, Store, now};

/// What a token says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Claims {
    pub iss: String,
    pub aud: String,
    /// The user's id.
    pub sub: String,
    pub jti: String,
    /// Seconds since 1970, to the millisecond: a new password voids what came before it, not what comes after.
    pub iat: f64,
    pub exp: i64,
}

impl Claims {
    pub fn issued_at(&self) -> Moment {
        (self.iat * 1000.0).round() as Moment
    }
}

/// Makes and checks access tokens.
pub(super) struct Tokens {
    issuer: String,
    pub lifetime: Duration,
    pub refresh_lifetime: Duration,
    algorithm: Algorithm,
    signing: (String, EncodingKey),
    /// By `kid`.
    verifying: Vec<(String, DecodingKey)>,
    validation: Validation,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

const TOKEN_KEY: &str = "key of access tokens";
/// Clocks of replicas may differ by so many seconds.
const LEEWAY: u64 = 5;

impl Tokens {
    pub async fn open(store: &Store, config: &AuthConfig) -> Result<Self, AuthError> {
        let (algorithm, keys) = if let Some(secret) = &config.jwt_secret {
            (Algorithm::HS256, vec![shared(secret.expose_secret())])
        } else {
            let secrets = store.secrets(Purpose::TokenKey, new_seed).await?;
            (Algorithm::EdDSA, secrets.iter().map(signer).collect::<Result<_, _>>()?)
        };
        let verifying = keys.iter().map(|(kid, _, key)| (kid.clone(), key.clone())).collect();
        let signing = keys.into_iter().next().map(|(kid, key, _)| (kid, key));
        let signing = signing.ok_or_else(|| AuthError::Secret(TOKEN_KEY, "there is none".into()))?;
        let mut validation = Validation::new(algorithm);
        validation.leeway = LEEWAY;
        validation.set_issuer(&[&config.issuer]);
        validation.set_audience(&[&config.issuer]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        Ok(Self {
            issuer: config.issuer.clone(),
            lifetime: config.access_token,
            refresh_lifetime: config.refresh_token,
            algorithm,
            signing,
            verifying,
            validation,
        })
    }

    /// A token for this user.
    pub fn issue(&self, user_id: &str, jti: String) -> Result<String, AuthError> {
        let now = now();
        let claims = Claims {
            iss: self.issuer.clone(),
            aud: self.issuer.clone(),
            sub: user_id.to_owned(),
            jti,
            iat: now as f64 / 1000.0,
            exp: now / 1000 + self.lifetime.as_secs() as i64,
        };
        let (kid, key) = &self.signing;
        let header = Header { kid: Some(kid.clone()), ..Header::new(self.algorithm) };
        jsonwebtoken::encode(&header, &claims, key).map_err(|error| AuthError::Secret(TOKEN_KEY, error.to_string()))
    }

    /// What a token says, if it is one of ours and good now.
    pub fn verify(&self, token: &str) -> Result<Claims, AuthError> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| AuthError::Invalid)?;
        let named = |(kid, _): &&(String, DecodingKey)| header.kid.as_ref() == Some(kid);
        let (_, key) = self.verifying.iter().find(named).ok_or(AuthError::Invalid)?;
        let data = jsonwebtoken::decode(token, key, &self.validation).map_err(|_| AuthError::Invalid)?;
        Ok(data.claims)
    }
}

type Key = (String, EncodingKey, DecodingKey);

fn shared(secret: &str) -> Key {
    let bytes = secret.as_bytes();
    ("shared".into(), EncodingKey::from_secret(bytes), DecodingKey::from_secret(bytes))
}

/// An Ed25519 seed, hexadecimal.
fn new_seed() -> String {
    hex::encode(rand::random::<[u8; 32]>())
}

fn signer(secret: &Secret) -> Result<Key, AuthError> {
    let wrong = |problem: &str| AuthError::Secret(TOKEN_KEY, problem.to_owned());
    let seed =
        hex::decode(&secret.material).ok().filter(|seed| seed.len() == 32).ok_or_else(|| wrong("it is no seed"))?;
    // PKCS #8 around a seed (RFC 8410, section 7).
    let head = [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
    let signing = EncodingKey::from_ed_der(&[&head[..], &seed].concat());
    let public = Jwk::from_encoding_key(&signing, Algorithm::EdDSA).map_err(|error| wrong(&error.to_string()))?;
    let verifying = DecodingKey::from_jwk(&public).map_err(|error| wrong(&error.to_string()))?;
    Ok((secret.generation.to_string(), signing, verifying))
}
