//! Template values as JSON the way Python's `json.dumps(…, ensure_ascii=False)` spells it: a space after commas and
//! colons, nothing escaped that need not be.

use std::fmt::Write as _;

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};

/// Longest JSON text written.
const MAX_BYTES: usize = 32 << 20;
/// Deepest nesting; JSON from a request has at most 128 levels.
const MAX_DEPTH: usize = 256;
/// Widest indentation.
const MAX_INDENT: usize = 16;

/// Writes `value`; `indent` breaks lines as Python does.
pub(super) fn to_json(value: &Value, indent: Option<usize>, sort_keys: bool) -> Result<String, Error> {
    let indent = indent.map(|width| width.min(MAX_INDENT));
    let mut writer = Writer { out: String::new(), indent, sort_keys };
    writer.value(value, 0)?;
    Ok(writer.out)
}

struct Writer {
    out: String,
    indent: Option<usize>,
    sort_keys: bool,
}

impl Writer {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH || self.out.len() > MAX_BYTES {
            return Err(Error::new(ErrorKind::InvalidOperation, "a value is too large to be written as JSON"));
        }
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.number(value),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.bracketed('[', ']', items.len(), depth, |writer, at| writer.value(&items[at], depth + 1))?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort_keys {
                    keys.sort();
                }
                self.bracketed('{', '}', keys.len(), depth, |writer, at| {
                    writer.string(&keys[at].to_string());
                    writer.out.push_str(": ");
                    writer.value(&value.get_item(&keys[at])?, depth + 1)
                })?;
            }
            kind => {
                return Err(Error::new(ErrorKind::InvalidOperation, format!("{kind} cannot be written as JSON")));
            }
        }
        Ok(())
    }

    fn bracketed(
        &mut self,
        open: char,
        close: char,
        count: usize,
        depth: usize,
        mut item: impl FnMut(&mut Self, usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.out.push(open);
        for at in 0..count {
            if at > 0 {
                self.out.push_str(if self.indent.is_some() { "," } else { ", " });
            }
            self.new_line(depth + 1);
            item(self, at)?;
        }
        if count > 0 {
            self.new_line(depth);
        }
        self.out.push(close);
        Ok(())
    }

    fn new_line(&mut self, depth: usize) {
        if let Some(width) = self.indent {
            self.out.push('\n');
            self.out.extend(std::iter::repeat_n(' ', width * depth));
        }
    }

    fn number(&mut self, value: &Value) {
        let text = match f64::try_from(value.clone()) {
            Ok(float) if !value.is_integer() => format!("{float:?}"),
            _ => value.to_string(),
        };
        self.out.push_str(&text);
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for character in text.chars() {
            match character {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                control if control < ' ' => {
                    let _ = write!(self.out, "\\u{:04x}", u32::from(control));
                }
                other => self.out.push(other),
            }
        }
        self.out.push('"');
    }
}
