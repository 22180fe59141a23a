//! The issuer's public keys (JWK Set, RFC 7517), by `kid`. Fetched again when one is asked for that is not known, at most
//! once a minute, and every hour.

use std::collections::HashMap;
use std::io::Read as _;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use jsonwebtoken::jwk::AlgorithmParameters;
use jsonwebtoken::jwk::{EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use tokio::sync::Mutex;
use ureq::Agent;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use crate::auth::AuthError;
use crate::config::JwksPlace;
use crate::trust;

/// The place is not asked more often.
const LEAST_WAIT: Duration = Duration::from_mins(1);
/// Keys that the issuer has taken back are good no longer than this.
const LONGEST: Duration = Duration::from_hours(1);
const MOST_BYTES: u64 = 1 << 20;

type Keys = HashMap<String, DecodingKey>;

/// The keys of one issuer for one algorithm.
pub(super) struct IssuerKeys {
    source: Source,
    algorithm: Algorithm,
    current: RwLock<Arc<Loaded>>,
    /// When the place was last asked.
    asked: Mutex<Option<Instant>>,
}

#[derive(Default)]
struct Loaded {
    keys: Keys,
    /// None: never.
    at: Option<Instant>,
}

#[derive(Clone)]
enum Source {
    File(std::path::PathBuf),
    Url(Agent, String),
}

impl IssuerKeys {
    /// Reads a file at once; an address is asked when the first token comes.
    ///
    /// # Errors
    /// In one sentence, when certificates or keys cannot be read.
    pub fn open(place: JwksPlace, algorithm: Algorithm) -> Result<Self, String> {
        let source = match place {
            JwksPlace::File(path) => Source::File(path),
            JwksPlace::Url { url, ca_file, timeout } => Source::Url(agent(&url, ca_file.as_deref(), timeout)?, url),
        };
        let current = match &source {
            Source::File(_) => Loaded { keys: source.load(algorithm)?, at: Some(Instant::now()) },
            Source::Url(..) => Loaded::default(),
        };
        Ok(Self { source, algorithm, current: RwLock::new(Arc::new(current)), asked: Mutex::new(None) })
    }

    /// The key of this `kid`, if the issuer has one.
    ///
    /// # Errors
    /// [`AuthError::Unavailable`] when the keys could never be had.
    pub async fn get(&self, kid: &str) -> Result<Option<DecodingKey>, AuthError> {
        let loaded = self.loaded();
        let fresh = loaded.at.is_some_and(|at| at.elapsed() < LONGEST);
        if let Some(key) = loaded.keys.get(kid).filter(|_| fresh) {
            return Ok(Some(key.clone()));
        }
        drop(loaded);
        self.refresh().await;
        let loaded = self.loaded();
        if loaded.at.is_none() {
            return Err(AuthError::Unavailable("issuer of tokens", "its keys (issuer.jwks) could not be had".into()));
        }
        Ok(loaded.keys.get(kid).cloned())
    }

    fn loaded(&self) -> Arc<Loaded> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    async fn refresh(&self) {
        let mut asked = self.asked.lock().await;
        if asked.is_some_and(|at| at.elapsed() < LEAST_WAIT) {
            return;
        }
        *asked = Some(Instant::now());
        let (source, algorithm) = (self.source.clone(), self.algorithm);
        let loaded = tokio::task::spawn_blocking(move || source.load(algorithm)).await;
        match loaded.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(keys) => {
                let loaded = Arc::new(Loaded { keys, at: Some(Instant::now()) });
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = loaded;
            }
            Err(problem) => tracing::warn!("issuer of tokens: {problem}"),
        }
    }
}

impl Source {
    fn load(&self, algorithm: Algorithm) -> Result<Keys, String> {
        let (text, place) = match self {
            Self::File(path) => (read(path), path.display().to_string()),
            Self::Url(agent, url) => (fetch(agent, url).map_err(ureq::Error::into_io), url.clone()),
        };
        let text = text.map_err(|error| format!("{place} cannot be read: {error}"))?;
        let keys = parse(&text, algorithm).map_err(|error| format!("{place} is no JWK Set: {error}"))?;
        if keys.is_empty() { Err(format!("{place} holds no {algorithm:?} key with a kid")) } else { Ok(keys) }
    }
}

fn read(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(MOST_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

fn agent(url: &str, ca_file: Option<&Path>, timeout: Duration) -> Result<Agent, String> {
    let roots = if url.starts_with("https://") { trust::certificates(ca_file)? } else { Vec::new() };
    let roots: Vec<Certificate<'static>> = roots.iter().map(|root| Certificate::from_der(root).to_owned()).collect();
    let tls = TlsConfig::builder().root_certs(RootCerts::new_with_certs(&roots));
    let tls = tls.unversioned_rustls_crypto_provider(trust::provider());
    let config = Agent::config_builder().timeout_global(Some(timeout)).max_redirects(0).tls_config(tls.build());
    Ok(Agent::new_with_config(config.build()))
}

fn fetch(agent: &Agent, url: &str) -> Result<String, ureq::Error> {
    agent.get(url).call()?.body_mut().with_config().limit(MOST_BYTES).read_to_string()
}

/// The keys that can be used; a set may hold others, for other purposes.
fn parse(text: &str, algorithm: Algorithm) -> Result<Keys, serde_json::Error> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<serde_json::Value>,
    }
    let mut keys = Keys::new();
    for value in serde_json::from_str::<Set>(text)?.keys {
        let Ok(jwk) = serde_json::from_value::<Jwk>(value) else { continue };
        let Some(kid) = jwk.common.key_id.clone().filter(|_| fits(&jwk, algorithm)) else { continue };
        if let Ok(key) = DecodingKey::from_jwk(&jwk) {
            keys.entry(kid).or_insert(key);
        }
    }
    Ok(keys)
}

/// Whether a key is for signatures of this algorithm: of its kind, and not said to be for something else.
fn fits(jwk: &Jwk, algorithm: Algorithm) -> bool {
    let kind = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => algorithm == Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(key) => algorithm == Algorithm::ES256 && key.curve == EllipticCurve::P256,
        AlgorithmParameters::OctetKeyPair(key) => algorithm == Algorithm::EdDSA && key.curve == EllipticCurve::Ed25519,
        _ => false,
    };
    let purpose = jwk.common.public_key_use.as_ref().is_none_or(|purpose| *purpose == PublicKeyUse::Signature);
    let said = jwk.common.key_algorithm.as_ref().is_none_or(|said| said.to_string() == format!("{algorithm:?}"));
    kind && purpose && said
}
