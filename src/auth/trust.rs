//! Whose certificates are trusted when the company's servers are asked: those of a file, or the system's.

use std::path::Path;

use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;

/// Where systems keep those that they trust: Debian, RED OS and Fedora, openSUSE, Alpine.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The certificates.
///
/// # Errors
/// In one sentence, when there are none.
pub(super) fn trusted(ca_file: Option<&Path>) -> Result<Vec<CertificateDer<'static>>, String> {
    let system = || BUNDLES.iter().map(Path::new).find(|bundle| bundle.is_file());
    let path = ca_file.or_else(system).ok_or("the system trusts no certificates; name those to trust in ca_file")?;
    let name = path.display();
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let certificates: Vec<_> = read.map_err(|error| format!("{name} cannot be read as PEM certificates: {error}"))?;
    if certificates.is_empty() { Err(format!("{name} holds no PEM certificate")) } else { Ok(certificates) }
}
