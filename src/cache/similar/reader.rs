//! Reads a text word by word for its facts. Judges no meaning: what it does not know it takes for a name, which costs a miss.

use super::facts::{Fact, Kind};
use super::figures::{self, Figure};
use super::pieces::{Piece, pieces};
use super::words::{self, Sense};

/// Reads a text word by word.
#[derive(Default)]
pub(super) struct Reader {
    pub facts: Vec<Fact>,
    /// Words so far.
    at: usize,
    /// A negation or a source that waits for its word.
    pending: Option<Kind>,
    /// The last word was a number, and what it counts is not said yet.
    counting: bool,
    /// The last word was the beginning of a number such as `1 000`.
    grouping: bool,
    is_cyrillic: bool,
    /// Words, and those of them that the tables know.
    pub words: usize,
    pub known: usize,
}

impl Reader {
    pub fn read(text: &str) -> Self {
        let is_cyrillic = text.chars().any(is_cyrillic);
        let mut reader = Self { is_cyrillic, ..Self::default() };
        for piece in pieces(text) {
            match piece {
                Piece::Quoted(quoted) => reader.name(quoted),
                Piece::Bare { text, first } => reader.bare(text, first),
            }
        }
        reader.resolve("");
        reader
    }

    fn push(&mut self, kind: Kind, text: impl Into<String>) {
        self.facts.push(Fact { kind, text: text.into(), at: self.at });
    }

    /// The word that a negation or a source has waited for.
    fn resolve(&mut self, word: &str) {
        if let Some(kind) = self.pending.take() {
            self.push(kind, stem(word));
        }
    }

    /// Something that is compared as it stands.
    fn name(&mut self, text: &str) {
        self.resolve(text);
        self.push(Kind::Name, text);
        self.at += 1;
        (self.counting, self.grouping) = (false, false);
    }

    fn bare(&mut self, piece: &str, first: bool) {
        let text = trim(piece);
        if text.is_empty() {
            return;
        }
        if text.chars().any(char::is_numeric) {
            self.figure(text, piece == text);
        } else if text.chars().all(|c| c.is_alphabetic() || matches!(c, '-' | '\'' | '’' | '‑')) {
            for (index, word) in text.split(['-', '‑']).filter(|word| !word.is_empty()).enumerate() {
                self.word(word, first && index == 0);
            }
        } else if !matches!(text, "№" | "#") {
            match words::sense(text) {
                Some(Sense::Unit(unit)) => self.push(Kind::Unit, unit),
                _ => self.name(text),
            }
        }
    }

    fn figure(&mut self, text: &str, whole: bool) {
        let three_digits = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
        if let Some(last) = self.facts.last_mut().filter(|_| self.grouping && three_digits) {
            last.text.push_str(text);
            self.grouping = whole;
            return;
        }
        let Some(figures) = figures::read(text) else { return self.name(text) };
        self.resolve(text);
        self.counting = true;
        for figure in figures {
            match figure {
                Figure::Date(date) => self.push(Kind::Date, date),
                Figure::Number(number) => self.push(Kind::Number, number),
                Figure::Unit(unit) => {
                    self.push(Kind::Unit, unit);
                    self.counting = false;
                }
            }
        }
        let digits = text.len() <= 3 && !text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit());
        self.grouping = whole && digits;
        self.at += 1;
    }

    fn word(&mut self, original: &str, first: bool) {
        let small = original.to_lowercase().replace('ё', "е").replace('’', "'");
        let denies = small.ends_with("n't");
        let word = small.split('\'').next().unwrap_or_default();
        let original = original.split(['\'', '’']).next().unwrap_or_default();
        let capital = original.starts_with(char::is_uppercase);
        let counted = std::mem::take(&mut self.counting);
        self.grouping = false;
        let short_unit = words::short_unit(word).filter(|_| counted);
        let sense = match word {
            _ if denies => Some(Sense::Negation),
            "may" if (capital && !first) || counted => Some(Sense::Month("05")),
            _ => short_unit.map(Sense::Unit).or_else(|| words::sense(word)),
        };
        if !words::is_pronoun(word) && !matches!(sense, Some(Sense::Negation | Sense::Source)) {
            self.resolve(word);
        }
        self.words += 1;
        self.known += usize::from(sense.is_some() || words::is_opener(word));
        let is_name = self.is_name(original, word, first, sense);
        if is_name {
            self.push(Kind::Name, word);
        }
        match sense {
            // The year 2024 is 2024.
            Some(Sense::Unit("year")) if counted && self.ends_in_a_year() => {}
            Some(Sense::Number(number)) => self.spelled(number),
            Some(Sense::Month(month)) => self.push(Kind::Month, month),
            Some(Sense::Time(time)) => self.push(Kind::Time, time),
            Some(Sense::Unit(unit)) => self.push(Kind::Unit, unit),
            Some(Sense::Side(side)) => self.push(Kind::Side, side),
            Some(Sense::Place(place)) => self.push(Kind::Name, place),
            Some(Sense::Asks(asks)) => self.push(Kind::Asks, asks),
            Some(Sense::Negated(prefix)) => self.push(Kind::Negation, stem(&word[prefix..])),
            Some(Sense::Source) => self.wait(Kind::Source),
            Some(Sense::Negation) => self.wait(Kind::Negation),
            None if counted && !is_name && !words::is_opener(word) => self.push(Kind::Unit, stem(word)),
            None => {}
        }
        // `the 12th of March` is `12 March`.
        if !matches!(word, "of" | "the") {
            self.at += 1;
        }
    }

    fn wait(&mut self, kind: Kind) {
        self.resolve("");
        self.pending = Some(kind);
    }

    /// A number in words; `twenty five` is 25.
    fn spelled(&mut self, number: &str) {
        self.counting = true;
        let parsed: Option<u64> = number.parse().ok();
        if let (Some(last), Some(ones @ 1..=9)) = (self.facts.last_mut(), parsed)
            && last.kind == Kind::Number
            && last.at + 1 == self.at
            && let Ok(tens @ (20 | 30 | 40 | 50 | 60 | 70 | 80 | 90)) = last.text.parse::<u64>()
        {
            last.text = (tens + ones).to_string();
            last.at = self.at;
            return;
        }
        self.push(Kind::Number, number);
    }

    fn ends_in_a_year(&self) -> bool {
        self.facts.last().is_some_and(|fact| match fact.kind {
            Kind::Date => true,
            Kind::Number => fact.text.len() == 4 && (fact.text.starts_with("19") || fact.text.starts_with("20")),
            _ => false,
        })
    }

    /// Whether a word names something: by its capitals, its script among Russian words, or for being a single letter.
    fn is_name(&self, original: &str, word: &str, first: bool, sense: Option<Sense>) -> bool {
        let is_measure = matches!(
            sense,
            Some(Sense::Number(_) | Sense::Month(_) | Sense::Time(_) | Sense::Unit(_) | Sense::Place(_))
        );
        let (capitals, letters) = (original.chars().filter(|c| c.is_uppercase()).count(), original.chars().count());
        if self.is_cyrillic && !original.chars().all(is_cyrillic) {
            return !is_measure;
        }
        if !original.chars().all(|c| c.is_ascii() || is_russian(c)) {
            return true;
        }
        if letters == 1 {
            return !words::is_function(word) && sense.is_none();
        }
        if capitals > 1 {
            return !is_measure;
        }
        original.starts_with(char::is_uppercase)
            && !is_measure
            && if first { sense.is_none() && !words::is_opener(word) } else { !words::is_function(word) }
    }
}

/// The beginning of a word, which its forms have in common.
fn stem(word: &str) -> String {
    word.chars().take(4).collect()
}

/// Without punctuation around it; the sign of a number stays, and the point of `.txt`.
fn trim(piece: &str) -> &str {
    let around = |c: char| ".,;:!?…()[]{}\"'«»„“”‘’–—".contains(c);
    let from_point = piece.trim_start_matches(|c| c != '.' && around(c));
    let has_point = from_point.strip_prefix('.').is_some_and(|rest| rest.starts_with(char::is_alphanumeric));
    let text = if has_point { from_point } else { piece.trim_start_matches(around) };
    let text = text.trim_end_matches(|c| c == '-' || around(c));
    match text.strip_prefix('-') {
        Some(rest) if !rest.starts_with(|c: char| c.is_ascii_digit()) => rest.trim_start_matches('-'),
        _ => text,
    }
}

fn is_cyrillic(c: char) -> bool {
    ('\u{400}'..='\u{52f}').contains(&c)
}

fn is_russian(c: char) -> bool {
    matches!(c, 'а'..='я' | 'А'..='Я' | 'ё' | 'Ё')
}
