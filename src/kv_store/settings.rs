//! Where Redis is: one server or a cluster, from URLs or from host, port and number of the database; whom it is trusted to be.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use redis::{Client, ClientTlsConfig, ConnectionAddr, RedisError, TlsCertificates};
use secrecy::{ExposeSecret as _, SecretString};

use super::KvError;
use crate::trust;

/// Where Redis is and how long it may take.
#[derive(Debug, Clone)]
pub struct RedisSettings {
    /// `REDIS_URL`: `redis://[user][:password]@host[:port][/database]`, `rediss://…` for TLS, or `unix:///path`; of a
    /// cluster several, with commas between. May hold a password, hence a secret.
    pub url: SecretString,
    /// The servers are a cluster's. All keys lie in one slot, for scripts work on several at once.
    pub cluster: bool,
    /// PEM certificates that are trusted; absent, those of the system.
    pub ca_file: Option<PathBuf>,
    /// What the server is shown, where it asks for a certificate.
    pub own_certificate: Option<OwnCertificate>,
    /// Every key begins with it. Installations that share a server differ in it.
    pub prefix: String,
    /// No call takes longer, a new connection included.
    pub timeout: Duration,
}

/// A certificate and its key, PEM files.
#[derive(Debug, Clone)]
pub struct OwnCertificate {
    /// With those that signed it.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Whom to connect to.
#[derive(Debug)]
pub(super) struct Servers {
    /// To be tried in this order.
    pub clients: Vec<Client>,
    /// In a cluster: a key like all others, for which one of its servers answers.
    pub key: Option<String>,
}

impl RedisSettings {
    /// This URL and defaults: one server, keys begin with `steppe:`, calls take 50 ms at most.
    pub fn new(url: impl Into<SecretString>) -> Self {
        Self {
            url: url.into(),
            cluster: false,
            ca_file: None,
            own_certificate: None,
            prefix: "steppe:".into(),
            timeout: Duration::from_millis(50),
        }
    }

    /// From `REDIS_HOST`, `REDIS_PORT` and `REDIS_DB`. An IPv6 address goes with or without brackets.
    pub fn at(host: &str, port: u16, database: u32) -> Self {
        let bare_ipv6 = host.contains(':') && !host.starts_with('[');
        let host = if bare_ipv6 { format!("[{host}]") } else { host.to_owned() };
        Self::new(format!("redis://{host}:{port}/{database}"))
    }

    /// What every key begins with: in a cluster, the part in braces decides over the slot.
    pub(super) fn key_prefix(&self) -> Result<String, KvError> {
        match (self.cluster, self.prefix.split_once('{')) {
            (false, _) => Ok(self.prefix.clone()),
            (true, None) => Ok(format!("{{{}}}:", self.prefix.trim_end_matches(':'))),
            (true, Some((_, rest))) if rest.find('}').is_some_and(|length| length > 0) => Ok(self.prefix.clone()),
            (true, Some(_)) => {
                Err(KvError::Address("redis.prefix of a cluster must hold {something} or no brace".into()))
            }
        }
    }

    /// Clients, not yet connected.
    pub(super) fn servers(&self) -> Result<Servers, KvError> {
        let urls = self.url.expose_secret();
        if !self.cluster {
            return Ok(Servers { clients: vec![self.client(urls)?], key: None });
        }
        let clients = urls.split(',').map(|url| self.client(url.trim())).collect::<Result<Vec<_>, _>>()?;
        if clients.iter().any(|client| client.get_connection_info().redis_settings().db() != 0) {
            return Err(KvError::Address("a cluster has only the database 0".into()));
        }
        Ok(Servers { clients, key: Some(self.key_prefix()?) })
    }

    fn client(&self, url: &str) -> Result<Client, KvError> {
        let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
        // The crate's own words could repeat the URL.
        let wrong = |error: RedisError| KvError::Address(format!("REDIS_URL is no address ({:?})", error.kind()));
        match scheme.to_ascii_lowercase().as_str() {
            "redis" | "valkey" => Client::open(url).map_err(wrong),
            "unix" | "redis+unix" | "valkey+unix" if !self.cluster => Client::open(url).map_err(wrong),
            "rediss" | "valkeys" => {
                // The crate asks for the process's default.
                trust::provider();
                let client = Client::build_with_tls(url, self.certificates()?).map_err(wrong)?;
                match client.get_connection_info().addr() {
                    ConnectionAddr::TcpTls { insecure: true, .. } => {
                        Err(KvError::Address("REDIS_URL ends in #insecure; name whom to trust in redis.ca_file".into()))
                    }
                    _ => Ok(client),
                }
            }
            // The rest of the text may be a password.
            _ => Err(KvError::Address("REDIS_URL must begin with redis://, rediss:// or unix://".into())),
        }
    }

    fn certificates(&self) -> Result<TlsCertificates, KvError> {
        let read = |path: &PathBuf| {
            fs::read(path).map_err(|error| KvError::Address(format!("{} cannot be read: {error}", path.display())))
        };
        let client_tls = match &self.own_certificate {
            Some(own) => Some(ClientTlsConfig { client_cert: read(&own.certificate)?, client_key: read(&own.key)? }),
            None => None,
        };
        Ok(TlsCertificates {
            client_tls,
            root_cert: Some(trust::pem(self.ca_file.as_deref()).map_err(KvError::Address)?),
        })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn addresses() {
        for good in ["redis://127.0.0.1", "redis://:pass%40word@host:1234/5", "unix:///run/redis.sock"] {
            RedisSettings::new(good).servers().unwrap();
        }
        for (host, wanted) in [("redis", "redis:6379"), ("::1", "[::1]:6379"), ("[::1]", "[::1]:6379")] {
            let client = RedisSettings::at(host, 6379, 2).servers().unwrap().clients.remove(0);
            assert_eq!(client.get_connection_info().addr().to_string(), wanted.replace(['[', ']'], ""));
            assert_eq!(client.get_connection_info().redis_settings().db(), 2);
        }
    }

    #[test]
    fn wrong_addresses_are_told_without_the_password() {
        for (url, wanted) in [
            ("rediss://:hunter2@host#insecure", "redis.ca_file"),
            ("rediss://:hunter2@host:x", "is no address"),
            ("http://:hunter2@host", "must begin with redis://"),
            ("hunter2", "must begin with redis://"),
            ("redis://:hunter2@host:99999", "is no address"),
            ("redis://:hunter2@host/x", "is no address"),
        ] {
            let settings = RedisSettings::new(url);
            let told = settings.servers().unwrap_err().to_string();
            assert!(told.contains(wanted), "{url}: {told}");
            assert!(!format!("{told} {settings:?}").contains("hunter2"), "{url}: {told}");
        }
    }

    #[test]
    fn a_clusters_keys_lie_in_one_slot() {
        let of =
            |prefix: &str| RedisSettings { cluster: true, prefix: prefix.into(), ..RedisSettings::new("redis://h") };
        for (prefix, wanted) in [("steppe:", "{steppe}:"), ("a{b}:", "a{b}:"), ("x", "{x}:")] {
            assert_eq!(of(prefix).key_prefix().unwrap(), wanted);
        }
        for wrong in ["a{b:", "{}:", "{"] {
            assert!(of(wrong).servers().unwrap_err().to_string().contains("redis.prefix"), "{wrong}");
        }
        let urls = |urls: &str| RedisSettings { cluster: true, ..RedisSettings::new(urls) }.servers();
        assert_eq!(urls("redis://a:1, redis://b:2,rediss://c").unwrap().clients.len(), 3);
        for (wrong, word) in
            [("redis://a/1", "database 0"), ("unix:///run/redis", "must begin"), ("redis://a,b", "must begin")]
        {
            assert!(urls(wrong).unwrap_err().to_string().contains(word), "{wrong}");
        }
    }
}
