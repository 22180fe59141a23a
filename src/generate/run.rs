//! One request on its way through the gate: admitted, looked up in the prompt cache, joined to a run that is under way, or
//! held for and run.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value as Json;

use super::answers::{Answers, Terms};
use super::bill::{Account, Bill};
use super::choice::{Choice, Reports};
use super::flight::{Course, Flight};
use super::gate::Most;
use super::prepare::Prepared;
use super::record::Record;
use super::shelf::{self, Shelf};
use super::trail::Trail;
use super::{CacheOutcome, Caller, Gate, GenerateError, Generator};
use crate::audit::Level;
use crate::engine::{CacheScope, Generation, Standing};
use crate::ledger::Outcome;
use crate::limits::{Admission, Rates};
use crate::resilience::Permit;
use crate::telemetry::GenerationTrace;

/// An answer is repeated under its idempotency key for so long.
const IDEMPOTENT: Duration = Duration::from_hours(24);

/// One request.
pub(super) struct Run<'a> {
    pub generator: &'a Generator,
    pub gate: &'a Gate,
    pub caller: &'a Caller,
    pub prepared: Vec<Prepared>,
    /// What was asked, where that is written down.
    pub asked: Option<Json>,
    pub choices: usize,
    pub arrival: Instant,
    pub trace: GenerationTrace,
}

impl Run<'_> {
    pub async fn start(self) -> Result<Answers, GenerateError> {
        let admission = self.gate.admit(self.caller, self.most()).await?;
        let Some(mut shelf) = self.shelf() else { return self.run(admission, None).await };
        match self.look_up(&shelf).await {
            Some((record, _)) if record.identity != shelf.identity => return Err(GenerateError::Reused),
            Some((record, age)) => return self.repeat(admission, record, age, CacheOutcome::Hit).await,
            None => {}
        }
        let reads = self.reads();
        match self.similar(&mut shelf, reads).await {
            Some((record, age)) => self.repeat(admission, record, age, CacheOutcome::Semantic).await,
            None => self.run(admission, Some(shelf)).await,
        }
    }

    fn most(&self) -> Most {
        Most::of(&self.prepared, self.choices)
    }

    async fn bill(&mut self, most: Most, admission: Admission, cache: CacheOutcome) -> Result<Bill, GenerateError> {
        let Self { generator, gate, caller, arrival, .. } = *self;
        let model = &generator.model.id;
        let trail = Trail::new(&gate.audit, caller, model, self.asked.take(), arrival);
        let bill = gate.bill(caller, model, most, admission, cache, trail).await?;
        Ok(Bill { trace: self.trace.clone(), ..bill })
    }

    /// Whether the audit log is told what was answered.
    fn tells_answers(&self) -> bool {
        self.gate.audit.level() == Some(Level::Full)
    }

    /// The place of this answer in the prompt cache, if it has one.
    fn shelf(&self) -> Option<Shelf> {
        let cache = self.gate.cache.as_ref()?;
        if self.caller.idempotency_key.is_none() && !self.is_cacheable() {
            return None;
        }
        let model = &self.generator.model;
        let requests: Vec<String> = self.prepared.iter().map(Prepared::identity).collect();
        let identity = format!("{} {} {}", model.fingerprint, self.choices, requests.join(" "));
        let identity = cache.key(&[identity.as_bytes()]).name().to_owned();
        let key = if let Some(idempotent) = &self.caller.idempotency_key {
            cache.key(&[b"idempotency", self.caller.user_id.as_bytes(), idempotent.as_bytes()])
        } else {
            Shelf::answer_key(cache, &self.caller.tenant, &identity)
        };
        let time_to_live = self.caller.idempotency_key.is_some().then_some(IDEMPOTENT);
        let (user_id, model) = (self.caller.user_id.clone(), model.id.clone());
        Some(Shelf { cache: Arc::clone(cache), key, identity, time_to_live, user_id, model, asked: None })
    }

    fn is_cacheable(&self) -> bool {
        let asked = self.caller.cache;
        (asked.read || asked.write) && (asked.always || self.prepared.iter().all(Prepared::repeats))
    }

    fn reads(&self) -> bool {
        self.caller.cache.read || self.caller.idempotency_key.is_some()
    }

    async fn look_up(&self, shelf: &Shelf) -> Option<(Record, Duration)> {
        if !self.reads() {
            return None;
        }
        shelf::read(&shelf.cache, &shelf.key, self.caller.cache.max_age).await
    }

    /// Tells again what was told before.
    async fn repeat(
        mut self,
        admission: Admission,
        record: Record,
        age: Duration,
        found: CacheOutcome,
    ) -> Result<Answers, GenerateError> {
        let terms = Terms { age: Some(age), ..terms(found, *admission.rates()) };
        let nothing = Most { prompt: 0, completion: 0 };
        let bill = self.bill(nothing, admission, found).await?;
        let answers = self.tells_answers().then(|| record.texts());
        let account = Account { usage: record.usage(self.choices), answers, ..Account::default() };
        bill.settle_as_hit(account, Outcome::Completed).await;
        Ok(Answers::stored(terms, record.tell()))
    }

    /// Joins a run of the same request where there is one, or runs.
    async fn run(mut self, admission: Admission, shelf: Option<Shelf>) -> Result<Answers, GenerateError> {
        let rates = *admission.rates();
        let deadline = self.arrival + self.generator.limits.timeout;
        let outcome = if shelf.is_some() { CacheOutcome::Miss } else { CacheOutcome::Bypass };
        let mut bill = self.bill(self.most(), admission, outcome).await?;
        let permit = self.gate.model_breaker(&self.generator.model.id).admit()?;
        // Nothing waits while the flights are locked: of those who ask the same, one runs and the others join.
        let mut flights = self.gate.flights();
        let name = shelf.as_ref().map(|shelf| shelf.key.name().to_owned());
        if let Some(flight) = name.as_ref().filter(|_| self.reads()).and_then(|name| flights.get(name)) {
            if shelf.as_ref().is_some_and(|shelf| shelf.identity != flight.identity()) {
                return Err(GenerateError::Reused);
            }
            bill.cache = CacheOutcome::Join;
            match flight.board(bill, self.standing()) {
                Ok((place, receiver)) => {
                    return Ok(Answers::live(terms(CacheOutcome::Join, rates), receiver, place, deadline));
                }
                Err(back) => bill = *back,
            }
            bill.cache = outcome;
        }
        let shelf = shelf.filter(|_| self.caller.cache.write || self.caller.idempotency_key.is_some());
        // Who joins has a deadline of their own.
        let generations = self.submit(shelf.is_none().then_some(deadline))?;
        let identity = shelf.as_ref().map(|shelf| shelf.identity.clone());
        let requests = generations.iter().map(|(generation, _)| generation.id).collect();
        let course = Course { engine: self.generator.engine.clone(), requests };
        let flight = Flight::new(course, self.choices, identity, self.tells_answers());
        let Ok((place, receiver)) = flight.board(bill, self.standing()) else { return Err(GenerateError::Lost) };
        if let (Some(name), true) = (name, shelf.is_some()) {
            flights.insert(name, Arc::clone(&flight));
        }
        drop(flights);
        let mut terms = terms(outcome, rates);
        for (generation, _) in &generations {
            terms.queue_position = terms.queue_position.max(generation.queue_position);
            terms.expected_wait = terms.expected_wait.max(generation.expected_wait);
        }
        let keep = shelf.map(|shelf| (shelf, self.gate.clone()));
        self.follow(generations, &flight, keep, permit);
        Ok(Answers::live(terms, receiver, place, deadline))
    }

    /// In whose turn it is served.
    fn standing(&self) -> Standing {
        let asked = self.prepared.first().map(|prepared| &prepared.request);
        let (weight, priority) = asked.map_or((1, 0), |request| (request.weight, request.priority));
        Standing { user: self.caller.turn, weight, priority }
    }

    fn submit(&self, deadline: Option<Instant>) -> Result<Vec<(Generation, Prepared)>, GenerateError> {
        let tenant = super::prepare::hash(&self.caller.tenant);
        let mut generations = Vec::with_capacity(self.prepared.len() * self.choices);
        for prepared in &self.prepared {
            for choice in 0..self.choices {
                let mut request = prepared.request.clone();
                request.sampling.seed = request.sampling.seed.map(|seed| seed.wrapping_add(choice as u64));
                request.user = self.caller.turn;
                request.scope = CacheScope { tenant, ..request.scope };
                request.deadline = deadline;
                let refused = |error| GenerateError::refused(error, prepared.request.prompt.len());
                let generation = self.generator.engine.submit(request).map_err(refused)?;
                generations.push((generation, prepared.clone()));
            }
        }
        Ok(generations)
    }

    fn follow(
        self,
        generations: Vec<(Generation, Prepared)>,
        flight: &Arc<Flight>,
        keep: Option<(Shelf, Gate)>,
        permit: Permit,
    ) {
        let Generator { model, metrics, .. } = self.generator;
        let answers = generations.len();
        let keep = keep.map(Arc::new);
        // The first answer tells how the model is.
        let mut permit = Some(permit);
        for (index, (generation, prepared)) in generations.into_iter().enumerate() {
            let reports = Reports { metrics: metrics.clone(), trace: self.trace.clone(), permit: permit.take() };
            let choice = Choice::new(generation, prepared, model, reports, self.arrival);
            let (flight, keep) = (Arc::clone(flight), keep.clone());
            tokio::spawn(async move {
                let told = choice.run(index, Arc::clone(&flight)).await;
                let Some((shelf, gate)) = keep.as_deref() else { return };
                if let Some(told) = told {
                    shelf.keep(told, answers).await;
                }
                if flight.is_over() {
                    let mut flights = gate.flights();
                    let name = shelf.key.name();
                    if flights.get(name).is_some_and(|known| Arc::ptr_eq(known, &flight)) {
                        flights.remove(name);
                    }
                }
            });
        }
    }
}

fn terms(cache: CacheOutcome, rates: Rates) -> Terms {
    Terms { cache, age: None, rates, queue_position: 0, expected_wait: Duration::ZERO }
}
