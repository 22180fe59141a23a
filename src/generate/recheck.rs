//! Answers of similar questions that were given are computed after all, a sample of them, to see how many were wrong: one
//! at a time, while nobody else wants the engine, at nobody's expense.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::Generator;
use super::choice::{Choice, Reports};
use super::flight::{Course, Flight, Told};
use super::prepare::Prepared;
use super::record::Record;
use super::shelf::Shelf;
use super::similar::Asked;
use crate::engine::{CacheScope, EngineHandle};
use crate::telemetry::GenerationTrace;

/// The engine is looked at so often while an answer waits or is made.
const GLANCE: Duration = Duration::from_millis(50);

/// An answer to be checked.
#[derive(Debug)]
pub(super) struct Recheck {
    pub generator: Generator,
    pub prepared: Prepared,
    /// Of the prefix cache.
    pub tenant: u64,
    /// Takes the true answer where the one given was wrong, if it may.
    pub shelf: Option<Shelf>,
    pub asked: Asked,
    pub similarity: f32,
    pub given: String,
}

/// Checks what comes, until nobody can send any more.
pub(super) async fn run(mut jobs: mpsc::Receiver<Recheck>) {
    while let Some(job) = jobs.recv().await {
        job.run().await;
    }
}

impl Recheck {
    /// Gives up where the engine ends or somebody else comes.
    async fn run(self) {
        while !is_idle(self.generator.engine(), 0) {
            if self.generator.engine().is_draining() {
                return;
            }
            tokio::time::sleep(GLANCE).await;
        }
        let Some(told) = self.answer().await else { return };
        let Some(record) = Record::new("", told.clone(), 1) else { return };
        let Some(agrees) = self.asked.check(&self.given, &record.text()).await else { return };
        tracing::info!(similarity = self.similarity, agrees, "the answer of a similar question was checked");
        if let (false, Some(shelf)) = (agrees, self.shelf) {
            shelf.keep(told, 1).await;
        }
    }

    async fn answer(&self) -> Option<Vec<Told>> {
        let Generator { model, engine, limits, metrics, .. } = &self.generator;
        let arrival = Instant::now();
        let mut request = self.prepared.request.clone();
        request.priority = i32::MIN;
        request.scope = CacheScope { tenant: self.tenant, ..request.scope };
        request.deadline = Some(arrival + limits.timeout);
        let generation = engine.submit(request).ok()?;
        let course = Course { engine: engine.clone(), requests: vec![generation.id] };
        let flight = Flight::new(course, 1, Some(String::new()), false);
        let reports = Reports { metrics: metrics.clone(), trace: GenerationTrace::default(), permit: None };
        let choice = Choice::new(generation, self.prepared.clone(), model, reports, arrival);
        let answer = choice.run(0, Arc::clone(&flight));
        tokio::pin!(answer);
        loop {
            tokio::select! {
                told = &mut answer => return told,
                () = tokio::time::sleep(GLANCE) => {}
            }
            if engine.is_draining() || !is_idle(engine, 1) {
                flight.abandon();
            }
        }
    }
}

/// Whether nobody but `own` requests is inside.
fn is_idle(engine: &EngineHandle, own: usize) -> bool {
    let stats = engine.stats();
    stats.running + stats.waiting <= own
}
