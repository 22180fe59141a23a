//! Typed look-ups in a GGUF file's metadata; a value of the wrong type is an error that names its key.

use super::Parsed;
use super::cursor::Cursor;
use super::table::Entry;
use super::value::{Array, Value};

/// The metadata of one file.
#[derive(Clone, Copy)]
pub(crate) struct Metadata<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) entries: &'a [Entry],
}

impl<'a> Metadata<'a> {
    /// Keys and values in the file's order.
    pub(crate) fn iter(self) -> impl Iterator<Item = (&'a str, Value<'a>)> {
        self.entries.iter().filter_map(move |entry| Some((self.key(entry)?, self.value(entry).ok()?)))
    }

    fn key(self, entry: &Entry) -> Option<&'a str> {
        std::str::from_utf8(&self.bytes[entry.key.clone()]).ok()
    }

    fn value(self, entry: &Entry) -> Parsed<Value<'a>> {
        let bytes = &self.bytes[..entry.value.end];
        Value::read(&mut Cursor::new(bytes, entry.value.start), entry.kind)
    }

    /// The value of `key`, if there is one.
    pub(crate) fn get(self, key: &str) -> Parsed<Option<Value<'a>>> {
        let entry = self.entries.iter().find(|entry| &self.bytes[entry.key.clone()] == key.as_bytes());
        entry.map(|entry| self.value(entry).map_err(|e| format!("metadata key {key}: {e}"))).transpose()
    }

    fn typed<T>(self, key: &str, what: &str, read: impl Fn(Value<'a>) -> Option<T>) -> Parsed<Option<T>> {
        let Some(value) = self.get(key)? else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| format!("metadata key {key}: {what} is expected"))
    }

    /// A whole number that is not negative.
    pub(crate) fn u64(self, key: &str) -> Parsed<Option<u64>> {
        self.typed(key, "a whole number", Value::as_u64)
    }

    /// A finite number.
    pub(crate) fn f32(self, key: &str) -> Parsed<Option<f32>> {
        self.typed(key, "a finite number", |v| v.as_f64().map(|v| v as f32).filter(|v| v.is_finite()))
    }

    pub(crate) fn bool(self, key: &str) -> Parsed<Option<bool>> {
        self.typed(key, "true or false", |v| match v {
            Value::Bool(value) => Some(value),
            _ => None,
        })
    }

    pub(crate) fn str(self, key: &str) -> Parsed<Option<&'a str>> {
        self.typed(key, "text", |v| match v {
            Value::String(value) => Some(value),
            _ => None,
        })
    }

    pub(crate) fn array(self, key: &str) -> Parsed<Option<Array<'a>>> {
        self.typed(key, "an array", |v| match v {
            Value::Array(value) => Some(value),
            _ => None,
        })
    }
}
