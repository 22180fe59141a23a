//! Stop strings: matched in the stream of text across token boundaries, with nothing leaked past them.
//! Knows no tokens: the caller pushes the text of one token at a time and so learns at which token a stop completed.

use super::{Result, TextError};

/// Most stop strings one request may bring.
pub const MAX_STOP_STRINGS: usize = 16;

/// A set of stop strings and the text held back because it may be the beginning of one.
///
/// Of several matches the one that completes first wins (of those, the longest), so the result does not depend on how
/// the text is cut into pieces.
#[derive(Debug, Clone, Default)]
pub struct StopStrings {
    stops: Vec<String>,
    // Invariant: a proper prefix of some stop string, and the longest suffix of the text so far that is one.
    held: String,
}

/// What one piece of text leads to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StopStep {
    /// Text now safe to show.
    pub text: String,
    /// The stop string that this piece completed. The answer ends here; `text` stops short of it.
    pub matched: Option<String>,
}

impl StopStrings {
    /// Takes at most [`MAX_STOP_STRINGS`] strings, none of them empty.
    pub fn new(stops: Vec<String>) -> Result<Self> {
        if stops.len() > MAX_STOP_STRINGS {
            let message = format!("stop has {} strings; at most {MAX_STOP_STRINGS} are allowed", stops.len());
            return Err(TextError::Stop(message));
        }
        if stops.iter().any(String::is_empty) {
            return Err(TextError::Stop("stop contains an empty string; leave it out".into()));
        }
        Ok(Self { stops, held: String::new() })
    }

    /// Adds the text of the next token.
    pub fn push(&mut self, piece: &str) -> StopStep {
        if self.stops.is_empty() {
            return StopStep { text: piece.to_owned(), matched: None };
        }
        let mut text = std::mem::take(&mut self.held);
        text.push_str(piece);
        if let Some((start, stop)) = self.first_match(&text) {
            let matched = Some(stop.to_owned());
            text.truncate(start);
            return StopStep { text, matched };
        }
        let keep = self.longest_beginning(&text);
        self.held = text.split_off(text.len() - keep);
        StopStep { text, matched: None }
    }

    /// The text still held back when the answer ends for another reason.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    fn first_match(&self, text: &str) -> Option<(usize, &str)> {
        self.stops
            .iter()
            .filter_map(|stop| text.find(stop.as_str()).map(|start| (start, stop.as_str())))
            .min_by_key(|(start, stop)| (start + stop.len(), *start))
    }

    /// Bytes of the longest suffix of `text` that is a proper prefix of a stop string.
    fn longest_beginning(&self, text: &str) -> usize {
        let longest = self.stops.iter().map(|stop| stop.len() - 1).max().unwrap_or(0);
        (1..=longest.min(text.len()))
            .rev()
            .find(|&len| {
                let suffix = &text.as_bytes()[text.len() - len..];
                self.stops.iter().any(|stop| stop.len() > len && stop.as_bytes().starts_with(suffix))
            })
            .unwrap_or(0)
    }
}
