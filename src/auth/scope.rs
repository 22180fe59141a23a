//! What a credential may be used for.

use std::str::FromStr;

use super::{Credential, Identity};
use crate::store::Role;

/// A kind of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Let models answer.
    Generate,
    /// See what is one's own: requests, bills.
    Read,
    /// Speak for another user, named in the request.
    ActAs,
    /// Read the metrics of the server.
    Metrics,
    /// Everything under `/admin`.
    Admin,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Generate, Self::Read, Self::ActAs, Self::Metrics, Self::Admin];
    /// What a key may be used for when its maker does not say.
    pub const ORDINARY: [Self; 2] = [Self::Generate, Self::Read];

    /// The word for it, in the database and in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Generate => "generate",
            Self::Read => "read",
            Self::ActAs => "act_as",
            Self::Metrics => "metrics",
            Self::Admin => "admin",
        }
    }

    /// Whether only administrators may use it, or give it to a key.
    pub fn is_privileged(self) -> bool {
        !Self::ORDINARY.contains(&self)
    }
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = || Self::ALL.map(Self::as_str).join(", ");
        let found = Self::ALL.into_iter().find(|scope| scope.as_str() == text);
        found.ok_or_else(|| format!("`{text}` is no scope; {} are", known()))
    }
}

impl Identity {
    /// Whether the credential may be used for this.
    pub fn may(&self, scope: Scope) -> bool {
        match &self.credential {
            Credential::Anonymous => !matches!(scope, Scope::Admin | Scope::ActAs),
            Credential::Internal => scope != Scope::Admin,
            Credential::Token(_) => match scope {
                Scope::ActAs => false,
                Scope::Metrics | Scope::Admin => self.role == Role::Admin,
                Scope::Generate | Scope::Read => true,
            },
            Credential::Key { scopes, .. } => {
                let given = scopes.iter().any(|given| given == scope.as_str());
                let role = !scope.is_privileged() || scope == Scope::ActAs || self.role == Role::Admin;
                given && role
            }
        }
    }

    /// Whether the credential may be used with the model of this id.
    pub fn may_use(&self, model: &str) -> bool {
        match &self.credential {
            Credential::Key { models, .. } => models.is_empty() || models.iter().any(|allowed| allowed == model),
            _ => true,
        }
    }
}
