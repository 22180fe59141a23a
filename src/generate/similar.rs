//! Similar questions at the gate: a question without an answer of its own may have that of a similar one. In shadow mode
//! the answer is computed all the same, and the two are compared.
//!
//! An answer that was lent is not kept under the new question's name: it would look like that question's own, begin a new
//! life, outlive a purge of whose it is, and be lent on to what is similar to the similar.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::embedder::Embedder;
use super::recheck::{self, Recheck};
use super::record::Record;
use super::run::Run;
use super::shelf::{self, Shelf};
use crate::cache::similar::{Guard, Origin, Question, Similar, SimilarMode, SimilarSettings, gist};
use crate::cache::{Cache, CacheKey};
use crate::telemetry::Metrics;

/// Answers that may wait to be checked.
const MOST_RECHECKS: usize = 64;
/// So many of the nearest are asked for their answers, which may be gone.
const MOST_TRIED: usize = 3;
/// Longer questions, in characters, are seldom asked again in other words, and running streams would wait for their vectors.
const LONGEST: usize = 300;
/// Two answers with the same figures say the same from this cosine on.
const SAME_ANSWER: f32 = 0.9;

/// How similar questions are used.
#[derive(Debug)]
pub(super) struct SimilarQuestions {
    pub settings: SimilarSettings,
    pub metrics: Metrics,
    rechecks: mpsc::Sender<Recheck>,
}

/// A question on its way to an answer.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    similar: Arc<SimilarQuestions>,
    partition: CacheKey,
    embedder: Embedder,
    text: String,
    guard: Guard,
    /// Made once; none where it was not there in time or nothing was looked up.
    vector: Option<Vec<f32>>,
    /// What would have been given, in shadow mode.
    lent: Option<String>,
}

/// An answer that a similar question lends.
struct Lent {
    record: Record,
    age: Duration,
    similarity: f32,
}

impl SimilarQuestions {
    /// Starts the task that checks answers.
    pub fn open(settings: SimilarSettings, metrics: Metrics) -> Arc<Self> {
        let (rechecks, jobs) = mpsc::channel(MOST_RECHECKS);
        tokio::spawn(recheck::run(jobs));
        metrics.similar_begins();
        Arc::new(Self { settings, metrics, rechecks })
    }
}

impl Run<'_> {
    /// The answer to a similar question, if it may be given. `shelf` learns what is asked.
    pub(super) async fn similar(&self, shelf: &mut Shelf, reads: bool) -> Option<(Record, Duration)> {
        // What is under way is joined, whatever is similar.
        if reads && self.gate.flights().contains_key(shelf.key.name()) {
            return None;
        }
        let mut asked = self.asked_question(&shelf.cache)?;
        let lent = if reads { asked.look_up(&shelf.cache, self).await } else { None };
        let given = lent.and_then(|lent| match asked.similar.settings.mode {
            SimilarMode::Shadow => {
                asked.similar.metrics.similar("shadow");
                asked.lent = Some(lent.record.text());
                None
            }
            SimilarMode::On => {
                asked.similar.metrics.similar("hit");
                self.sample(&asked, shelf, &lent);
                let prompt_tokens = self.prepared.first().map_or(0, |prepared| prepared.request.prompt.len());
                Some((lent.record.lent_to(prompt_tokens), lent.age))
            }
        });
        shelf.asked = Some(asked);
        given
    }

    /// What is asked, if similar questions may have the answer.
    fn asked_question(&self, cache: &Cache) -> Option<Asked> {
        let similar = self.gate.similar.as_ref()?;
        let embedder = self.generator.embedder()?;
        let [prepared] = &self.prepared[..] else { return None };
        if self.choices != 1 || self.caller.idempotency_key.is_some() {
            return None;
        }
        let question = prepared.question.as_ref().filter(|question| question.text.chars().count() <= LONGEST)?;
        let partition = cache.key(&[
            b"similar",
            self.caller.tenant.as_bytes(),
            self.generator.model.fingerprint.as_bytes(),
            embedder.model().fingerprint.as_bytes(),
            prepared.parameters().as_bytes(),
            question.around.as_bytes(),
        ]);
        Some(Asked {
            similar: Arc::clone(similar),
            partition,
            embedder: embedder.clone(),
            guard: cache.guard(&question.text)?,
            text: question.text.clone(),
            vector: None,
            lent: None,
        })
    }

    /// Has a share of the answers that are given checked.
    fn sample(&self, asked: &Asked, shelf: &Shelf, lent: &Lent) {
        if rand::random::<f64>() >= asked.similar.settings.recheck_share {
            return;
        }
        let Some(prepared) = self.prepared.first() else { return };
        let job = Recheck {
            generator: self.generator.clone(),
            prepared: prepared.clone(),
            tenant: super::prepare::hash(&self.caller.tenant),
            shelf: self.caller.cache.write.then(|| shelf.clone()),
            asked: asked.clone(),
            similarity: lent.similarity,
            given: lent.record.text(),
        };
        // Where too many wait, this one is not checked.
        let _ = asked.similar.rechecks.try_send(job);
    }
}

impl Asked {
    async fn look_up(&mut self, cache: &Cache, run: &Run<'_>) -> Option<Lent> {
        let SimilarSettings { threshold, deadline, .. } = self.similar.settings;
        let vector = match tokio::time::timeout(deadline, self.embedder.embed_whole(&self.text)).await {
            Ok(Ok(vector)) => vector?,
            Ok(Err(error)) => {
                tracing::debug!(%error, "a question has no vector");
                self.similar.metrics.similar("failed");
                return None;
            }
            Err(_) => {
                self.similar.metrics.similar("late");
                return None;
            }
        };
        let question = Question { vector, guard: self.guard };
        let similar = cache.similar(&self.partition, &question, threshold).await;
        self.vector = Some(question.vector);
        let near = match similar {
            Similar::Found(near) => near,
            Similar::Guarded => {
                self.similar.metrics.similar("guarded");
                return None;
            }
            Similar::Nothing => {
                self.similar.metrics.similar("miss");
                return None;
            }
        };
        for near in near.into_iter().take(MOST_TRIED) {
            let key = Shelf::answer_key(cache, &run.caller.tenant, &near.identity);
            let found = shelf::read(cache, &key, run.caller.cache.max_age).await;
            if let Some((record, age)) = found.filter(|(record, _)| record.identity == near.identity) {
                return Some(Lent { record, age, similarity: near.similarity });
            }
        }
        self.similar.metrics.similar("gone");
        None
    }

    /// The question has an answer of its own, which is kept now.
    pub async fn answered(&self, shelf: &Shelf, record: &Record) {
        let vector = match &self.vector {
            Some(vector) => Some(vector.clone()),
            // Nobody waits any more, so it need not be there soon.
            None => self.embedder.embed_whole(&self.text).await.ok().flatten(),
        };
        if let Some(vector) = vector {
            let question = Question { vector, guard: self.guard };
            let origin = Origin { identity: &shelf.identity, user_id: &shelf.user_id, model: &shelf.model };
            let most = self.similar.settings.most_entries;
            shelf.cache.add_similar(&self.partition, &question, origin, most).await;
        }
        if let Some(lent) = &self.lent {
            self.check(lent, &record.text()).await;
        }
    }

    /// Counts whether an answer that was or would have been given says what the true one does: none where nobody knows.
    pub async fn check(&self, given: &str, own: &str) -> Option<bool> {
        let agrees = self.agree(given, own).await?;
        self.similar.metrics.similar_check(if agrees { "agree" } else { "false" });
        Some(agrees)
    }

    /// Two answers say the same if their words are equal; or else if their figures are, both deny something or neither, and
    /// their vectors are near. Long answers are compared by their beginnings, their figures throughout.
    async fn agree(&self, one: &str, other: &str) -> Option<bool> {
        if one.split_whitespace().eq(other.split_whitespace()) {
            return Some(true);
        }
        if gist(one) != gist(other) {
            return Some(false);
        }
        let (one, other) = (self.embedder.embed(one).await.ok()?, self.embedder.embed(other).await.ok()?);
        let cosine: f32 = one.iter().zip(&other).map(|(one, other)| one * other).sum();
        Some(cosine >= SAME_ANSWER)
    }
}
