//! TLS by certificate and key files, which are read again when they change: a renewed certificate needs no restart.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};

use crate::config::TlsFiles;
use crate::trust;

/// The files are looked at so often.
const LOOK: Duration = Duration::from_secs(5);

/// What connections are encrypted with. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tls {
    files: Arc<TlsFiles>,
    config: Arc<RwLock<Arc<ServerConfig>>>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// When they cannot be read, or do not belong together.
    pub fn open(files: &TlsFiles) -> anyhow::Result<Self> {
        let config = Arc::new(RwLock::new(Arc::new(read(files)?)));
        Ok(Self { files: Arc::new(files.clone()), config })
    }

    /// Accepts by what the files hold now.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Reads the files again whenever one has changed; what cannot be used changes nothing.
    pub async fn renew(self) {
        let mut known = changed(&self.files);
        loop {
            tokio::time::sleep(LOOK).await;
            let now = changed(&self.files);
            if now == known {
                continue;
            }
            known = now;
            match read(&self.files) {
                Ok(config) => {
                    *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
                    tracing::info!("the certificate has changed and is in use");
                }
                Err(error) => tracing::error!("the certificate has changed and cannot be used: {error:#}"),
            }
        }
    }
}

fn changed(files: &TlsFiles) -> [Option<SystemTime>; 2] {
    [&files.certificate, &files.key].map(|path| std::fs::metadata(path).and_then(|file| file.modified()).ok())
}

fn read(files: &TlsFiles) -> anyhow::Result<ServerConfig> {
    let (certificate, key) = (&files.certificate, &files.key);
    let certificates = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| format!("server.tls_certificate {}", certificate.display()))?;
    anyhow::ensure!(!certificates.is_empty(), "server.tls_certificate {} holds none", certificate.display());
    let private = PrivateKeyDer::from_pem_file(key).with_context(|| format!("server.tls_key {}", key.display()))?;
    let mut config = ServerConfig::builder_with_provider(trust::provider())
        .with_protocol_versions(rustls::DEFAULT_VERSIONS)?
        .with_no_client_auth()
        .with_single_cert(certificates, private)
        .with_context(|| format!("{} and {}", certificate.display(), key.display()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
