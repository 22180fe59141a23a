//! The words that decide whether two questions may share an answer, English and Russian, by the tables. Knows no sentence.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use super::measures::{MONTHS, NUMBERS, PLACES, SHORT_UNITS, TIMES, UNITS};
use super::tables::{ASKS, ENDINGS, FUNCTION, NEGATIONS, OPENERS, PARTIES, PRONOUNS, SIDES, SOURCES, Table, UNNEGATED};

/// What a word says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sense {
    /// A number.
    Number(&'static str),
    /// A month, 1 to 12.
    Month(&'static str),
    /// A weekday, `today`, `weekly`: a time that is no number.
    Time(&'static str),
    /// What is counted, also without a number.
    Unit(&'static str),
    /// One side of an opposition, or of a deal.
    Side(&'static str),
    /// What a question asks for.
    Asks(&'static str),
    /// A place, by its usual name.
    Place(&'static str),
    /// From where: the next word counts.
    Source,
    /// Turns round what follows.
    Negation,
    /// Is turned round itself, by its first so many bytes.
    Negated(usize),
}

/// What a word in small letters says, if it says anything that counts.
pub(super) fn sense(word: &str) -> Option<Sense> {
    LEXICON.sense(word).or_else(|| negated(word))
}

/// `unpaid` and `неоплаченный`, though not `until` and `неделя`.
fn negated(word: &str) -> Option<Sense> {
    let prefix = ["un", "non", "не"].into_iter().find(|prefix| word.starts_with(prefix))?;
    let other = word.chars().count() < 6 || UNNEGATED.split(' ').any(|stem| word.starts_with(stem));
    (!other).then_some(Sense::Negated(prefix.len()))
}

/// The unit that a short word is when it stands right after a number.
pub(super) fn short_unit(word: &str) -> Option<&'static str> {
    SHORT_UNITS.iter().find(|(_, words)| words.split(' ').any(|short| short == word)).map(|(unit, _)| *unit)
}

/// Whether a word says nothing by itself.
pub(super) fn is_function(word: &str) -> bool {
    LEXICON.function.contains(word)
}

/// Whether a word may stand between a negation and what it denies.
pub(super) fn is_pronoun(word: &str) -> bool {
    PRONOUNS.split(' ').any(|pronoun| pronoun == word)
}

/// Whether a word often opens a sentence, so that its capital is no sign of a name.
pub(super) fn is_opener(word: &str) -> bool {
    is_function(word) || LEXICON.openers.contains(word)
}

static LEXICON: LazyLock<Lexicon> = LazyLock::new(Lexicon::new);

/// The tables, ready to be asked.
struct Lexicon {
    exact: HashMap<&'static str, Sense>,
    /// By their first character.
    stems: HashMap<char, Vec<Stem>>,
    function: HashSet<&'static str>,
    openers: HashSet<&'static str>,
}

struct Stem {
    text: &'static str,
    declined: bool,
    sense: Sense,
}

impl Lexicon {
    fn new() -> Self {
        let words = |list: &'static str| list.split(' ').collect();
        let mut lexicon =
            Self { exact: HashMap::new(), stems: HashMap::new(), function: words(FUNCTION), openers: words(OPENERS) };
        lexicon.add(SOURCES, Sense::Source);
        lexicon.add(NEGATIONS, Sense::Negation);
        lexicon.add_all(NUMBERS, Sense::Number);
        lexicon.add_all(MONTHS, Sense::Month);
        lexicon.add_all(TIMES, Sense::Time);
        lexicon.add_all(UNITS, Sense::Unit);
        lexicon.add_all(SIDES, Sense::Side);
        lexicon.add_all(PARTIES, Sense::Side);
        lexicon.add_all(ASKS, Sense::Asks);
        lexicon.add_all(PLACES, Sense::Place);
        lexicon
    }

    fn add_all(&mut self, table: Table, sense: fn(&'static str) -> Sense) {
        for (fact, words) in table {
            self.add(words, sense(fact));
        }
    }

    /// The first sense that a word is given stays.
    fn add(&mut self, words: &'static str, sense: Sense) {
        for word in words.split(' ') {
            let (stem, declined) = match (word.strip_suffix('*'), word.strip_suffix('~')) {
                (Some(stem), _) => (stem, false),
                (_, Some(stem)) => (stem, true),
                _ => {
                    self.exact.entry(word).or_insert(sense);
                    continue;
                }
            };
            let Some(first) = stem.chars().next() else { continue };
            self.stems.entry(first).or_default().push(Stem { text: stem, declined, sense });
        }
    }

    fn sense(&self, word: &str) -> Option<Sense> {
        if let Some(sense) = self.exact.get(word) {
            return Some(*sense);
        }
        let fits =
            |stem: &&Stem| word.strip_prefix(stem.text).is_some_and(|rest| !stem.declined || ENDINGS.contains(&rest));
        // The longest stem knows best.
        let stems = self.stems.get(&word.chars().next()?)?;
        stems.iter().filter(fits).max_by_key(|stem| stem.text.len()).map(|stem| stem.sense)
    }
}
