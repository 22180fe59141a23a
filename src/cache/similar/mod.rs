//! Similar questions: which answered question is near enough, by its vector, to lend its answer, and nothing that must be
//! equal differs (numbers, dates, names, negation). Keeps vectors and keyed hashes, no text. Must not know how a text
//! becomes a vector, or what is answered.

mod facts;
mod figures;
mod index;
mod measures;
mod pieces;
mod reader;
mod tables;
mod words;

use std::collections::BTreeSet;
use std::time::Duration;

use self::index::{Entry, Index};
use super::{Cache, CacheKey, Tag};
use crate::store::now;

/// How similar questions are used.
#[derive(Debug, Clone, PartialEq)]
pub struct SimilarSettings {
    /// Whether answers are given, or only counted.
    pub mode: SimilarMode,
    /// Cosine of two questions' vectors from which on they are similar.
    pub threshold: f32,
    /// Questions of a partition that are kept, the newest.
    pub most_entries: usize,
    /// Share of the answers given that are checked, 0 to 1.
    pub recheck_share: f64,
    /// A question's vector must be there within so long.
    pub deadline: Duration,
}

/// What becomes of a similar question's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SimilarMode {
    /// It is compared with the true one, and not given.
    Shadow,
    /// It is given.
    On,
}

/// A question as it is compared with others of its partition.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// Of length 1.
    pub vector: Vec<f32>,
    /// Of everything that must be equal.
    pub guard: Guard,
}

/// A keyed hash of the facts of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guard([u8; 32]);

/// What similar questions there are.
#[derive(Debug, Clone, PartialEq)]
pub enum Similar {
    /// These may lend their answers, the nearest first.
    Found(Vec<Near>),
    /// Some are near and none may: a fact differs.
    Guarded,
    /// None is near.
    Nothing,
}

/// A question that is near.
#[derive(Debug, Clone, PartialEq)]
pub struct Near {
    /// The name of its answer.
    pub identity: String,
    /// Cosine of the vectors.
    pub similarity: f32,
}

/// Whose question it was, and what answered it.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// The name of the answer: a [`CacheKey::name`].
    pub identity: &'a str,
    /// A purge of this user's answers takes it away.
    pub user_id: &'a str,
    /// A purge of this model's answers takes it away.
    pub model: &'a str,
}

impl Cache {
    /// The guard of a question; none of one in a language whose negations are not known here.
    pub fn guard(&self, text: &str) -> Option<Guard> {
        let facts = facts::facts(text)?;
        let parts: Vec<&[u8]> = [&b"facts"[..]].into_iter().chain(facts.iter().map(String::as_bytes)).collect();
        index::bytes(self.key(&parts).name()).map(Guard)
    }

    /// The questions of a partition that are as near as `threshold`.
    pub async fn similar(&self, partition: &CacheKey, question: &Question, threshold: f32) -> Similar {
        match self.index(partition).await {
            Some(index) => index.similar(question, threshold),
            None => Similar::Nothing,
        }
    }

    /// Puts a question before those of its partition. Two who do so at once may lose one of the two, which is a miss later.
    pub async fn add_similar(
        &self,
        partition: &CacheKey,
        question: &Question,
        origin: Origin<'_>,
        most_entries: usize,
    ) {
        let Some(entry) = Entry::new(question, origin) else { return };
        let mut index = self.index(partition).await.unwrap_or_default();
        index.put(entry, most_entries, self.settings.most_bytes);
        let users = index.users();
        let tags: Vec<Tag<'_>> = users.iter().map(|user| Tag::User(user)).chain([Tag::Model(origin.model)]).collect();
        self.put(partition, &index.encode(), None, &tags).await;
    }

    async fn index(&self, partition: &CacheKey) -> Option<Index> {
        let hit = self.get(partition).await?;
        Index::decode(&hit.value, now(), self.settings.time_to_live)
    }
}

/// What two answers to one question have in common if they say the same: figures, and whether they deny.
pub fn gist(answer: &str) -> BTreeSet<String> {
    facts::gist(answer)
}

#[cfg(test)]
mod tests;
