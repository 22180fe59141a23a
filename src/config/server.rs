//! `[server]`: where and how HTTP is served.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::check::{Origin, invalid, seconds, within};
use super::{ConfigError, Network};

/// Where and how HTTP is served.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawServer {
    pub host: String,
    pub port: u16,
    pub max_body_kib: usize,
    pub receive_seconds: u64,
    pub keep_alive_seconds: u64,
    pub drain_seconds: u64,
    pub cors_origins: Vec<String>,
    pub allowed_hosts: Vec<String>,
    pub trusted_proxies: Vec<String>,
    pub max_connections: usize,
    pub health_seconds: u64,
    pub tls_certificate: String,
    pub tls_key: String,
}

impl Default for RawServer {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".into(),
            port: 8000,
            max_body_kib: 8192,
            receive_seconds: 75,
            keep_alive_seconds: 15,
            drain_seconds: 30,
            cors_origins: Vec::new(),
            allowed_hosts: Vec::new(),
            trusted_proxies: Vec::new(),
            max_connections: 4096,
            health_seconds: 30,
            tls_certificate: String::new(),
            tls_key: String::new(),
        }
    }
}

/// `[server]`, resolved.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Where to listen.
    pub address: SocketAddr,
    /// Largest request body, bytes.
    pub max_body: usize,
    /// The head of a request must arrive within so long, and then its body.
    pub receive: Duration,
    /// A comment is sent on a silent event stream this often.
    pub keep_alive: Duration,
    /// Running requests get so long to finish after SIGTERM.
    pub drain: Duration,
    /// Origins whose pages may call the API; `*` is any, none is none.
    pub cors_origins: Vec<String>,
    /// Names by which the server may be addressed, in lower case; none is any.
    pub allowed_hosts: Vec<String>,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<Network>,
    /// Connections at once; further ones wait to be accepted.
    pub max_connections: usize,
    /// The server's parts are looked at this often.
    pub health_interval: Duration,
    /// Speak TLS.
    pub tls: Option<TlsFiles>,
}

/// What TLS is spoken with, in PEM.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The certificate and those it is signed with.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl RawServer {
    /// Judges the values.
    pub(super) fn resolve(&self, origin: Origin) -> Result<ServerConfig, ConfigError> {
        let address = match self.host.parse::<IpAddr>() {
            Ok(ip) => SocketAddr::new(ip, self.port),
            Err(_) => (self.host.as_str(), self.port)
                .to_socket_addrs()
                .ok()
                .and_then(|mut found| found.next())
                .ok_or_else(|| {
                    invalid("server.host", origin, format!("must be an address of this machine, not `{}`", self.host))
                })?,
        };
        Ok(ServerConfig {
            address,
            max_body: within("server.max_body_kib", self.max_body_kib, 1..=1 << 21, origin)? * 1024,
            receive: seconds("server.receive_seconds", self.receive_seconds, 1..=3600, origin)?,
            keep_alive: seconds("server.keep_alive_seconds", self.keep_alive_seconds, 1..=3600, origin)?,
            drain: seconds("server.drain_seconds", self.drain_seconds, 0..=86_400, origin)?,
            cors_origins: origins(&self.cors_origins, origin)?,
            allowed_hosts: self.allowed_hosts.iter().map(|host| host.to_ascii_lowercase()).collect(),
            max_connections: within("server.max_connections", self.max_connections, 1..=1 << 20, origin)?,
            health_interval: seconds("server.health_seconds", self.health_seconds, 1..=86_400, origin)?,
            tls: self.tls_files(origin)?,
            trusted_proxies: networks(&self.trusted_proxies, origin)?,
        })
    }
}

impl RawServer {
    fn tls_files(&self, origin: Origin) -> Result<Option<TlsFiles>, ConfigError> {
        match (self.tls_certificate.as_str(), self.tls_key.as_str()) {
            ("", "") => Ok(None),
            ("", _) => Err(invalid("server.tls_certificate", origin, "is missing beside server.tls_key".into())),
            (_, "") => Err(invalid("server.tls_key", origin, "is missing beside server.tls_certificate".into())),
            (certificate, key) => Ok(Some(TlsFiles { certificate: certificate.into(), key: key.into() })),
        }
    }
}

fn origins(given: &[String], origin: Origin) -> Result<Vec<String>, ConfigError> {
    let sound = |text: &String| text == "*" || text.starts_with("http://") || text.starts_with("https://");
    match given.iter().find(|text| !sound(text) || text.ends_with('/') || !text.is_ascii()) {
        Some(wrong) => {
            let problem = format!("must hold origins such as https://chat.example.org, or *, not `{wrong}`");
            Err(invalid("server.cors_origins", origin, problem))
        }
        None => Ok(given.to_vec()),
    }
}

fn networks(given: &[String], origin: Origin) -> Result<Vec<Network>, ConfigError> {
    let parse = |text: &String| {
        text.parse().map_err(|problem| invalid("server.trusted_proxies", origin, format!("is wrong: {problem}")))
    };
    given.iter().map(parse).collect()
}
