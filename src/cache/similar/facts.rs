//! What of a text must be equal before two questions may share an answer: figures, names, negations, and words that turn a
//! question round. Must not know how words are read.

use std::collections::BTreeSet;

use super::figures;
use super::reader::Reader;

/// One thing that must be equal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Fact {
    pub kind: Kind,
    pub text: String,
    /// Place among the words.
    pub at: usize,
}

/// At least one of so many words is known where a text is English or Russian.
const LEAST_KNOWN: usize = 4;

/// What a fact is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Number,
    Month,
    Date,
    Time,
    Unit,
    Name,
    Negation,
    Side,
    Asks,
    Source,
}

impl Fact {
    /// Told apart from any other fact.
    fn line(&self) -> String {
        format!("{:?} {}", self.kind, self.text)
    }
}

/// The facts of a text. They keep their order where one kind stands twice (`from Perm to Omsk`), and are sorted where each
/// stands alone (`in Perm on Monday`): then the order says nothing. None of a text that is neither English nor Russian,
/// whose negations nobody here knows.
pub(super) fn facts(text: &str) -> Option<Vec<String>> {
    let reader = Reader::read(text);
    if reader.known * LEAST_KNOWN < reader.words {
        return None;
    }
    let mut facts = join_dates(&reader.facts);
    let kinds: BTreeSet<Kind> = facts.iter().map(|fact| fact.kind).collect();
    if kinds.len() == facts.len() {
        facts.sort_unstable();
    }
    Some(facts.iter().map(Fact::line).collect())
}

/// The figures of a text and whether it denies, without order: what two answers to one question have in common.
pub(super) fn gist(text: &str) -> BTreeSet<String> {
    let facts = join_dates(&Reader::read(text).facts);
    let told = facts.into_iter().filter_map(|fact| match fact.kind {
        Kind::Number | Kind::Month | Kind::Date => Some(fact.line()),
        Kind::Negation => Some("denied".to_owned()),
        _ => None,
    });
    told.collect()
}

/// A day, its month and perhaps its year, side by side, are one date.
fn join_dates(facts: &[Fact]) -> Vec<Fact> {
    let mut joined = Vec::with_capacity(facts.len());
    let mut rest = facts;
    while let Some((fact, further)) = rest.split_first() {
        let beside = |index: usize| further.get(index).filter(|next| next.at == fact.at + index + 1);
        let (day, month) = match (fact.kind, beside(0)) {
            (Kind::Number, Some(next)) if next.kind == Kind::Month => (fact, next),
            (Kind::Month, Some(next)) if next.kind == Kind::Number => (next, fact),
            _ => {
                joined.push(fact.clone());
                rest = further;
                continue;
            }
        };
        let is_year = |next: &&Fact| next.kind == Kind::Number && next.text.len() == 4;
        let year = beside(1).filter(is_year);
        let Some(text) = figures::day(year.map_or("", |year| &year.text), &month.text, &day.text) else {
            joined.push(fact.clone());
            rest = further;
            continue;
        };
        joined.push(Fact { kind: Kind::Date, text, at: fact.at });
        rest = &further[1 + usize::from(year.is_some())..];
    }
    joined
}

#[cfg(test)]
#[path = "facts_tests.rs"]
mod tests;
