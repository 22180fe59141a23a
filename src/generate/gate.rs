//! What stands before the engine: limits, the ledger, the prompt cache, and runs that several share. One for all models.
//! Cheap to clone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::bill::Bill;
use super::flight::Flight;
use super::prepare::Prepared;
use super::similar::SimilarQuestions;
use super::trail::Trail;
use super::{CacheOutcome, Caller, GenerateError};
use crate::audit::Audit;
use crate::cache::Cache;
use crate::cache::similar::SimilarSettings;
use crate::ledger::{Ledger, LedgerError, NewHold};
use crate::limits::{Admission, Claim, Limits, Reason, Refusal, Scope, ScopeKind};
use crate::resilience::{Breaker, Breakers};
use crate::telemetry::{GenerationTrace, Metrics};

/// What stands before the engine.
#[derive(Debug, Clone)]
pub struct Gate {
    /// How often one may ask.
    pub limits: Limits,
    /// What it costs.
    pub ledger: Ledger,
    /// What was answered before; none where nothing is kept.
    pub cache: Option<Arc<Cache>>,
    /// Of everything that may fail.
    pub breakers: Breakers,
    /// Counts what happens here.
    pub metrics: Metrics,
    /// Who asked for what.
    pub audit: Audit,
    /// What similar questions are good for, if anything.
    pub(super) similar: Option<Arc<SimilarQuestions>>,
    flights: Arc<Mutex<HashMap<String, Arc<Flight>>>>,
}

/// What a request may use at most, tokens.
#[derive(Debug, Clone, Copy)]
pub(super) struct Most {
    pub prompt: u64,
    pub completion: u64,
}

impl Most {
    /// Of these prompts, with so many answers each.
    pub fn of(prepared: &[Prepared], choices: usize) -> Self {
        let prompt = prepared.iter().map(|prepared| prepared.request.prompt.len() as u64).sum();
        let completion: u64 = prepared.iter().map(|prepared| prepared.request.max_tokens as u64).sum();
        Self { prompt, completion: completion * choices as u64 }
    }
}

impl Gate {
    /// A gate of these. Must be made within a runtime.
    pub fn new(
        limits: Limits,
        ledger: Ledger,
        cache: Option<Arc<Cache>>,
        breakers: Breakers,
        audit: Audit,
        metrics: Metrics,
        similar: Option<SimilarSettings>,
    ) -> Self {
        let similar = similar.map(|settings| SimilarQuestions::open(settings, metrics.clone()));
        Self { limits, ledger, cache, breakers, audit, metrics, similar, flights: Arc::default() }
    }

    /// The breaker of the model of this id: it opens when steps fail, whoever asks.
    pub fn model_breaker(&self, id: &str) -> Arc<Breaker> {
        self.breakers.breaker(&format!("model:{id}"))
    }

    /// Waits until everything that has ended is settled: for an orderly end.
    pub async fn close(&self) {
        self.ledger.close().await;
        self.limits.flush().await;
    }

    /// Runs that others may join, by what they answer.
    pub(super) fn flights(&self) -> MutexGuard<'_, HashMap<String, Arc<Flight>>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request against everything that limits it.
    pub(super) async fn admit(&self, caller: &Caller, most: Most) -> Result<Admission, GenerateError> {
        let own = |kind, id| Scope::new(kind, id);
        let address = caller.address.map(|address| address.to_string());
        let mut scopes = vec![own(ScopeKind::Global, ""), own(ScopeKind::User, &caller.user_id)];
        if let Some((id, quota)) = &caller.key {
            scopes.push(Scope { own: *quota, ..own(ScopeKind::Key, id) });
        }
        if let Some((id, quota)) = &caller.department {
            scopes.push(Scope { own: *quota, ..own(ScopeKind::Department, id) });
        }
        if let Some(address) = &address {
            scopes.push(own(ScopeKind::Address, address));
        }
        let claim = Claim { scopes: &scopes, tokens: most.prompt + most.completion };
        let admitted = self.limits.admit(&claim).await;
        match &admitted {
            Ok(_) => scopes.iter().for_each(|scope| self.metrics.rate_limit(scope.kind.as_str(), "allowed")),
            Err(Refusal { reason: Reason::Limit(kind, _), .. }) => self.metrics.rate_limit(kind.as_str(), "refused"),
            Err(_) => self.metrics.rate_limit(ScopeKind::Global.as_str(), "unavailable"),
        }
        admitted.map_err(|refusal| GenerateError::Limited(Box::new(refusal)))
    }

    /// Holds what a request may cost at most.
    pub(super) async fn bill(
        &self,
        caller: &Caller,
        model: &str,
        most: Most,
        admission: Admission,
        cache: CacheOutcome,
        trail: Trail,
    ) -> Result<Bill, GenerateError> {
        let hold = self.ledger.hold(NewHold {
            request_id: caller.request_id.clone(),
            user_id: caller.user_id.clone(),
            key_id: caller.key.as_ref().map(|(id, _)| id.clone()),
            department_id: caller.department.as_ref().map(|(id, _)| id.clone()),
            model: model.to_owned(),
            max_prompt_tokens: most.prompt,
            max_completion_tokens: most.completion,
        });
        let hold = hold.await;
        self.metrics.hold(match &hold {
            Ok(_) => "held",
            Err(LedgerError::Short { .. }) => "short",
            Err(_) => "failed",
        });
        // The run has one; until then there is nobody to tell.
        let trace = GenerationTrace::default();
        Ok(Bill { hold: hold?, admission, cache, metrics: self.metrics.clone(), trail, trace })
    }
}
