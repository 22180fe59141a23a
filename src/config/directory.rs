//! `[directory]`: the LDAP directory that knows the company's people. A preset fills in what is left empty.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::check::{Origin, invalid, seconds, within};
use super::groups::{GroupRules, departments};

/// Stands in a filter for what somebody logs in with.
const USER: &str = "{user}";
/// Stands in a filter for a distinguished name.
const DN: &str = "{dn}";
/// The word for "nothing", where an empty value means "what the preset says".
const NONE: &str = "none";

/// The directory as it is written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawDirectory {
    pub urls: Vec<String>,
    pub preset: String,
    pub plain: bool,
    pub ca_file: String,
    pub bind_dn: String,
    pub bind_password: String,
    pub base_dn: String,
    pub user_filter: String,
    pub disabled_filter: String,
    pub name_attribute: String,
    pub department_attribute: String,
    pub member_of_attribute: String,
    pub group_base_dn: String,
    pub group_filter: String,
    pub group_depth: usize,
    pub user_groups: Vec<String>,
    pub admin_groups: Vec<String>,
    pub department_groups: Vec<String>,
    pub timeout_seconds: u64,
    pub recheck_minutes: u64,
}

impl Default for RawDirectory {
    fn default() -> Self {
        Self {
            urls: Vec::new(),
            preset: "openldap".into(),
            plain: false,
            ca_file: String::new(),
            bind_dn: String::new(),
            bind_password: String::new(),
            base_dn: String::new(),
            user_filter: String::new(),
            disabled_filter: String::new(),
            name_attribute: String::new(),
            department_attribute: String::new(),
            member_of_attribute: String::new(),
            group_base_dn: String::new(),
            group_filter: String::new(),
            group_depth: 0,
            user_groups: Vec::new(),
            admin_groups: Vec::new(),
            department_groups: Vec::new(),
            timeout_seconds: 5,
            recheck_minutes: 15,
        }
    }
}

/// `[directory]`, resolved.
#[derive(Debug, Clone)]
pub struct DirectoryConfig {
    /// `ldap://HOST:PORT` or `ldaps://HOST:PORT`, asked in this order.
    pub urls: Vec<String>,
    /// `ldap://` without TLS.
    pub plain: bool,
    /// PEM certificates that are trusted; absent, those of the system.
    pub ca_file: Option<PathBuf>,
    /// Who searches; absent, nobody in particular.
    pub service: Option<(String, SecretString)>,
    /// Where people are.
    pub base_dn: String,
    /// Finds the entry of `{user}`, unless the account is disabled.
    pub user_filter: String,
    /// Holds the name.
    pub name_attribute: String,
    /// Holds the department.
    pub department_attribute: Option<String>,
    /// Holds the groups of an entry.
    pub member_of_attribute: Option<String>,
    /// Where groups are; absent, `base_dn` is searched.
    pub group_base_dn: Option<String>,
    /// Finds the groups that `{dn}` (or `{user}`) is a member of.
    pub group_filter: Option<String>,
    /// Groups in groups are followed so deep.
    pub group_depth: usize,
    /// What groups mean.
    pub rules: GroupRules,
    /// One server has so long for everything that it is asked at a login.
    pub timeout: Duration,
    /// People with tokens or keys are looked up again when the last time was so long ago.
    pub recheck: Option<Duration>,
}

/// What a kind of directory has in common.
struct Preset {
    user_filter: &'static str,
    disabled_filter: &'static str,
    name_attribute: &'static str,
    member_of_attribute: &'static str,
    group_filter: &'static str,
    group_depth: usize,
}

/// `sAMAccountType` of people; bit 2 of `userAccountControl`; `LDAP_MATCHING_RULE_IN_CHAIN`, which follows groups in groups.
const ACTIVE_DIRECTORY: Preset = Preset {
    user_filter: "(&(sAMAccountType=805306368)(|(sAMAccountName={user})(userPrincipalName={user})))",
    disabled_filter: "(userAccountControl:1.2.840.113556.1.4.803:=2)",
    name_attribute: "sAMAccountName",
    member_of_attribute: NONE,
    group_filter: "(member:1.2.840.113556.1.4.1941:={dn})",
    group_depth: 1,
};
/// `memberOf` names the groups of groups, too.
const FREE_IPA: Preset = Preset {
    user_filter: "(&(objectClass=person)(uid={user}))",
    disabled_filter: "(nsAccountLock=TRUE)",
    name_attribute: "uid",
    member_of_attribute: "memberOf",
    group_filter: NONE,
    group_depth: 1,
};
/// RFC 2307 and RFC 2798.
const OPEN_LDAP: Preset = Preset {
    user_filter: "(&(|(objectClass=inetOrgPerson)(objectClass=posixAccount))(uid={user}))",
    disabled_filter: NONE,
    name_attribute: "uid",
    member_of_attribute: NONE,
    group_filter: "(|(member={dn})(uniqueMember={dn})(memberUid={user}))",
    group_depth: 10,
};

impl RawDirectory {
    /// Judges the values; no URL is no directory.
    pub(super) fn resolve(self, origin: Origin) -> Result<Option<DirectoryConfig>, ConfigError> {
        let wrong = |key, problem: &str| Err(invalid(key, origin, problem.to_owned()));
        let preset = match self.preset.as_str() {
            "active-directory" | "samba" => ACTIVE_DIRECTORY,
            "freeipa" | "ald-pro" => FREE_IPA,
            "openldap" => OPEN_LDAP,
            _ => return wrong("directory.preset", "must be active-directory, samba, freeipa, ald-pro or openldap"),
        };
        let timeout = seconds("directory.timeout_seconds", self.timeout_seconds, 1..=60, origin)?;
        let minutes = within("directory.recheck_minutes", self.recheck_minutes, 0..=525_600, origin)?;
        let depth = within("directory.group_depth", self.group_depth, 0..=32, origin)?;
        if self.urls.is_empty() {
            return Ok(None);
        }
        if !self.urls.iter().all(|url| is_url(url)) {
            return wrong("directory.urls", "must hold ldap://HOST, ldaps://HOST, or these with :PORT");
        }
        if self.base_dn.is_empty() {
            return wrong("directory.base_dn", "must name the place of people, such as dc=example,dc=org");
        }
        let service = match (self.bind_dn.is_empty(), self.bind_password.is_empty()) {
            (true, true) => None,
            (false, false) => Some((self.bind_dn, self.bind_password.into())),
            (true, false) => return wrong("directory.bind_dn", "must not be empty where there is a bind_password"),
            (false, true) => return wrong("directory.bind_password", "must not be empty where there is a bind_dn"),
        };
        let Some(mut user_filter) = choose(&self.user_filter, preset.user_filter).filter(|f| f.contains(USER)) else {
            return wrong("directory.user_filter", "must hold {user}");
        };
        if let Some(disabled) = choose(&self.disabled_filter, preset.disabled_filter) {
            user_filter = format!("(&{user_filter}(!{disabled}))");
        }
        let group_filter = choose(&self.group_filter, preset.group_filter);
        if group_filter.as_ref().is_some_and(|filter| !filter.contains(DN) && !filter.contains(USER)) {
            return wrong("directory.group_filter", "must hold {dn} or {user}");
        }
        let Some(name_attribute) = choose(&self.name_attribute, preset.name_attribute) else {
            return wrong("directory.name_attribute", "must name the attribute that holds people's names");
        };
        let rules = GroupRules {
            users: self.user_groups,
            admins: self.admin_groups,
            departments: departments("directory.department_groups", self.department_groups, origin)?,
        };
        Ok(Some(DirectoryConfig {
            urls: self.urls,
            plain: self.plain,
            ca_file: Some(self.ca_file).filter(|file| !file.is_empty()).map(PathBuf::from),
            service,
            base_dn: self.base_dn,
            user_filter,
            name_attribute,
            department_attribute: choose(&self.department_attribute, NONE),
            member_of_attribute: choose(&self.member_of_attribute, preset.member_of_attribute),
            group_base_dn: choose(&self.group_base_dn, NONE),
            group_filter,
            group_depth: if depth == 0 { preset.group_depth } else { depth },
            rules,
            timeout,
            recheck: Some(minutes).filter(|minutes| *minutes > 0).map(Duration::from_mins),
        }))
    }
}

/// What is written, else what the preset says.
fn choose(written: &str, preset: &str) -> Option<String> {
    let chosen = if written.is_empty() { preset } else { written };
    Some(chosen).filter(|chosen| *chosen != NONE).map(str::to_owned)
}

/// `ldap[s]://HOST[:PORT]` and nothing behind it.
fn is_url(url: &str) -> bool {
    let Some(place) = url.strip_prefix("ldap://").or_else(|| url.strip_prefix("ldaps://")) else { return false };
    let (host, port) = place.rsplit_once(':').unwrap_or((place, "389"));
    let letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    !host.is_empty() && host.chars().all(letter) && port.parse::<u16>().is_ok_and(|port| port != 0)
}
