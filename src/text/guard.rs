//! Keeps the text of users from becoming control tokens on its way through a chat template: every place where a value
//! spells a control token gets a guard character after its first character, which the tokenizer takes out again after
//! it has found the template's own control tokens.

use std::collections::{BTreeSet, HashMap};

use serde_json::Value;

/// The texts of a vocabulary's control tokens, for finding them in what users wrote.
#[derive(Debug, Clone, Default)]
pub(super) struct ControlTexts {
    by_first: HashMap<char, Vec<String>>,
}

impl ControlTexts {
    /// Texts of a single character cannot be guarded; the tokenizer never takes them for control tokens.
    pub(super) fn new(texts: impl IntoIterator<Item = String>) -> Self {
        let mut by_first: HashMap<char, Vec<String>> = HashMap::new();
        for text in texts {
            if let Some(first) = text.chars().next() {
                by_first.entry(first).or_default().push(text);
            }
        }
        Self { by_first }
    }

    fn starts(&self, text: &str) -> bool {
        let first = text.chars().next().and_then(|first| self.by_first.get(&first));
        first.is_some_and(|texts| texts.iter().any(|control| text.starts_with(control.as_str())))
    }

    fn within(&self, text: &str) -> bool {
        text.char_indices().any(|(at, _)| self.starts(&text[at..]))
    }

    /// `text` with `guard` after the first character of every control token's text, overlapping ones included.
    pub(super) fn guarded(&self, text: &str, guard: char) -> String {
        let mut out = String::with_capacity(text.len() + 16);
        for (at, character) in text.char_indices() {
            out.push(character);
            if self.starts(&text[at..]) {
                out.push(guard);
            }
        }
        out
    }

    /// Whether any string within `values`, keys of objects included, spells a control token.
    pub(super) fn found_in<'a>(&self, mut values: impl Iterator<Item = &'a Value>) -> bool {
        values.any(|value| {
            let mut found = false;
            each_string(value, &mut |text| found = found || self.within(text));
            found
        })
    }

    /// A private-use character that occurs nowhere in `values`, in `template` or in a control token; none if all
    /// 131,068 do.
    pub(super) fn unused_character<'a>(&self, values: impl Iterator<Item = &'a Value>, template: &str) -> Option<char> {
        let mut used = BTreeSet::new();
        let mut note = |text: &str| used.extend(text.chars().filter(|&character| character >= '\u{F0000}'));
        note(template);
        self.by_first.values().flatten().for_each(|control| note(control));
        values.for_each(|value| each_string(value, &mut note));
        ('\u{F0000}'..='\u{FFFFD}').chain('\u{100000}'..='\u{10FFFD}').find(|character| !used.contains(character))
    }
}

fn each_string(value: &Value, visit: &mut impl FnMut(&str)) {
    match value {
        Value::String(text) => visit(text),
        Value::Array(items) => items.iter().for_each(|item| each_string(item, visit)),
        Value::Object(map) => map.iter().for_each(|(key, item)| {
            visit(key);
            each_string(item, visit);
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
