//! Numbers, dates and times as they are written in figures. No two different rows of digits are read as the same, save for
//! how a day is written: `12.03.2024` and `2024-03-12`, and a decimal comma is a point.

use super::words::{self, Sense};

/// What a piece of text with a digit in it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Figure {
    /// `2024-03-12`
    Date(String),
    /// A number, with its sign.
    Number(String),
    /// What is counted, where it is written onto the number.
    Unit(String),
}

/// Endings of `2nd` and `2-го`.
const ORDINALS: &str = "st nd rd th й я е го му м х ый ой ий ая ое ые ого ому ым ых ом";

/// What `piece`, without blanks, says in figures; none where it is another thing with digits, such as `GPT-4`.
pub(super) fn read(piece: &str) -> Option<Vec<Figure>> {
    if let Some(date) = date(piece) {
        return Some(vec![Figure::Date(date)]);
    }
    if let Some(figures) = number(piece) {
        return Some(figures);
    }
    // A range, or a telephone number.
    let parts: Vec<&str> = piece.split(['-', '–', '—', '−']).collect();
    if parts.len() < 2 || parts.iter().any(|part| !part.starts_with(|first: char| first.is_ascii_digit())) {
        return None;
    }
    let figures: Option<Vec<Vec<Figure>>> = parts.into_iter().map(number).collect();
    figures.map(|figures| figures.concat())
}

/// A date in one piece: the day first with points, or the year first with hyphens.
fn date(piece: &str) -> Option<String> {
    let numbers = |separator| -> Option<[&str; 3]> {
        let parts: Vec<&str> = piece.split(separator).collect();
        let all_digits = parts.iter().all(|part| is_digits(part));
        parts.try_into().ok().filter(|_| all_digits)
    };
    if let Some([year, month, day]) = numbers('-').filter(|[year, ..]| year.len() == 4) {
        return self::day(year, month, day);
    }
    let [day, month, year] = numbers('.').filter(|[.., year]| year.len() == 4)?;
    self::day(year, month, day)
}

/// A day as it is compared, if there may be such a day; the year may be empty.
pub(super) fn day(year: &str, month: &str, day: &str) -> Option<String> {
    let in_range =
        |text: &str, most: u32| text.len() <= 2 && text.parse::<u32>().is_ok_and(|number| (1..=most).contains(&number));
    (in_range(month, 12) && in_range(day, 31)).then(|| format!("{year}-{month:0>2}-{day:0>2}"))
}

/// `5`, `-5`, `1,5`, `10:30`, `$100`, `50%`, `5kg`, `5-кг`, `2nd`, `2-го`, `№5`.
fn number(piece: &str) -> Option<Vec<Figure>> {
    let first_digit = piece.find(|c: char| c.is_ascii_digit())?;
    let (before, rest) = piece.split_at(first_digit);
    let end = rest.rfind(|c: char| c.is_ascii_digit())? + 1;
    let (digits, after) = rest.split_at(end);
    if digits.split(['.', ',', ':']).any(|part| !is_digits(part)) {
        return None;
    }
    let mut figures = Vec::new();
    let sign = match before {
        "" | "№" | "#" | "+" => "",
        "-" | "−" => "-",
        currency => {
            let Some(Sense::Unit(unit)) = words::sense(currency) else { return None };
            figures.push(Figure::Unit(unit.to_owned()));
            ""
        }
    };
    figures.insert(0, Figure::Number(format!("{sign}{}", decimal(digits))));
    let (suffix, hyphen) = after.strip_prefix('-').map_or((after, false), |suffix| (suffix, true));
    let suffix = suffix.to_lowercase();
    let letters = suffix.chars().all(char::is_alphabetic);
    let metres = suffix == "м" && !hyphen;
    if suffix.is_empty() || (letters && !metres && ORDINALS.split(' ').any(|ending| ending == suffix)) {
        return (!(hyphen && suffix.is_empty())).then_some(figures);
    }
    match (words::short_unit(&suffix), words::sense(&suffix)) {
        (Some(unit), _) | (None, Some(Sense::Unit(unit))) => figures.push(Figure::Unit(unit.to_owned())),
        (None, _) if letters => figures.push(Figure::Unit(suffix)),
        _ => return None,
    }
    Some(figures)
}

/// With a point for a decimal comma. Three digits after a comma may be thousands: that stays as it is written.
fn decimal(digits: &str) -> String {
    match digits.split_once(',') {
        Some((whole, part)) if is_digits(whole) && is_digits(part) && part.len() != 3 => format!("{whole}.{part}"),
        _ => digits.to_owned(),
    }
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_as_they_are_meant() {
        let told = |piece: &str| -> Option<String> {
            let words = read(piece)?.into_iter().map(|figure| match figure {
                Figure::Date(text) => format!("date {text}"),
                Figure::Number(text) => text,
                Figure::Unit(text) => format!("unit {text}"),
            });
            Some(words.collect::<Vec<_>>().join(", "))
        };
        for (piece, said) in [
            ("5", "5"),
            ("-5", "-5"),
            ("1,5", "1.5"),
            ("1,500", "1,500"),
            ("10:30", "10:30"),
            ("50%", "50, unit percent"),
            ("$100", "100, unit usd"),
            ("100₽", "100, unit rub"),
            ("5кг", "5, unit kg"),
            ("5м", "5, unit m"),
            ("5-м", "5"),
            ("14-day", "14, unit day"),
            ("2nd", "2"),
            ("2-го", "2"),
            ("№7", "7"),
            ("10–15%", "10, 15, unit percent"),
            ("8-800-555-35-35", "8, 800, 555, 35, 35"),
            ("12.03.2024", "date 2024-03-12"),
            ("2024-03-12", "date 2024-03-12"),
            ("32.03.2024", "32.03.2024"),
        ] {
            assert_eq!(told(piece).as_deref(), Some(said), "{piece}");
        }
        for piece in ["GPT-4", "A4", "x86_64", "5.", "1.2.a", "5-", "٣", "3/4", "1e5x!"] {
            assert_eq!(told(piece), None, "{piece}");
        }
    }
}
