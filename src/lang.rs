//! The languages that the program speaks to people: at the command line and in the API's messages. The words are
//! elsewhere, beside what they are about.

use std::str::FromStr;

/// English or Russian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Lang {
    /// English.
    #[default]
    En,
    /// Russian.
    Ru,
}

impl Lang {
    /// The text in this language.
    pub fn pick<T>(self, english: T, russian: T) -> T {
        match self {
            Self::En => english,
            Self::Ru => russian,
        }
    }
}

/// Takes a locale such as `ru_RU.UTF-8`, `ru`, `C`; what is not Russian is English.
impl FromStr for Lang {
    type Err = std::convert::Infallible;

    fn from_str(locale: &str) -> Result<Self, Self::Err> {
        let language = locale.split(['_', '.', '-', '@']).next().unwrap_or_default();
        Ok(if language.eq_ignore_ascii_case("ru") { Self::Ru } else { Self::En })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locales() {
        for (locale, wanted) in
            [("ru_RU.UTF-8", Lang::Ru), ("RU", Lang::Ru), ("ru", Lang::Ru), ("run", Lang::En), ("C", Lang::En)]
        {
            assert_eq!(locale.parse(), Ok(wanted), "{locale}");
        }
    }
}
