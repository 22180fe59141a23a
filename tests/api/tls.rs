//! TLS with real certificates, renewed while the server runs.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use steppe::config::TlsFiles;
use steppe::server::Tls;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::harness::Setup;

/// Writes a certificate and its key, and returns what a client must trust.
fn certify(folder: &Path) -> (TlsFiles, RootCertStore) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let files = TlsFiles { certificate: folder.join("cert.pem"), key: folder.join("key.pem") };
    std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    std::fs::write(&files.certificate, made.cert.pem()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    (files, roots)
}

async fn get(address: SocketAddr, roots: &RootCertStore) -> std::io::Result<String> {
    let client = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots.clone())
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(Arc::new(client)).connect(name, stream).await?;
    stream.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[tokio::test]
async fn a_renewed_certificate_is_taken_and_a_broken_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let (files, first) = certify(folder.path());
    let mut setup = Setup::new();
    setup.tls = Some(files.clone());
    let server = setup.start().await;
    let answer = get(server.address, &first).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("strict-transport-security: "), "{answer}");
    let mut plain = TcpStream::connect(server.address).await.unwrap();
    plain.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut refused = Vec::new();
    let _ = plain.read_to_end(&mut refused).await;
    assert!(!refused.starts_with(b"HTTP"), "TLS only");

    std::fs::write(&files.certificate, "nonsense").unwrap();
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(get(server.address, &first).await.is_ok(), "what was there before stays in use");
    let (_, second) = certify(folder.path());
    let begin = Instant::now();
    while get(server.address, &second).await.is_err() {
        assert!(begin.elapsed() < Duration::from_secs(20), "the new certificate is not taken");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(get(server.address, &first).await.is_err());
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let (files, _) = certify(folder.path());
    let other = tempfile::tempdir().unwrap();
    let (foreign, _) = certify(other.path());
    let empty = folder.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    for (certificate, key, word) in [
        (folder.path().join("none.pem"), files.key.clone(), "none.pem"),
        (empty.clone(), files.key.clone(), "empty.pem"),
        (files.certificate.clone(), empty, "empty.pem"),
        (files.certificate, foreign.key, "key.pem"),
    ] {
        let error = format!("{:#}", Tls::open(&TlsFiles { certificate, key }).unwrap_err());
        assert!(error.contains(word), "{word} in: {error}");
    }
}
