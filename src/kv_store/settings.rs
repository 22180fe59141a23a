//! Where Redis is, from a URL or from host, port and number of the database.

use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};

use super::KvError;

/// Where Redis is and how long it may take.
#[derive(Debug, Clone)]
pub struct RedisSettings {
    /// `REDIS_URL`: `redis://[user][:password]@host[:port][/database]`, or `unix:///path`. May hold a password, hence a secret.
    pub url: SecretString,
    /// Every key begins with it. Installations that share a server differ in it; `{name}:` keeps a cluster's keys together.
    pub prefix: String,
    /// No call takes longer, a new connection included.
    pub timeout: Duration,
}

impl RedisSettings {
    /// This URL and defaults: keys begin with `steppe:`, calls take 50 ms at most.
    pub fn new(url: impl Into<SecretString>) -> Self {
        Self { url: url.into(), prefix: "steppe:".into(), timeout: Duration::from_millis(50) }
    }

    /// From `REDIS_HOST`, `REDIS_PORT` and `REDIS_DB`. An IPv6 address goes with or without brackets.
    pub fn at(host: &str, port: u16, database: u32) -> Self {
        let bare_ipv6 = host.contains(':') && !host.starts_with('[');
        let host = if bare_ipv6 { format!("[{host}]") } else { host.to_owned() };
        Self::new(format!("redis://{host}:{port}/{database}"))
    }

    /// A client for it, not yet connected.
    pub(super) fn client(&self) -> Result<redis::Client, KvError> {
        let url = self.url.expose_secret();
        let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
        match scheme.to_ascii_lowercase().as_str() {
            "redis" | "valkey" | "unix" | "redis+unix" | "valkey+unix" => {}
            "rediss" | "valkeys" => {
                let hint =
                    "this build speaks to Redis without TLS; use redis:// on a trusted network or through a tunnel";
                return Err(KvError::Address(format!("REDIS_URL begins with {scheme}://, and {hint}")));
            }
            // The rest of the text may be a password.
            _ => return Err(KvError::Address("REDIS_URL must begin with redis:// or unix://".into())),
        }
        // The crate's own words could repeat the URL.
        let wrong =
            |error: redis::RedisError| KvError::Address(format!("REDIS_URL is no address ({:?})", error.kind()));
        redis::Client::open(url).map_err(wrong)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn addresses() {
        for good in ["redis://127.0.0.1", "redis://:pass%40word@host:1234/5", "unix:///run/redis.sock"] {
            RedisSettings::new(good).client().unwrap();
        }
        for (host, wanted) in [("redis", "redis:6379"), ("::1", "[::1]:6379"), ("[::1]", "[::1]:6379")] {
            let client = RedisSettings::at(host, 6379, 2).client().unwrap();
            assert_eq!(client.get_connection_info().addr().to_string(), wanted.replace(['[', ']'], ""));
            assert_eq!(client.get_connection_info().redis_settings().db(), 2);
        }
    }

    #[test]
    fn wrong_addresses_are_told_without_the_password() {
        for (url, wanted) in [
            ("rediss://:hunter2@host", "without TLS"),
            ("REDISS://:hunter2@host", "without TLS"),
            ("http://:hunter2@host", "must begin with redis://"),
            ("hunter2", "must begin with redis://"),
            ("redis://:hunter2@host:99999", "is no address"),
            ("redis://:hunter2@host/x", "is no address"),
        ] {
            let settings = RedisSettings::new(url);
            let told = settings.client().unwrap_err().to_string();
            assert!(told.contains(wanted), "{url}: {told}");
            assert!(!format!("{told} {settings:?}").contains("hunter2"), "{url}: {told}");
        }
    }
}
