//! A value of the wrong type or form, told in either language. serde says it in English prose; this takes that apart.

use crate::lang::Lang;

/// A field should have been one thing and was another.
#[derive(Debug, Clone, PartialEq)]
pub struct Mismatch {
    expected: &'static Form,
    found: Option<Found>,
}

#[derive(Debug, Clone, PartialEq)]
enum Found {
    /// A number or a boolean, as it was written.
    Literal(String),
    Form(&'static Form),
}

/// What a value can be.
#[derive(Debug, PartialEq)]
struct Form {
    /// What serde calls it, where expected and where found.
    names: &'static [&'static str],
    english: &'static str,
    /// In the instrumental.
    russian: &'static str,
}

static FORMS: [Form; 11] = [
    Form { names: &["a string", "string"], english: "a string", russian: "строкой" },
    Form {
        names: &["u64", "u32"], english: "a whole number from 0 on", russian: "целым числом не меньше 0"
    },
    Form { names: &["i64"], english: "a whole number", russian: "целым числом" },
    Form { names: &["f32"], english: "a number", russian: "числом" },
    Form { names: &["a boolean"], english: "true or false", russian: "true или false" },
    Form { names: &["a sequence", "sequence"], english: "a list", russian: "списком" },
    Form { names: &["a map", "a JSON object", "map"], english: "an object", russian: "объектом" },
    Form { names: &["null"], english: "null", russian: "null" },
    Form {
        names: &["a string or a list of strings"],
        english: "a string or a list of strings",
        russian: "строкой или списком строк",
    },
    Form {
        names: &["a string or a list of parts with `type` and `text`"],
        english: "a string or a list of parts with `type` and `text`",
        russian: "строкой или списком частей с полями `type` и `text`",
    },
    Form {
        names: &["a string, a list of strings, a list of token ids or a list of such lists"],
        english: "a string, a list of strings, a list of token ids or a list of such lists",
        russian: "строкой, списком строк, списком номеров токенов или списком таких списков",
    },
];

impl Mismatch {
    /// Reads serde's words: `invalid type: string "hot", expected f32`, or only `expected …`.
    pub fn parse(words: &str) -> Option<Self> {
        if let Some(expected) = words.strip_prefix("expected ") {
            return Some(Self { expected: Form::of(expected)?, found: None });
        }
        let words = words.strip_prefix("invalid type: ").or_else(|| words.strip_prefix("invalid value: "))?;
        let (found, expected) = words.rsplit_once(", expected ")?;
        Some(Self { expected: Form::of(expected)?, found: Found::of(found) })
    }

    /// What must be: the second half of a sentence that begins with the field.
    pub fn told(&self, lang: Lang) -> String {
        let expected = self.expected.told(lang);
        let Some(found) = &self.found else { return expected.to_owned() };
        let found = match found {
            Found::Literal(literal) => literal,
            Found::Form(form) => form.told(lang),
        };
        lang.pick(format!("{expected}, not {found}"), format!("{expected}, а не {found}"))
    }
}

impl Found {
    fn of(words: &str) -> Option<Self> {
        let literal = ["integer", "floating point", "boolean"].iter().find_map(|kind| words.strip_prefix(kind));
        match literal {
            Some(literal) => Some(Self::Literal(literal.trim_matches([' ', '`']).to_owned())),
            None => Form::of(words.split(' ').next()?).map(Self::Form),
        }
    }
}

impl Form {
    fn of(name: &str) -> Option<&'static Self> {
        // A structure of ours is an object to whoever writes it.
        let name = if name.starts_with("struct ") { "a map" } else { name };
        FORMS.iter().find(|form| form.names.contains(&name))
    }

    fn told(&self, lang: Lang) -> &'static str {
        lang.pick(self.english, self.russian)
    }
}
