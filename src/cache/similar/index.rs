//! The questions of one partition, the newest first, and their bytes: version (1), dimensions of a vector (2), then for each
//! question the name of its answer (32), guard (32), when it was answered (milliseconds since 1970, 8), its user (length in
//! 1, text) and vector (f16, 2 for each dimension). All little-endian.

use std::collections::BTreeSet;
use std::time::Duration;

use half::f16;
use half::slice::HalfFloatSliceExt as _;

use super::{Guard, Near, Origin, Question, Similar};
use crate::store::{Moment, now};

const VERSION: u8 = 1;
const HEAD_BYTES: usize = 3;

/// The questions of one partition.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Index {
    entries: Vec<Entry>,
}

/// A question that was answered.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    identity: [u8; 32],
    guard: [u8; 32],
    made: Moment,
    user_id: String,
    vector: Vec<f16>,
}

impl Entry {
    /// Of a question that is answered now; none where it could not be kept.
    pub fn new(question: &Question, origin: Origin<'_>) -> Option<Self> {
        let fits = u8::try_from(origin.user_id.len()).is_ok() && u16::try_from(question.vector.len()).is_ok();
        Some(Self {
            identity: bytes(origin.identity).filter(|_| fits)?,
            guard: question.guard.0,
            made: now(),
            user_id: origin.user_id.to_owned(),
            vector: question.vector.iter().copied().map(f16::from_f32).collect(),
        })
    }

    fn len(&self) -> usize {
        32 + 32 + 8 + 1 + self.user_id.len() + 2 * self.vector.len()
    }

    fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.extend(self.identity);
        bytes.extend(self.guard);
        bytes.extend(self.made.to_le_bytes());
        bytes.push(self.user_id.len() as u8);
        bytes.extend(self.user_id.as_bytes());
        bytes.extend(self.vector.iter().flat_map(|value| value.to_le_bytes()));
    }

    fn decode(bytes: &[u8], dimensions: usize) -> Option<(Self, &[u8])> {
        let (identity, bytes) = bytes.split_first_chunk()?;
        let (guard, bytes) = bytes.split_first_chunk()?;
        let (made, bytes) = bytes.split_first_chunk()?;
        let (&user_len, bytes) = bytes.split_first()?;
        let (user_id, bytes) = bytes.split_at_checked(usize::from(user_len))?;
        let (vector, bytes) = bytes.split_at_checked(2 * dimensions)?;
        let (values, _) = vector.as_chunks();
        let entry = Self {
            identity: *identity,
            guard: *guard,
            made: Moment::from_le_bytes(*made),
            user_id: String::from_utf8(user_id.to_vec()).ok()?,
            vector: values.iter().copied().map(f16::from_le_bytes).collect(),
        };
        Some((entry, bytes))
    }
}

impl Index {
    /// What is not older than `time_to_live` of an index's bytes.
    pub fn decode(bytes: &[u8], now: Moment, time_to_live: Duration) -> Option<Self> {
        let (&[version, low, high], mut bytes) = bytes.split_first_chunk::<HEAD_BYTES>()?;
        if version != VERSION {
            return None;
        }
        let dimensions = usize::from(u16::from_le_bytes([low, high]));
        let mut entries = Vec::new();
        while !bytes.is_empty() {
            let (entry, rest) = Entry::decode(bytes, dimensions)?;
            if i128::from(now.saturating_sub(entry.made)) < time_to_live.as_millis() as i128 {
                entries.push(entry);
            }
            bytes = rest;
        }
        Some(Self { entries })
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.len());
        bytes.push(VERSION);
        bytes.extend((self.dimensions() as u16).to_le_bytes());
        self.entries.iter().for_each(|entry| entry.encode(&mut bytes));
        bytes
    }

    fn dimensions(&self) -> usize {
        self.entries.first().map_or(0, |entry| entry.vector.len())
    }

    /// Of its bytes.
    fn len(&self) -> usize {
        HEAD_BYTES + self.entries.iter().map(Entry::len).sum::<usize>()
    }

    /// Puts a question first. Those go that are beyond either bound, or whose vectors another model has made.
    pub fn put(&mut self, entry: Entry, most_entries: usize, most_bytes: usize) {
        self.entries.retain(|old| old.identity != entry.identity && old.vector.len() == entry.vector.len());
        self.entries.insert(0, entry);
        self.entries.truncate(most_entries);
        while self.len() > most_bytes && self.entries.pop().is_some() {}
    }

    /// Whose questions these are.
    pub fn users(&self) -> BTreeSet<String> {
        self.entries.iter().map(|entry| entry.user_id.clone()).collect()
    }

    /// Looks at each question.
    pub fn similar(&self, question: &Question, threshold: f32) -> Similar {
        let dimensions = question.vector.len();
        let mut values = vec![0.0; dimensions];
        let (mut found, mut guarded) = (Vec::new(), false);
        for entry in self.entries.iter().filter(|entry| entry.vector.len() == dimensions) {
            entry.vector.convert_to_f32_slice(&mut values);
            let similarity: f32 = values.iter().zip(&question.vector).map(|(one, other)| one * other).sum();
            if similarity >= threshold {
                if Guard(entry.guard) == question.guard {
                    found.push(Near { identity: hex::encode(entry.identity), similarity });
                } else {
                    guarded = true;
                }
            }
        }
        found.sort_by(|one, other| other.similarity.total_cmp(&one.similarity));
        match (found.is_empty(), guarded) {
            (false, _) => Similar::Found(found),
            (true, true) => Similar::Guarded,
            (true, false) => Similar::Nothing,
        }
    }
}

/// The bytes of a name.
pub(super) fn bytes(name: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(name, &mut bytes).ok().map(|()| bytes)
}
