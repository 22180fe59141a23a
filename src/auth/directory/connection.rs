//! One conversation with an LDAP server: connected under TLS, bound, asked. Referrals are not followed. Must not know
//! what a user is.

use std::sync::Arc;
use std::time::Duration;

use ldap3::{Ldap, LdapConnAsync, LdapConnSettings, LdapError, LdapResult, Scope, SearchEntry, SearchOptions};
use tokio::task::JoinSet;
use tokio_rustls::rustls::ClientConfig;

use crate::config::DirectoryConfig;
use crate::trust;

/// Why a server gave no answer, in words for a log.
pub(super) type Failure = String;

/// Result codes (RFC 4511, appendix A) that say no to a name and password; all others that are no success say that the
/// server could not judge: constraintViolation, noSuchObject, invalidDNSyntax, inappropriateAuthentication,
/// invalidCredentials, insufficientAccessRights, unwillingToPerform.
const REFUSED: [u32; 7] = [19, 32, 34, 48, 49, 50, 53];
const SUCCESS: u32 = 0;
const SIZE_LIMIT_EXCEEDED: u32 = 4;

/// The TLS of all connections; none where none is wanted.
///
/// # Errors
/// In one sentence, when the certificates cannot be read.
pub(super) fn tls(config: &DirectoryConfig) -> Result<Option<Arc<ClientConfig>>, String> {
    if config.plain && config.urls.iter().all(|url| url.starts_with("ldap://")) {
        return Ok(None);
    }
    let roots = trust::roots(config.ca_file.as_deref())?;
    let builder = ClientConfig::builder_with_provider(trust::provider());
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
    Ok(Some(Arc::new(builder.with_root_certificates(roots).with_no_client_auth())))
}

/// A connection; it closes when this is dropped.
pub(super) struct Connection {
    ldap: Ldap,
    /// Moves the bytes.
    _driver: JoinSet<()>,
}

impl Connection {
    /// Connects, and begins TLS unless the configuration allows to go without.
    pub async fn open(url: &str, config: &DirectoryConfig, tls: Option<&Arc<ClientConfig>>) -> Result<Self, Failure> {
        let mut settings = LdapConnSettings::new().set_conn_timeout(config.timeout).set_starttls(!config.plain);
        if let Some(tls) = tls {
            settings = settings.set_config(Arc::clone(tls));
        }
        let (driver, ldap) = LdapConnAsync::with_settings(settings, url).await.map_err(|error| words(&error))?;
        let mut task = JoinSet::new();
        task.spawn(async move {
            if let Err(error) = driver.drive().await {
                tracing::debug!("directory: {error}");
            }
        });
        Ok(Self { ldap, _driver: task })
    }

    /// Whether name and password belong together. An empty password, which LDAP takes for "nobody in particular" and
    /// answers with success, belongs to nobody.
    pub async fn bind(&mut self, dn: &str, password: &str) -> Result<bool, Failure> {
        if dn.is_empty() || password.is_empty() {
            return Ok(false);
        }
        let answer = self.ldap.simple_bind(dn, password).await.map_err(|error| words(&error))?;
        match answer.rc {
            SUCCESS => Ok(true),
            code if REFUSED.contains(&code) => Ok(false),
            _ => Err(told("binding", &answer)),
        }
    }

    /// Becomes nobody in particular.
    pub async fn unbind(&mut self) -> Result<(), Failure> {
        let answer = self.ldap.simple_bind("", "").await.map_err(|error| words(&error))?;
        if answer.rc == SUCCESS { Ok(()) } else { Err(told("binding anonymously", &answer)) }
    }

    /// Entries below `base`, at most `most` (0: as many as the server gives), and whether there are more.
    pub async fn search(
        &mut self,
        base: &str,
        filter: &str,
        attributes: &[&str],
        most: i32,
        patience: Duration,
    ) -> Result<(Vec<SearchEntry>, bool), Failure> {
        let seconds = i32::try_from(patience.as_secs()).unwrap_or(i32::MAX).max(1);
        self.ldap.with_search_options(SearchOptions::new().sizelimit(most).timelimit(seconds));
        let found = self.ldap.search(base, Scope::Subtree, filter, attributes.to_vec()).await;
        let found = found.map_err(|error| words(&error))?;
        let more = match found.1.rc {
            SUCCESS => false,
            SIZE_LIMIT_EXCEEDED => true,
            _ => return Err(told(&format!("searching {base}"), &found.1)),
        };
        let entries = found.0.into_iter().filter(|entry| !entry.is_ref() && !entry.is_intermediate());
        Ok((entries.map(SearchEntry::construct).collect(), more))
    }
}

fn told(what: &str, answer: &LdapResult) -> Failure {
    let (code, text) = (answer.rc, answer.text.trim());
    let name = match code {
        1 => "operationsError",
        2 => "protocolError",
        3 => "timeLimitExceeded",
        8 => "strongerAuthRequired",
        10 => "referral",
        13 => "confidentialityRequired",
        32 => "noSuchObject",
        49 => "invalidCredentials",
        50 => "insufficientAccessRights",
        51 => "busy",
        52 => "unavailable",
        53 => "unwillingToPerform",
        _ => "see RFC 4511",
    };
    let text = if text.is_empty() { String::new() } else { format!(": {text}") };
    format!("{what} was answered with {code} ({name}){text}")
}

fn words(error: &LdapError) -> Failure {
    match error {
        LdapError::Io { source } => source.to_string(),
        LdapError::LdapResult { result } => told("StartTLS", result),
        LdapError::Timeout { .. } => "no answer in time".into(),
        other => other.to_string(),
    }
}
