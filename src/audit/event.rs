//! What happened: one event of the audit log, before it has a place in it.

use std::net::IpAddr;

use serde_json::{Map, Value as Json};

use crate::store::audit::AuditRow;
use crate::store::{Moment, now};

/// Longest text of a field, characters.
const LONGEST: usize = 512;

/// What sort of thing happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Something was generated, or told again.
    Request,
    /// Somebody logged in, or tried to.
    Login,
    /// Somebody was not let in, or not now.
    Refusal,
    /// An administrator changed something.
    Admin,
    /// The program started, stopped, removed old rows, or lost events.
    System,
}

impl Kind {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Login => "login",
            Self::Refusal => "refusal",
            Self::Admin => "admin",
            Self::System => "system",
        }
    }
}

/// Who did it, and by what right. Empty is unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Actor {
    /// Id of the user.
    pub id: String,
    /// Name of the user.
    pub name: String,
    /// What they came with: `key`, `token`, `internal`, `anonymous`, `password`, `shell`.
    pub credential: &'static str,
    /// Id of the API key. Never the key.
    pub key_id: String,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// When.
    pub moment: Moment,
    /// What sort of thing.
    pub kind: Kind,
    /// Who did it.
    pub actor: Actor,
    /// From where.
    pub address: Option<IpAddr>,
    /// The server's own id of the request.
    pub request_id: String,
    /// What was done: a method and a route, or a name such as `user add`.
    pub action: String,
    /// To whom or what.
    pub object: String,
    /// With which model.
    pub model: String,
    /// How it ended.
    pub outcome: String,
    /// Everything else. Never a secret.
    pub details: Map<String, Json>,
}

impl Event {
    /// An event of this moment, of nobody yet.
    pub fn new(kind: Kind, action: impl Into<String>) -> Self {
        Self {
            moment: now(),
            kind,
            actor: Actor::default(),
            address: None,
            request_id: String::new(),
            action: action.into(),
            object: String::new(),
            model: String::new(),
            outcome: String::new(),
            details: Map::new(),
        }
    }

    /// An event of the program itself.
    pub fn system(action: &str, details: Map<String, Json>) -> Self {
        let actor = Actor { name: "steppe".into(), ..Actor::default() };
        Self { actor, outcome: "done".into(), details, ..Self::new(Kind::System, action) }
    }

    /// Its row, without a place.
    pub(super) fn into_row(self) -> AuditRow {
        AuditRow {
            seq: 0,
            moment: self.moment,
            kind: self.kind.as_str().into(),
            actor_id: clean(self.actor.id),
            actor: clean(self.actor.name),
            credential: self.actor.credential.into(),
            key_id: clean(self.actor.key_id),
            address: self.address.map(|address| address.to_string()).unwrap_or_default(),
            request_id: clean(self.request_id),
            action: clean(self.action),
            object: clean(self.object),
            model: clean(self.model),
            outcome: clean(self.outcome),
            // JSON escapes what a line cannot hold.
            details: Json::Object(self.details).to_string(),
            sealed_by: String::new(),
            hash: String::new(),
        }
    }
}

/// A text that fits into a line and into any database.
fn clean(text: String) -> String {
    if text.len() <= LONGEST && !text.contains(char::is_control) {
        return text;
    }
    let plain = |character: char| if character.is_control() { char::REPLACEMENT_CHARACTER } else { character };
    let mut short: String = text.chars().take(LONGEST).map(plain).collect();
    if short.len() < text.len() && text.chars().nth(LONGEST).is_some() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_fit_into_a_line() {
        assert_eq!(clean("Мария\n\u{0}\u{85}x".into()), "Мария\u{fffd}\u{fffd}\u{fffd}x");
        assert_eq!(clean("я".repeat(512)), "я".repeat(512));
        assert_eq!(clean("я".repeat(513)), format!("{}…", "я".repeat(512)));
    }
}
