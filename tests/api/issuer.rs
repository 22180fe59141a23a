//! Tokens of a company's own issuer: what is taken, and every way to forge one.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value as Json, json};
use steppe::auth::{Account, AuthError, Authenticator, Identity, Outside};
use steppe::config::{Config, Sources, load};
use steppe::resilience::Breakers;
use steppe::store::{Role, Source, Store};
use tempfile::TempDir;

use crate::harness::{Setup, with};
use crate::http::send;

const ISS: &str = "https://login.example.org/realms/office";

/// A pair of keys of `openssl`.
struct Pair {
    algorithm: Algorithm,
    private: EncodingKey,
    public_pem: Vec<u8>,
    kid: String,
}

impl Pair {
    fn new(folder: &Path, algorithm: Algorithm, kid: &str) -> Self {
        let kind: &[&str] = match algorithm {
            Algorithm::ES256 => &["EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
            Algorithm::EdDSA => &["ED25519"],
            _ => &["RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
        };
        let file = folder.join(format!("{kid}.pem"));
        let made = Command::new("openssl").args(["genpkey", "-algorithm"]).args(kind).arg("-out").arg(&file).output();
        assert!(made.unwrap().status.success());
        let public = Command::new("openssl").args(["pkey", "-pubout", "-in"]).arg(&file).output().unwrap();
        let pem = std::fs::read(&file).unwrap();
        let private = match algorithm {
            Algorithm::ES256 => EncodingKey::from_ec_pem(&pem),
            Algorithm::EdDSA => EncodingKey::from_ed_pem(&pem),
            _ => EncodingKey::from_rsa_pem(&pem),
        };
        Self { algorithm, private: private.unwrap(), public_pem: public.stdout, kid: kid.into() }
    }

    fn public(&self) -> Json {
        let mut key = Jwk::from_encoding_key(&self.private, self.algorithm).unwrap();
        key.common.key_id = Some(self.kid.clone());
        serde_json::to_value(key).unwrap()
    }

    fn header(&self) -> Header {
        Header { kid: Some(self.kid.clone()), ..Header::new(self.algorithm) }
    }

    fn token(&self, claims: &Json) -> String {
        jsonwebtoken::encode(&self.header(), claims, &self.private).unwrap()
    }
}

fn seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

fn claims() -> Json {
    let now = seconds();
    json!({"iss": ISS, "aud": ["account", "steppe-api"], "sub": "f3a1", "iat": now, "exp": now + 300, "jti": "1",
           "preferred_username": "Ann", "realm_access": {"roles": ["offline", "llm-admins"]}, "groups": "Sales"})
}

fn set(keys: &[&Pair]) -> String {
    json!({"keys": keys.iter().map(|pair| pair.public()).collect::<Vec<_>>()}).to_string()
}

fn config(folder: &Path, jwks: &str, further: &str) -> Result<Config, String> {
    let file = folder.join("steppe.toml");
    let place = folder.display();
    let text = format!(
        "[data]\ndir = \"{place}\"\n[issuer]\niss = {ISS:?}\naudience = \"steppe-api\"\njwks = {jwks:?}\n{further}\n"
    );
    std::fs::write(&file, text).unwrap();
    load(&Sources { file: Some(file), ..Sources::default() })
        .map(|loaded| loaded.config)
        .map_err(|error| error.to_string())
}

async fn open(folder: &Path, jwks: &str, further: &str) -> Authenticator {
    let config = config(folder, jwks, further).unwrap();
    let store = Store::sqlite(&folder.join("steppe.db")).await.unwrap();
    let outside = Outside::open(None, config.issuer.as_ref(), &Breakers::default()).unwrap();
    Authenticator::open_with(store, &config.auth, outside).await.unwrap()
}

/// With the public half of `pair` in a file.
async fn open_file(folder: &TempDir, pair: &Pair, further: &str) -> Authenticator {
    let file = folder.path().join("keys.json");
    std::fs::write(&file, set(&[pair])).unwrap();
    open(folder.path(), file.to_str().unwrap(), &format!("algorithm = \"{:?}\"\n{further}", pair.algorithm)).await
}

fn is_invalid(result: &Result<Identity, AuthError>) -> bool {
    matches!(result, Err(AuthError::Invalid))
}

#[tokio::test]
async fn good_tokens_make_users_with_roles_and_departments() {
    for algorithm in [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA] {
        let folder = tempfile::tempdir().unwrap();
        let pair = Pair::new(folder.path(), algorithm, "one");
        let auth =
            open_file(&folder, &pair, "groups_claim = \"realm_access.roles\"\nadmin_groups = [\"LLM-admins\"]").await;
        let identity = auth.bearer(&pair.token(&claims())).await.unwrap();
        assert_eq!((identity.name.as_str(), identity.role), ("ann", Role::Admin), "{algorithm:?}");
        let demoted = with(claims(), json!({"realm_access": {"roles": []}, "jti": null}));
        let again = auth.bearer(&pair.token(&demoted)).await.unwrap();
        assert_eq!((again.user_id, again.role), (identity.user_id, Role::User));
        let ann = auth.find_user("ann").await.unwrap();
        assert_eq!((ann.source, ann.subject.as_deref(), ann.password_hash), (Source::Issuer, Some("f3a1"), None));
        let rules = "user_groups = [\"sales\"]\ndepartment_groups = [\"Sales -> Продажи\"]";
        let auth = open_file(&folder, &pair, rules).await;
        let identity = auth.bearer(&pair.token(&claims())).await.unwrap();
        let departments = auth.store().departments().await.unwrap();
        assert_eq!(
            (departments[0].name.as_str(), Some(&departments[0].id)),
            ("Продажи", identity.department.as_ref().map(|(id, _)| id))
        );
        assert!(is_invalid(&auth.bearer(&pair.token(&with(claims(), json!({"groups": ["IT"]})))).await));
    }
}

#[tokio::test]
async fn tokens_that_say_too_little_or_too_much_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let pair = Pair::new(folder.path(), Algorithm::RS256, "one");
    let auth = open_file(&folder, &pair, "").await;
    let refused = async |claims: &Json| is_invalid(&auth.bearer(&pair.token(claims)).await);
    for claim in ["iss", "aud", "sub", "iat", "exp", "preferred_username"] {
        let mut less = claims();
        less.as_object_mut().unwrap().remove(claim);
        assert!(refused(&less).await, "without {claim}");
    }
    let now = seconds();
    for change in [
        json!({"exp": now - 61}),
        json!({"iat": now + 120}),
        json!({"nbf": now + 120}),
        json!({"aud": "other"}),
        json!({"iss": "steppe"}),
        json!({"iss": "https://login.example.org/realms/other"}),
        json!({"sub": ""}),
        json!({"sub": 7}),
        json!({"exp": "never"}),
        json!({"preferred_username": ""}),
        json!({"preferred_username": ["ann"]}),
        json!({"preferred_username": " ann"}),
        json!({"preferred_username": "a\nb"}),
    ] {
        assert!(refused(&with(claims(), change.clone())).await, "{change}");
    }
    assert!(auth.store().users().await.unwrap().is_empty());
    assert!(auth.bearer(&pair.token(&claims())).await.is_ok());
}

#[tokio::test]
async fn forged_tokens_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let [pair, thief] = ["one", "two"].map(|kid| Pair::new(folder.path(), Algorithm::RS256, kid));
    let auth = open_file(&folder, &pair, "").await;
    let account =
        Account { name: "root".into(), password: Some("correct horse".into()), role: Role::Admin, department: None };
    let (root, _) = auth.add_user(account).await.unwrap();
    let good = pair.token(&claims());
    let parts: Vec<&str> = good.split('.').collect();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let place = format!("http://{}/", listener.local_addr().unwrap());
    let thieves = serde_json::from_value(thief.public()).unwrap();

    let mut forged = Vec::new();
    // The public key as the secret of an algorithm with secrets, in every form that somebody may have it in.
    let pem = String::from_utf8(pair.public_pem.clone()).unwrap();
    let modulus = pair.public()["n"].as_str().unwrap().to_owned();
    for secret in
        [pem.clone().into_bytes(), pem.trim().as_bytes().to_vec(), modulus.into_bytes(), set(&[&pair]).into_bytes()]
    {
        for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
            let header = Header { alg: algorithm, ..pair.header() };
            forged.push(jsonwebtoken::encode(&header, &claims(), &EncodingKey::from_secret(&secret)).unwrap());
        }
    }
    // No algorithm, no signature, another algorithm of the same key, another key under the same name.
    // {"alg":"none"}, {"alg":"none","kid":"one"}
    for header in ["eyJhbGciOiJub25lIn0", "eyJhbGciOiJub25lIiwia2lkIjoib25lIn0"] {
        forged.extend([format!("{header}.{}.", parts[1]), format!("{header}.{}.{}", parts[1], parts[2])]);
    }
    forged.push(format!("{}.{}.", parts[0], parts[1]));
    let header = Header { alg: Algorithm::RS512, ..pair.header() };
    forged.push(jsonwebtoken::encode(&header, &claims(), &pair.private).unwrap());
    forged.push(jsonwebtoken::encode(&pair.header(), &claims(), &thief.private).unwrap());
    // Names of keys that lead elsewhere, and keys that come along.
    for kid in [None, Some(""), Some("two"), Some("../../dev/null"), Some("' OR 1=1 --"), Some(place.as_str())] {
        let header =
            Header { kid: kid.map(str::to_owned), jku: Some(place.clone()), x5u: Some(place.clone()), ..pair.header() };
        forged.push(jsonwebtoken::encode(&header, &claims(), &thief.private).unwrap());
    }
    let header = Header { jwk: Some(thieves), ..thief.header() };
    forged.push(jsonwebtoken::encode(&header, &claims(), &thief.private).unwrap());
    let header = Header { crit: Some(vec!["b64".into()]), ..pair.header() };
    forged.push(jsonwebtoken::encode(&header, &claims(), &pair.private).unwrap());
    // A token of this server's own, signed by the company.
    let own = with(claims(), json!({"iss": "steppe", "aud": "steppe", "sub": root.id}));
    forged.push(pair.token(&own));
    // A changed claim under the old signature.
    let changed = pair.token(&with(claims(), json!({"preferred_username": "bob"})));
    forged.push(format!("{}.{}.{}", parts[0], changed.split('.').nth(1).unwrap(), parts[2]));

    for token in &forged {
        assert!(is_invalid(&auth.bearer(token).await), "{token}");
    }
    assert!(listener.accept().is_err(), "somebody followed the header of a token");
    assert_eq!(auth.store().users().await.unwrap().len(), 1);
    assert!(auth.bearer(&good).await.is_ok());
    let login = auth.log_in("root", "correct horse", std::net::Ipv4Addr::LOCALHOST.into()).await.unwrap();
    assert_eq!(auth.bearer(&login.access_token).await.unwrap().user_id, root.id, "our own tokens are still ours");
}

#[tokio::test]
async fn a_name_stays_with_its_subject_and_source() {
    let folder = tempfile::tempdir().unwrap();
    let pair = Pair::new(folder.path(), Algorithm::ES256, "one");
    let auth = open_file(&folder, &pair, "").await;
    let account = Account { name: "root".into(), password: None, role: Role::Admin, department: None };
    auth.add_user(account).await.unwrap();
    let token = |change: Json| pair.token(&with(claims(), change));
    assert!(is_invalid(&auth.bearer(&token(json!({"preferred_username": "root"}))).await), "a local user's name");
    let first = token(json!({"jti": "first"}));
    let ann = auth.bearer(&first).await.unwrap();
    assert!(is_invalid(&auth.bearer(&token(json!({"sub": "somebody else"}))).await), "who calls themselves ann");
    auth.revoke(&first).await.unwrap();
    assert!(is_invalid(&auth.bearer(&first).await));
    let second = token(json!({"jti": "second"}));
    assert!(auth.bearer(&second).await.is_ok());
    auth.store().set_disabled(&ann.user_id, true).await.unwrap();
    assert!(is_invalid(&auth.bearer(&second).await));
    assert!(matches!(
        auth.log_in("ann", "", std::net::Ipv4Addr::LOCALHOST.into()).await,
        Err(AuthError::WrongPassword)
    ));
}

/// Serves a JWK Set over HTTP, counts, and after the first stays silent where `silent`.
fn serve(sets: Vec<String>, silent: bool) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = format!("http://{}/keys", listener.local_addr().unwrap());
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let index = counted.fetch_add(1, Ordering::SeqCst);
            if silent {
                kept.push(stream);
                continue;
            }
            let _ = stream.read(&mut [0; 4096]);
            let body = &sets[index.min(sets.len() - 1)];
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            let _ = stream.write_all((head + body).as_bytes());
        }
    });
    (place, count)
}

#[tokio::test]
async fn keys_are_fetched_when_needed_and_at_most_once_a_minute() {
    let folder = tempfile::tempdir().unwrap();
    let [one, two, three] = ["one", "two", "three"].map(|kid| Pair::new(folder.path(), Algorithm::ES256, kid));
    let odd = json!({"keys": [{"kty": "new"}, 7, {"kty": "oct", "k": "c2VjcmV0", "kid": "one", "alg": "HS256"}, one.public(),
                              with(three.public(), json!({"use": "enc"}))]});
    let (place, count) = serve(vec![odd.to_string(), set(&[&one, &two])], false);
    let auth = open(folder.path(), &place, "algorithm = \"ES256\"").await;
    assert_eq!(count.load(Ordering::SeqCst), 0);
    for _ in 0..3 {
        assert!(auth.bearer(&one.token(&claims())).await.is_ok());
    }
    assert_eq!(count.load(Ordering::SeqCst), 1);
    for pair in [&two, &three] {
        assert!(
            is_invalid(&auth.bearer(&pair.token(&claims())).await),
            "no key to sign with, and too early to ask again"
        );
    }
    assert!(auth.bearer(&one.token(&claims())).await.is_ok());
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn while_the_keys_cannot_be_had_the_api_says_come_again() {
    let folder = tempfile::tempdir().unwrap();
    let pair = Pair::new(folder.path(), Algorithm::ES256, "one");
    let (place, count) = serve(Vec::new(), true);
    let mut setup = Setup::new();
    setup.issuer = config(folder.path(), &place, "algorithm = \"ES256\"\ntimeout_seconds = 1").unwrap().issuer;
    let server = setup.start().await;
    let header = format!("Bearer {}", pair.token(&claims()));
    for least in [900, 0] {
        let begin = Instant::now();
        let reply = send(server.address, "GET", "/v1/models", &[("authorization", &header)], b"").await;
        assert_eq!((reply.status, reply.json()["error"]["code"].as_str()), (503, Some("identity_unavailable")));
        assert!(reply.header("retry-after").is_some());
        let took = begin.elapsed();
        assert!(took >= Duration::from_millis(least) && took < Duration::from_secs(3), "{took:?}");
    }
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

#[test]
fn mistakes_are_told_in_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.json");
    let pair = Pair::new(folder.path(), Algorithm::ES256, "one");
    std::fs::write(&file, set(&[&pair])).unwrap();
    let file = file.to_str().unwrap();
    for (jwks, further, word) in [
        ("", "", "issuer.jwks"),
        ("http://login.example.org/keys", "", "https://"),
        ("http://127.0.0.1.example.org/keys", "", "https://"),
        ("ftp://login.example.org/keys", "", "https://"),
        ("/no/such/keys.json", "", "/no/such/keys.json"),
        ("/dev/null", "", "no JWK Set"),
        (file, "", "no RS256 key"),
        (file, "algorithm = \"HS256\"", "RS256, ES256 or EdDSA"),
        (file, "algorithm = \"none\"", "RS256, ES256 or EdDSA"),
        (file, "name_claim = \"\"", "issuer.name_claim"),
        (file, "department_groups = [\"x\"]", "GROUP -> DEPARTMENT"),
        ("https://login.example.org/keys", "ca_file = \"/no/ca.pem\"", "/no/ca.pem"),
        (file, "[auth]\nissuer = \"https://login.example.org/realms/office\"", "auth.issuer"),
    ] {
        let opened = config(folder.path(), jwks, further).and_then(|config| {
            Outside::open(None, config.issuer.as_ref(), &Breakers::default()).map_err(|error| error.to_string())
        });
        let error = opened.err().unwrap_or_else(|| panic!("{jwks} {further} is taken"));
        assert!(error.contains(word) && error.lines().count() == 1, "{error}");
    }
}
