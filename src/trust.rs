//! What connections to other servers rest on: one provider of cryptography, and whose certificates are trusted, those of a
//! file or the system's. Must not know who connects.

use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;

/// Where systems keep those that they trust: Debian, RED OS and Fedora, openSUSE, Alpine.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The one provider of cryptography. More than one is linked, and rustls refuses to choose: from the first call on this
/// is the process's default, also for libraries that ask for none.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    let default = CryptoProvider::get_default().cloned();
    default.unwrap_or_else(|| {
        // Somebody else may just have done the same.
        let _ = aws_lc_rs::default_provider().install_default();
        CryptoProvider::get_default().cloned().unwrap_or_else(|| Arc::new(aws_lc_rs::default_provider()))
    })
}

/// The certificates.
///
/// # Errors
/// In one sentence, when there are none.
pub(crate) fn certificates(ca_file: Option<&Path>) -> Result<Vec<CertificateDer<'static>>, String> {
    let system = || BUNDLES.iter().map(Path::new).find(|bundle| bundle.is_file());
    let path = ca_file.or_else(system).ok_or("the system trusts no certificates; name those to trust in ca_file")?;
    let name = path.display();
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let mut certificates: Vec<_> =
        read.map_err(|error| format!("{name} cannot be read as PEM certificates: {error}"))?;
    if certificates.is_empty() {
        return Err(format!("{name} holds no PEM certificate"));
    }
    certificates.retain(|certificate| RootCertStore::empty().add(certificate.clone()).is_ok());
    if certificates.is_empty() {
        Err(format!("none of the certificates in {name} makes sense"))
    } else {
        Ok(certificates)
    }
}

/// The certificates as rustls takes them.
///
/// # Errors
/// In one sentence, when there are none.
pub(crate) fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates(ca_file)?);
    Ok(roots)
}

/// The certificates as PEM.
///
/// # Errors
/// In one sentence, when there are none.
pub(crate) fn pem(ca_file: Option<&Path>) -> Result<Vec<u8>, String> {
    let block = |certificate: &CertificateDer<'_>| {
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(certificate))
    };
    Ok(certificates(ca_file)?.iter().map(block).collect::<String>().into_bytes())
}
