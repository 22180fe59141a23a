//! What a request has been promised before it started, and what becomes of it: its hold in the ledger and its share of the
//! limits.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::CacheOutcome;
use super::trail::Trail;
use crate::engine::TokenUsage;
use crate::ledger::{Hold, Outcome, Usage};
use crate::limits::Admission;
use crate::telemetry::{GenerationTrace, Metrics, Used};

/// What is settled when a request ends.
#[derive(Debug)]
pub(super) struct Bill {
    pub hold: Hold,
    pub admission: Admission,
    pub cache: CacheOutcome,
    pub metrics: Metrics,
    pub trail: Trail,
    pub trace: GenerationTrace,
}

/// What a run has come to.
#[derive(Debug, Clone, Default)]
pub(super) struct Account {
    /// Of all answers together.
    pub usage: TokenUsage,
    /// Time that it waited for its turn.
    pub queue_wait: Option<Duration>,
    /// Time to its first token.
    pub first_token: Option<Duration>,
    /// What was answered, where that is written down.
    pub answers: Option<Arc<[String]>>,
}

impl Bill {
    /// For one who has paid for the run: what it used.
    pub async fn settle(self, account: Account, outcome: Outcome) {
        let usage = Usage {
            prompt_tokens: account.usage.prompt_tokens as u64,
            cached_tokens: account.usage.cached_tokens as u64,
            completion_tokens: account.usage.completion_tokens as u64,
            from_cache: false,
        };
        let tokens = usage.prompt_tokens + usage.completion_tokens;
        self.close(tokens, usage, outcome, account).await;
    }

    /// For one who has got what another has paid for, or what was there.
    pub async fn settle_as_hit(self, account: Account, outcome: Outcome) {
        let usage = Usage {
            prompt_tokens: account.usage.prompt_tokens as u64,
            cached_tokens: account.usage.prompt_tokens as u64,
            completion_tokens: account.usage.completion_tokens as u64,
            from_cache: true,
        };
        self.close(0, usage, outcome, account).await;
    }

    /// Of the limits, `tokens` are used.
    async fn close(self, tokens: u64, usage: Usage, outcome: Outcome, account: Account) {
        let Self { hold, admission, cache, metrics, trail, trace } = self;
        admission.finish(tokens);
        metrics.cache_request(cache.as_str());
        let Usage { prompt_tokens, cached_tokens, completion_tokens, .. } = usage;
        let (cache, outcome_word) = (cache.as_str(), outcome.as_str());
        trace.end(Used { prompt_tokens, cached_tokens, completion_tokens, cache, outcome: outcome_word });
        let milliseconds = |time: Option<Duration>| time.map(|time| time.as_millis() as u64);
        let details = json!({
            "cache": cache,
            "queue_wait_ms": milliseconds(account.queue_wait),
            "first_token_ms": milliseconds(account.first_token),
        });
        let request_id = hold.request_id().to_owned();
        let cost = match hold.settle(usage, outcome, details.to_string()).await {
            Ok(cost) => {
                metrics.settlement(outcome.as_str(), cost);
                Some(cost)
            }
            Err(error) => {
                metrics.settlement("unsettled", 0);
                tracing::error!(request_id, %error, "a request is not settled yet");
                None
            }
        };
        trail.end(usage, outcome, cost, details, account.answers);
    }
}

/// What all answers used together; a prompt counts once, whatever number of choices it has.
pub(super) fn total(answers: &[TokenUsage], choices: usize) -> TokenUsage {
    let firsts = || answers.iter().step_by(choices.max(1));
    TokenUsage {
        prompt_tokens: firsts().map(|usage| usage.prompt_tokens).sum(),
        cached_tokens: firsts().map(|usage| usage.cached_tokens).sum(),
        completion_tokens: answers.iter().map(|usage| usage.completion_tokens).sum(),
    }
}
