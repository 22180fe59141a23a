//! People whom somebody else vouches for (the directory, the issuer of the company's tokens), and how they become users.
//! A name belongs to whoever had it first: no source takes over a user of another.

use std::collections::HashSet;

use super::directory::Directory;
use super::issuer::Issuer;
use super::{AuthError, Authenticator, accounts};
use crate::config::{DirectoryConfig, GroupRules, IssuerConfig};
use crate::resilience::Breakers;
use crate::store::{Moment, Role, Source, User, Vouched, now};

/// An unchanged user is written again only after so long, milliseconds.
const FRESH: Moment = 60_000;

/// Who vouches for people beside this installation.
#[derive(Debug, Default)]
pub struct Outside {
    pub(super) directory: Option<Directory>,
    pub(super) issuer: Option<Issuer>,
}

impl Outside {
    /// Reads certificates and keys from files; nobody is asked yet.
    ///
    /// # Errors
    /// When something of the configuration cannot be used.
    pub fn open(
        directory: Option<&DirectoryConfig>,
        issuer: Option<&IssuerConfig>,
        breakers: &Breakers,
    ) -> Result<Self, AuthError> {
        Ok(Self {
            directory: directory.cloned().map(|config| Directory::open(config, breakers)).transpose()?,
            issuer: issuer.cloned().map(Issuer::open).transpose()?,
        })
    }
}

/// Somebody as their source describes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Person {
    pub name: String,
    /// What the source calls them for ever, if it says.
    pub subject: Option<String>,
    /// Names of their groups, each in the spelling of [`super::group_name::normal`].
    pub groups: HashSet<String>,
    /// Where no group says otherwise.
    pub department: Option<String>,
}

/// What groups mean.
#[derive(Debug)]
pub(super) struct Rules {
    users: Vec<String>,
    admins: Vec<String>,
    departments: Vec<(String, String)>,
    /// The source says of everybody in which department they are.
    departments_given: bool,
}

impl Rules {
    /// `departments_given`: the source says in which department somebody is, if in any.
    pub fn new(config: GroupRules, departments_given: bool) -> Self {
        let normal = |names: Vec<String>| names.iter().map(|name| super::group_name::normal(name)).collect();
        let department = |(group, name): (String, String)| (super::group_name::normal(&group), name);
        Self {
            users: normal(config.users),
            admins: normal(config.admins),
            departments_given: departments_given || !config.departments.is_empty(),
            departments: config.departments.into_iter().map(department).collect(),
        }
    }

    fn admit(&self, person: &Person) -> bool {
        self.users.is_empty() || self.users.iter().any(|group| person.groups.contains(group))
    }

    /// None leaves it to this installation.
    fn role(&self, person: &Person) -> Option<Role> {
        let admin = self.admins.iter().any(|group| person.groups.contains(group));
        (!self.admins.is_empty()).then_some(if admin { Role::Admin } else { Role::User })
    }

    fn department<'a>(&'a self, person: &'a Person) -> Option<&'a str> {
        let by_group = self.departments.iter().find(|(group, _)| person.groups.contains(group));
        by_group.map(|(_, name)| name.as_str()).or(person.department.as_deref())
    }
}

impl Authenticator {
    /// The user that this person is here, made or brought up to date. None for those who may not come in, and where the
    /// name is somebody else's.
    pub(super) async fn adopt(
        &self,
        source: Source,
        person: &Person,
        rules: &Rules,
    ) -> Result<Option<User>, AuthError> {
        if !rules.admit(person) || !accounts::is_name(&person.name) {
            return Ok(None);
        }
        let store = self.store();
        let role = rules.role(person);
        let (moves, department) = (rules.departments_given, rules.department(person).map(str::to_owned));
        let department_id = accounts::department_id(store, department).await?;
        let known = store.user_named(&person.name).await?;
        let same = |user: &User| {
            user.source == source
                && user.subject == person.subject
                && role.is_none_or(|role| role == user.role)
                && (!moves || department_id == user.department_id)
                && now() - user.vouched_at < FRESH
        };
        if known.as_ref().is_some_and(same) {
            return Ok(known);
        }
        let department_id = department_id.as_deref();
        let (name, subject) = (person.name.as_str(), person.subject.as_deref());
        let user = store.vouch(Vouched { name, source, subject, role, moves, department_id }).await?;
        if user.is_none() {
            tracing::warn!(name, source = source.as_str(), "is refused: the name belongs to another user");
        }
        Ok(user)
    }
}
