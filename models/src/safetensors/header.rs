//! The table at the head of a safetensors file: JSON of bounded size, every range proved to lie in the file, the data
//! covered exactly. Source: <https://github.com/huggingface/safetensors#format>.

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;

use kernels::GgmlType;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

/// Headers of the largest models are some MiB long; a hostile one's table stays within a few times this.
const MAX_HEADER_BYTES: u64 = 8 << 20;
const MAX_TENSORS: usize = 1 << 16;
const MAX_DIMENSIONS: usize = 8;

/// One tensor; `range` is exactly its bytes in the file.
#[derive(Debug)]
pub(crate) struct HeaderEntry {
    pub(crate) name: String,
    pub(crate) ggml_type: GgmlType,
    pub(crate) shape: Vec<usize>,
    pub(crate) range: Range<usize>,
}

/// Reads and proves the table of a whole file. The message of an error lacks only the file's name.
pub(crate) fn parse(bytes: &[u8]) -> Result<Vec<HeaderEntry>, String> {
    let (len, rest) = bytes.split_first_chunk().ok_or("header: the file ends before the header's length")?;
    let len = u64::from_le_bytes(*len);
    if len > MAX_HEADER_BYTES {
        return Err(format!("header: {len} bytes are claimed; at most {MAX_HEADER_BYTES} are read"));
    }
    let text = rest.get(..len as usize);
    let text = text.ok_or_else(|| format!("header: {len} bytes are claimed but {} follow", rest.len()))?;
    let Table(rows) = serde_json::from_slice(text).map_err(|e| format!("header: {e}"))?;
    let start = 8 + len as usize;
    let mut entries = rows.into_iter().map(|row| row.place(start, bytes.len())).collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(|entry| entry.range.start);
    check_cover(&entries, start..bytes.len())?;
    Ok(entries)
}

/// The data is covered without overlap or gap, as the format demands.
fn check_cover(entries: &[HeaderEntry], data: Range<usize>) -> Result<(), String> {
    let mut end = data.start;
    let mut before = "the header";
    for entry in entries {
        let name = &entry.name;
        if entry.range.start < end {
            return Err(format!("tensors {before} and {name} overlap"));
        }
        if entry.range.start > end {
            return Err(format!("tensor {name}: {} bytes before it belong to no tensor", entry.range.start - end));
        }
        (end, before) = (entry.range.end, name);
    }
    match data.end - end {
        0 => Ok(()),
        rest => Err(format!("{rest} bytes at the end of the file belong to no tensor")),
    }
}

/// The header as JSON: rows in order, names all different.
struct Table(Vec<Row>);

struct Row {
    name: String,
    descriptor: Descriptor,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Descriptor {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

impl Row {
    fn place(self, data_start: usize, file_len: usize) -> Result<HeaderEntry, String> {
        let Self { name, descriptor: Descriptor { dtype, shape, data_offsets: (start, end) } } = self;
        let at = |message: String| format!("tensor {}: {message}", name.escape_debug());
        let known = [GgmlType::F32, GgmlType::F16, GgmlType::BF16].into_iter().find(|t| t.name() == dtype);
        let ggml_type = known.ok_or_else(|| at(format!("type {} does not run here", dtype.escape_debug())))?;
        if shape.len() > MAX_DIMENSIONS {
            return Err(at(format!("it has {} dimensions; at most {MAX_DIMENSIONS} are read", shape.len())));
        }
        if shape.contains(&0) {
            return Err(at(format!("a dimension of its shape {shape:?} is zero")));
        }
        let bytes = shape.iter().try_fold(ggml_type.block_bytes() as u64, |n, size| n.checked_mul(*size));
        if end.checked_sub(start) != bytes || bytes.is_none() {
            return Err(at(format!("its offsets {start} to {end} do not fit {dtype} values of shape {shape:?}")));
        }
        let moved = |offset: u64| usize::try_from(offset).ok()?.checked_add(data_start).filter(|at| *at <= file_len);
        let (Some(start), Some(end)) = (moved(start), moved(end)) else {
            return Err(at("its data reaches beyond the end of the file; is it cut short?".into()));
        };
        // Each dimension divides a size inside the file, so it fits.
        let shape = shape.into_iter().map(|size| size as usize).collect();
        Ok(HeaderEntry { name, ggml_type, shape, range: start..end })
    }
}

impl<'de> Deserialize<'de> for Table {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(TableVisitor)
    }
}

struct TableVisitor;

impl<'de> Visitor<'de> for TableVisitor {
    type Value = Table;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a table of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Table, A::Error> {
        let mut rows = Vec::new();
        let mut seen = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if !seen.insert(name.clone()) {
                return Err(A::Error::custom(format!("{} is listed twice", name.escape_debug())));
            }
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            if rows.len() == MAX_TENSORS {
                return Err(A::Error::custom(format!("more than {MAX_TENSORS} tensors")));
            }
            let at_name = |e| A::Error::custom(format!("tensor {}: {e}", name.escape_debug()));
            let descriptor = map.next_value().map_err(at_name)?;
            rows.push(Row { name, descriptor });
        }
        Ok(Table(rows))
    }
}
