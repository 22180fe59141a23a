//! Cuts a text into what is quoted, code included, and the bare words between. Knows no words.

/// A part of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// What stands in quotation marks or backticks.
    Quoted(&'a str),
    /// What stands between blanks, with its punctuation.
    Bare {
        /// As it is written.
        text: &'a str,
        /// It opens a sentence, so that a capital says little.
        first: bool,
    },
}

/// The parts of a text in their order.
pub(super) fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut found = Vec::new();
    let (mut begin, mut at, mut first) = (0, 0, true);
    while let Some(c) = text[at..].chars().next() {
        let after = at + c.len_utf8();
        match quoted(&text[..at], &text[at..]) {
            Some((open, content, whole)) => {
                bare(&text[begin..at], &mut first, &mut found);
                found.push(Piece::Quoted(&text[at + open..at + open + content]));
                first = false;
                at += whole;
                begin = at;
            }
            None => at = after,
        }
    }
    bare(&text[begin..], &mut first, &mut found);
    found
}

/// Longer quotations are read as words, bytes.
const MOST_QUOTED: usize = 1000;

/// A quotation that `text` begins with: bytes of its opening mark, of what it says, and of all.
fn quoted(before: &str, text: &str) -> Option<(usize, usize, usize)> {
    let text = &text[..text.floor_char_boundary(MOST_QUOTED)];
    let open = text.chars().next()?;
    let closers: &[char] = match open {
        '"' => &['"'],
        '«' => &['»'],
        '“' => &['”'],
        '„' => &['“', '”'],
        '`' => {
            let ticks = &text[..text.len() - text.trim_start_matches('`').len()];
            let content = text[ticks.len()..].find(ticks)?;
            return Some((ticks.len(), content, 2 * ticks.len() + content));
        }
        // An apostrophe stands inside a word or ends one.
        '\'' if !before.ends_with(char::is_alphanumeric) => &['\''],
        '‘' if !before.ends_with(char::is_alphanumeric) => &['’'],
        _ => return None,
    };
    let open = open.len_utf8();
    let ends = |(at, c): &(usize, char)| {
        let next = text[open + at + c.len_utf8()..].chars().next();
        closers.contains(c) && (!matches!(c, '\'' | '’') || !next.is_some_and(char::is_alphanumeric))
    };
    let (content, closer) = text[open..].char_indices().find(ends)?;
    Some((open, content, open + content + closer.len_utf8()))
}

fn bare<'a>(text: &'a str, first: &mut bool, found: &mut Vec<Piece<'a>>) {
    for (index, line) in text.split('\n').enumerate() {
        *first |= index > 0;
        for text in line.split_whitespace() {
            found.push(Piece::Bare { text, first: *first });
            *first = text.ends_with(['.', '!', '?', '…', ':', ';']);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotations_are_found_and_apostrophes_are_none() {
        let told = |text: &'static str| -> Vec<String> {
            let told = |piece: Piece<'_>| match piece {
                Piece::Quoted(text) => format!("<{text}>"),
                Piece::Bare { text, first: true } => format!("^{text}"),
                Piece::Bare { text, .. } => text.to_owned(),
            };
            pieces(text).into_iter().map(told).collect()
        };
        assert_eq!(told("Open \"the file\". Then go"), ["^Open", "<the file>", ".", "^Then", "go"]);
        assert_eq!(told("the users' guide, don't 'do it'"), ["^the", "users'", "guide,", "don't", "<do it>"]);
        assert_eq!(told("«Склад 3» и „Касса“\nДа"), ["<Склад 3>", "и", "<Касса>", "^Да"]);
        assert_eq!(told("run `ls -l` or ```a `b` c```"), ["^run", "<ls -l>", "or", "<a `b` c>"]);
        assert_eq!(told("5\" pipe ` and «"), ["^5\"", "pipe", "`", "and", "«"]);
    }
}
