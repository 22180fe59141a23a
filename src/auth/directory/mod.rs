//! The company's directory (LDAP, Active Directory): searches somebody's entry, binds as them with their password, and
//! finds their groups. Every server gets one budget of time for all of it. Must not know the database.

mod connection;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use ldap3::{SearchEntry, ldap_escape, parse_filter};
use rand::distr::{Alphanumeric, SampleString as _};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::rustls::ClientConfig;

use self::connection::{Connection, Failure};
use super::AuthError;
use super::group_name::{is_below, normal, plain};
use super::outside::{Person, Rules};
use crate::config::DirectoryConfig;
use crate::resilience::{Breaker, Breakers};

/// Conversations at once.
const AT_ONCE: usize = 8;
/// Groups of one person that are followed.
const MOST_GROUPS: usize = 1000;
/// Members asked about in one search.
const MEMBERS_AT_ONCE: usize = 50;
/// Asks for no attributes (RFC 4511, section 4.5.1.8).
const NO_ATTRIBUTES: &str = "1.1";

/// A directory. Nothing is connected between questions.
pub(super) struct Directory {
    inner: Arc<Inner>,
    /// What its groups mean.
    pub rules: Rules,
    /// People with tokens or keys are looked up again when the last time was so long ago.
    pub recheck: Option<Duration>,
}

impl std::fmt::Debug for Directory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Directory").field("base_dn", &self.inner.config.base_dn).finish_non_exhaustive()
    }
}

struct Inner {
    config: DirectoryConfig,
    /// Each with what leaves it alone while it fails.
    servers: Vec<(String, Arc<Breaker>)>,
    tls: Option<Arc<ClientConfig>>,
    turns: Semaphore,
}

/// What a conversation is about.
#[derive(Clone)]
enum Question {
    /// Does it answer at all?
    Anything,
    /// Who is this, and what groups are they in?
    Who(String),
    /// The same, if the password is theirs.
    WhoWith(String, SecretString),
}

impl Directory {
    /// Reads certificates; asks nobody.
    ///
    /// # Errors
    /// When certificates or filters make no sense.
    pub fn open(mut config: DirectoryConfig, breakers: &Breakers) -> Result<Self, AuthError> {
        let wrong = |problem| AuthError::Secret("configuration of [directory]", problem);
        let filters = [
            Some(("user_filter and disabled_filter", &config.user_filter)),
            config.group_filter.as_ref().map(|filter| ("group_filter", filter)),
        ];
        for (key, filter) in filters.into_iter().flatten() {
            if parse_filter(filled(filter, "cn=x", "x")).is_err() {
                return Err(wrong(format!("{key} make no LDAP filter: {filter}")));
            }
        }
        let tls = connection::tls(&config).map_err(wrong)?;
        let rules = Rules::new(std::mem::take(&mut config.rules), config.department_attribute.is_some());
        let several = config.urls.len() > 1;
        let named = |url: String| {
            let name = if several { format!("ldap {url}") } else { "ldap".into() };
            let breaker = breakers.breaker(&name);
            (url, breaker)
        };
        let servers = std::mem::take(&mut config.urls).into_iter().map(named).collect();
        let recheck = config.recheck;
        let inner = Inner { config, servers, tls, turns: Semaphore::new(AT_ONCE) };
        Ok(Self { inner: Arc::new(inner), rules, recheck })
    }

    /// Whoever this name and password belong to.
    ///
    /// # Errors
    /// [`AuthError::Unavailable`] when no server answers as it should.
    pub async fn log_in(&self, name: &str, password: &str) -> Result<Option<Person>, AuthError> {
        if name.is_empty() || password.is_empty() {
            return Ok(None);
        }
        self.ask(Question::WhoWith(name.to_owned(), password.to_owned().into())).await
    }

    /// Whoever has this name.
    ///
    /// # Errors
    /// [`AuthError::Unavailable`] when no server answers as it should.
    pub async fn find(&self, name: &str) -> Result<Option<Person>, AuthError> {
        self.ask(Question::Who(name.to_owned())).await
    }

    /// Whether it answers, and knows the account that searches.
    ///
    /// # Errors
    /// [`AuthError::Unavailable`] when no server answers as it should.
    pub async fn probe(&self) -> Result<(), AuthError> {
        self.ask(Question::Anything).await.map(drop)
    }

    async fn ask(&self, question: Question) -> Result<Option<Person>, AuthError> {
        let mut failures = Vec::new();
        for (index, (url, breaker)) in self.inner.servers.iter().enumerate() {
            let permit = match breaker.admit() {
                Ok(permit) => permit,
                Err(open) => {
                    failures.push(open.to_string());
                    continue;
                }
            };
            let (inner, question) = (Arc::clone(&self.inner), question.clone());
            // A task of its own: whatever a server may send, nobody else falls over it.
            let mut task = JoinSet::new();
            task.spawn(async move { inner.converse(index, &question).await });
            let patience = self.inner.config.timeout;
            let failure = match tokio::time::timeout(patience, task.join_next()).await {
                Ok(Some(Ok(Ok(person)))) => {
                    permit.succeed();
                    return Ok(person);
                }
                Ok(Some(Ok(Err(failure)))) => failure,
                Ok(_) => "its answer makes no sense".into(),
                Err(_) => format!("no answer within {} s", patience.as_secs()),
            };
            permit.fail();
            failures.push(format!("{url}: {failure}"));
        }
        Err(AuthError::Unavailable("directory", failures.join("; ")))
    }
}

impl Inner {
    async fn converse(&self, server: usize, question: &Question) -> Result<Option<Person>, Failure> {
        let _turn = self.turns.acquire().await.map_err(|error| error.to_string())?;
        let (url, _) = &self.servers[server];
        let mut connection = Connection::open(url, &self.config, self.tls.as_ref()).await?;
        self.become_service(&mut connection, false).await?;
        let (name, password) = match question {
            Question::Anything => return Ok(None),
            Question::Who(name) => (name, None),
            Question::WhoWith(name, password) => (name, Some(password)),
        };
        let entry = self.entry(&mut connection, name).await?;
        if let Some(password) = password {
            // Nobody's password is checked, too: it takes the same steps and gives the same answer.
            let (dn, password) = match &entry {
                Some(entry) => (entry.dn.clone(), password.clone()),
                None => (format!("cn={},{}", random(), self.config.base_dn), random().into()),
            };
            if !connection.bind(&dn, password.expose_secret()).await? {
                return Ok(None);
            }
            self.become_service(&mut connection, true).await?;
        }
        let Some(entry) = entry else { return Ok(None) };
        let Some(name) = values(&entry, &self.config.name_attribute).next().map(str::to_lowercase) else {
            let attribute = &self.config.name_attribute;
            tracing::warn!(dn = entry.dn, "directory: the entry has no {attribute}, which holds the name");
            return Ok(None);
        };
        let groups = self.groups(&mut connection, &entry, &name).await?;
        let department = self.config.department_attribute.as_ref();
        let department = department.and_then(|attribute| values(&entry, attribute).next()).map(str::to_owned);
        Ok(Some(Person { name, subject: None, groups, department }))
    }

    /// `bound`: somebody else was before.
    async fn become_service(&self, connection: &mut Connection, bound: bool) -> Result<(), Failure> {
        match &self.config.service {
            Some((dn, password)) => {
                let right = connection.bind(dn, password.expose_secret()).await?;
                right.then_some(()).ok_or_else(|| format!("it refuses directory.bind_dn ({dn}) or its password"))
            }
            None if bound => connection.unbind().await,
            None => Ok(()),
        }
    }

    /// The one entry of this name.
    async fn entry(&self, connection: &mut Connection, name: &str) -> Result<Option<SearchEntry>, Failure> {
        let config = &self.config;
        let filter = filled(&config.user_filter, "", name);
        let mut attributes = vec![config.name_attribute.as_str()];
        attributes.extend(config.department_attribute.as_deref());
        attributes.extend(config.member_of_attribute.as_deref());
        let (mut found, more) = connection.search(&config.base_dn, &filter, &attributes, 2, config.timeout).await?;
        if found.len() > 1 || more {
            tracing::warn!(name, "directory: is refused: more than one entry answers to the name");
            return Ok(None);
        }
        Ok(found.pop())
    }

    /// All groups that the entry is in, at whatever remove, by plain name and by distinguished name.
    async fn groups(
        &self,
        connection: &mut Connection,
        entry: &SearchEntry,
        name: &str,
    ) -> Result<HashSet<String>, Failure> {
        let config = &self.config;
        let place = config.group_base_dn.as_ref().map(|base| normal(base));
        let named = config.member_of_attribute.iter().flat_map(|attribute| values(entry, attribute));
        let mut known: HashSet<String> = named
            .map(normal)
            .filter(|group| place.as_ref().is_none_or(|place| is_below(group, place)))
            .take(MOST_GROUPS)
            .collect();
        let mut members: Vec<String> = known.iter().cloned().chain([entry.dn.clone()]).collect();
        let base = config.group_base_dn.as_ref().unwrap_or(&config.base_dn);
        for _ in 0..config.group_depth {
            let Some(filter) = config.group_filter.as_ref().filter(|_| !members.is_empty()) else { break };
            let mut next = Vec::new();
            for some in members.chunks(MEMBERS_AT_ONCE) {
                let parts: String = some.iter().map(|dn| filled(filter, dn, name)).collect();
                let filter = format!("(|{parts})");
                let (found, more) = connection.search(base, &filter, &[NO_ATTRIBUTES], 0, config.timeout).await?;
                if more {
                    tracing::warn!(name, "directory: the server does not name all groups");
                }
                // What is known already leads nowhere new: circles end here.
                next.extend(found.into_iter().map(|group| group.dn).filter(|dn| known.insert(normal(dn))));
            }
            if known.len() > MOST_GROUPS {
                tracing::warn!(name, "directory: is in more than {MOST_GROUPS} groups; the rest is ignored");
                break;
            }
            members = next;
        }
        let plain: Vec<String> = known.iter().filter_map(|dn| plain(dn)).collect();
        known.extend(plain);
        Ok(known)
    }
}

/// A filter for this entry and this name, whatever characters they hold (RFC 4515, section 3).
fn filled(filter: &str, dn: &str, user: &str) -> String {
    // In one pass: a name may hold what looks like the other placeholder.
    let parts = filter.split("{user}").map(|part| part.replace("{dn}", &ldap_escape(dn)));
    parts.collect::<Vec<_>>().join(&ldap_escape(user))
}

/// The values of an attribute, whose name may come back in any case.
fn values<'a>(entry: &'a SearchEntry, attribute: &str) -> impl Iterator<Item = &'a str> {
    let named = entry.attrs.iter().find(|(name, _)| name.eq_ignore_ascii_case(attribute));
    named.into_iter().flat_map(|(_, values)| values).map(String::as_str)
}

fn random() -> String {
    Alphanumeric.sample_string(&mut rand::rng(), 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_hold_names_and_never_obey_them() {
        let filter = "(&(uid={user})(member={dn}))";
        assert_eq!(filled(filter, "cn=x", "ann"), "(&(uid=ann)(member=cn=x))");
        assert_eq!(filled(filter, "", "*)(uid=*"), r"(&(uid=\2a\29\28uid=\2a)(member=))");
        assert_eq!(filled(filter, r"cn=a\,(b),dc=x", "{dn}"), r"(&(uid={dn})(member=cn=a\5c,\28b\29,dc=x))");
        for name in ["*", "(", ")", "\\", "\0", "Мария", "a=b&c|d!", "\\2a"] {
            assert!(parse_filter(filled(filter, name, name)).is_ok(), "{name}");
        }
    }
}
