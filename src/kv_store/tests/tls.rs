//! Redis behind TLS: whom it is trusted to be, and what it is shown.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use super::*;
use crate::kv_store::testing::free_address;

/// `NAME.pem`, an authority, and a certificate that it has signed for 127.0.0.1 with its key, `NAME-server.pem` and `.key`.
fn authority(folder: &Path, name: &str) -> PathBuf {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let signed = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
    let path = |file: &str| folder.join(format!("{name}{file}"));
    fs::write(path("-server.pem"), signed.pem()).unwrap();
    fs::write(path("-server.key"), key.serialize_pem()).unwrap();
    fs::write(path(".pem"), authority.pem()).unwrap();
    path(".pem")
}

/// A server that also listens with TLS, and its URL there.
async fn start(folder: &Path, asks_for_certificates: &str) -> (RedisServer, String) {
    let port = free_address().port();
    let server = RedisServer::start_with(|_| {
        let file = |name: &str| folder.join(name).display().to_string();
        let own = [file("right-server.pem"), file("right-server.key"), file("right.pem")];
        let [certificate, key, ca] = own;
        let tls = ["--tls-port", &port.to_string(), "--tls-cert-file", &certificate, "--tls-key-file", &key];
        let asks = ["--tls-ca-cert-file", &ca, "--tls-auth-clients", asks_for_certificates];
        tls.iter().chain(&asks).map(|&text| text.to_owned()).collect()
    });
    (server.await, format!("rediss://127.0.0.1:{port}"))
}

fn open(settings: &RedisSettings) -> (KvStore, Arc<Breaker>) {
    let breaker = breaker(true);
    (KvStore::redis(settings, breaker.clone()).unwrap(), breaker)
}

#[tokio::test]
async fn a_server_with_a_trusted_certificate_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let ca = authority(folder.path(), "right");
    let (_server, url) = start(folder.path(), "no").await;
    let settings = RedisSettings { ca_file: Some(ca), timeout: MINUTE, ..RedisSettings::new(url) };
    holds(&open(&settings).0).await;
}

#[tokio::test]
async fn a_server_that_is_somebody_else_is_told_in_one_sentence_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (ca, wrong) = (authority(folder.path(), "right"), authority(folder.path(), "wrong"));
    let (server, url) = start(folder.path(), "no").await;
    let elsewhere = url.replace("127.0.0.1", "localhost");
    let plain = server.url().replace("redis://", "rediss://");
    let cases = [(&url, wrong, "UnknownIssuer"), (&elsewhere, ca.clone(), "not valid for name"), (&plain, ca, "")];
    for (url, ca, word) in cases {
        let timeout = Duration::from_secs(5);
        let settings = RedisSettings { ca_file: Some(ca), timeout, ..RedisSettings::new(url.clone()) };
        let (store, breaker) = open(&settings);
        let started = Instant::now();
        for _ in 0..BreakerSettings::default().failure_threshold {
            let error = store.get("key").await.unwrap_err();
            assert!(matches!(error, KvError::Connection(_)) && error.to_string().contains(word), "{url}: {error}");
        }
        assert!(started.elapsed() < 3 * timeout, "{url}: {:?}", started.elapsed());
        assert_eq!(breaker.report().state, BreakerState::Open, "{url}");
        assert!(matches!(store.get("key").await, Err(KvError::Open(_))));
    }
}

#[tokio::test]
async fn a_server_that_asks_for_a_certificate_is_shown_one() {
    let folder = tempfile::tempdir().unwrap();
    let ca = authority(folder.path(), "right");
    let _other = authority(folder.path(), "wrong");
    let (_server, url) = start(folder.path(), "yes").await;
    let own = |name: &str| {
        let file = |ending: &str| folder.path().join(format!("{name}-server.{ending}"));
        Some(OwnCertificate { certificate: file("pem"), key: file("key") })
    };
    let with = |own_certificate| RedisSettings {
        ca_file: Some(ca.clone()),
        own_certificate,
        timeout: MINUTE,
        ..RedisSettings::new(url.clone())
    };
    holds(&open(&with(own("right"))).0).await;
    for refused in [None, own("wrong")] {
        let error = open(&with(refused)).0.get("key").await.unwrap_err();
        assert!(matches!(error, KvError::Connection(_)), "{error}");
    }
}

#[test]
fn files_that_are_none_are_told_at_the_start() {
    let missing = PathBuf::from("/no/such/file.pem");
    let redis = || RedisSettings::new("rediss://127.0.0.1");
    let own = OwnCertificate { certificate: missing.clone(), key: missing.clone() };
    for (settings, word) in [
        (RedisSettings { ca_file: Some(missing.clone()), ..redis() }, "/no/such/file.pem"),
        (RedisSettings { ca_file: Some("/dev/null".into()), ..redis() }, "no PEM certificate"),
        (RedisSettings { own_certificate: Some(own), ..redis() }, "/no/such/file.pem"),
    ] {
        let error = KvStore::redis(&settings, breaker(true)).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
}
