//! Keeps every event of the log in one line, whatever was in a path, a name or an error of somebody else's.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write};

use tracing_subscriber::fmt::MakeWriter;

/// Makes writers that escape what would break a line.
pub(super) struct OneLine<M>(pub M);

impl<'a, M: MakeWriter<'a>> MakeWriter<'a> for OneLine<M> {
    type Writer = LineWriter<M::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        LineWriter(self.0.make_writer())
    }

    fn make_writer_for(&'a self, metadata: &tracing::Metadata<'_>) -> Self::Writer {
        LineWriter(self.0.make_writer_for(metadata))
    }
}

/// Takes a whole event with the line's end in each write, as `tracing_subscriber` gives them.
pub(super) struct LineWriter<W>(W);

impl<W: Write> Write for LineWriter<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        self.0.write_all(&one_line(event))?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// The event with `\u000a` for a line's end within it: an escape of JSON, and one that people know.
fn one_line(event: &[u8]) -> Cow<'_, [u8]> {
    let breaks = |character: char| character.is_control() || matches!(character, '\u{2028}' | '\u{2029}');
    let text = String::from_utf8_lossy(event);
    let line = text.strip_suffix('\n').unwrap_or(&text);
    if !line.contains(breaks) {
        return Cow::Borrowed(event);
    }
    let mut escaped = String::with_capacity(event.len() + 16);
    for character in line.chars() {
        if breaks(character) {
            let _ = write!(escaped, "\\u{:04x}", u32::from(character));
        } else {
            escaped.push(character);
        }
    }
    escaped.push_str(&text[line.len()..]);
    Cow::Owned(escaped.into_bytes())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().map_err(|_| io::ErrorKind::Other)?.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Log {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    /// What is logged of a hostile name, as text or as JSON.
    fn logged(json: bool) -> String {
        let log = Log::default();
        let logs = tracing_subscriber::fmt().with_writer(OneLine(log.clone())).with_ansi(false);
        let work = || {
            let name = "x\n2026 INFO forged\r\u{1b}[2J\u{7f}\u{85}\u{2028}я";
            tracing::error!(path = name, error = %name, "told: {name}");
            tracing::info!("next");
        };
        if json {
            tracing::subscriber::with_default(logs.json().finish(), work);
        } else {
            tracing::subscriber::with_default(logs.finish(), work);
        }
        let bytes = log.0.lock().map(|bytes| bytes.clone()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    #[test]
    fn an_event_is_one_line() {
        for json in [false, true] {
            let text = logged(json);
            let lines: Vec<&str> = text.split_terminator('\n').collect();
            assert_eq!(lines.len(), 2, "{text:?}");
            for line in &lines {
                assert!(!line.contains(|c: char| c.is_control() || c == '\u{2028}'), "{line:?}");
                assert!(!json || serde_json::from_str::<serde_json::Value>(line).is_ok(), "{line}");
            }
            assert!(lines[0].contains("forged") && lines[0].contains('я'), "{text}");
        }
    }
}
