//! What the audit log is told of a request when it has ended.

use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value as Json, json};

use super::{Caller, GenerateRequest, Prompt};
use crate::audit::{Audit, Event, Kind, Level};
use crate::ledger::{Outcome, Usage};

/// What is known of a request when it is taken.
#[derive(Debug)]
pub(super) struct Trail {
    audit: Audit,
    event: Event,
    arrival: Instant,
}

impl Trail {
    /// Of a request that arrived then. `asked` is [`asked`].
    pub fn new(audit: &Audit, caller: &Caller, model: &str, asked: Option<Json>, arrival: Instant) -> Self {
        let mut event = Event {
            actor: caller.actor.clone(),
            address: caller.address,
            request_id: caller.request_id.clone(),
            model: model.to_owned(),
            ..Event::new(Kind::Request, caller.action.clone())
        };
        if caller.user_id != caller.actor.id {
            // Who asks acts for another.
            event.object = format!("user:{}", caller.user_id);
        }
        if let Some((department, _)) = &caller.department {
            event.details.insert("department_id".into(), department.as_str().into());
        }
        if let Some(asked) = asked {
            event.details.insert("prompt".into(), asked);
        }
        Self { audit: audit.clone(), event, arrival }
    }

    /// Writes it down. `cost` is in 10^-6 of the currency; `decided` holds the cache's decision and the times.
    pub fn end(self, usage: Usage, outcome: Outcome, cost: Option<i64>, decided: Json, answers: Option<Arc<[String]>>) {
        let Self { audit, mut event, arrival } = self;
        event.moment = crate::store::now();
        event.outcome = outcome.as_str().into();
        let told = json!({
            "prompt_tokens": usage.prompt_tokens,
            "cached_tokens": usage.cached_tokens,
            "completion_tokens": usage.completion_tokens,
            "cost": cost,
            "duration_ms": arrival.elapsed().as_millis() as u64,
        });
        for part in [told, decided] {
            event.details.extend(part.as_object().cloned().unwrap_or_default());
        }
        if let Some(answers) = answers {
            event.details.insert("answers".into(), answers.iter().map(String::as_str).collect());
        }
        audit.record(event);
    }
}

/// What was asked, where that is written down.
pub(super) fn asked(audit: &Audit, requests: &[GenerateRequest]) -> Option<Json> {
    let prompt = |request: &GenerateRequest| -> Json {
        match &request.prompt {
            Prompt::Chat(messages) => messages.iter().cloned().collect(),
            Prompt::Text(text) => text.as_str().into(),
            Prompt::Tokens(ids) => ids.iter().copied().collect(),
        }
    };
    let wanted = audit.level().is_some_and(|level| level >= Level::Request);
    wanted.then(|| requests.iter().map(prompt).collect())
}
