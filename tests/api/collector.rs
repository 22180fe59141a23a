//! A collector of the tests' own: takes whatever is posted, with or without TLS.

use std::fs;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ServerConfig, ServerConnection, StreamOwned};

/// Head, in small letters, and body of a request.
type Received = (String, Vec<u8>);

/// What has arrived, and where.
pub struct Collector {
    url: String,
    pub received: Arc<Mutex<Vec<Received>>>,
}

/// Signs certificates.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    file: PathBuf,
}

impl Authority {
    /// Its certificate lies in a file of this name.
    pub fn new(folder: &Path, name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let file = folder.join(format!("{name}.pem"));
        fs::write(&file, issuer.pem()).unwrap();
        Self { issuer, file }
    }

    pub fn ca_file(&self) -> &'static str {
        self.file.display().to_string().leak()
    }

    /// What a server at 127.0.0.1 shows.
    fn server(&self) -> Arc<ServerConfig> {
        let key = KeyPair::generate().unwrap();
        let names = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let certificate: CertificateDer<'static> = names.signed_by(&key, &self.issuer).unwrap().der().clone();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        Arc::new(builder.with_single_cert(vec![certificate], key).unwrap())
    }
}

impl Collector {
    pub fn start() -> Self {
        Self::listen("http", None)
    }

    /// With a certificate that this authority has signed.
    pub fn secure(authority: &Authority) -> Self {
        Self::listen("https", Some(authority.server()))
    }

    fn listen(scheme: &str, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        let received = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&received);
        std::thread::spawn(move || {
            for stream in listener.incoming().map(Result::unwrap) {
                match &tls {
                    None => sink.lock().unwrap().extend(take(stream)),
                    Some(tls) => {
                        let connection = ServerConnection::new(Arc::clone(tls)).unwrap();
                        sink.lock().unwrap().extend(take(StreamOwned::new(connection, stream)));
                    }
                }
            }
        });
        Self { url: format!("{scheme}://{address}"), received }
    }

    pub fn url(&self) -> &'static str {
        self.url.clone().leak()
    }

    /// Whether anything that arrived holds this text.
    pub fn holds(&self, text: &str) -> bool {
        let holds = |bytes: &[u8]| bytes.windows(text.len()).any(|window| window == text.as_bytes());
        self.received.lock().unwrap().iter().any(|(_, body)| holds(body))
    }
}

/// One request; none from whoever leaves without one.
fn take(stream: impl Read + Write) -> Option<Received> {
    let mut reader = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? <= 2 {
            break;
        }
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        head += &lower;
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    reader.get_mut().write_all(answer).ok()?;
    Some((head, body))
}
