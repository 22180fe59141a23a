//! The table of a GGUF file: header, metadata entries and tensors, with every range proved to lie inside the file and
//! no two tensors sharing a byte. Holds positions only; what the values mean is read elsewhere.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use kernels::GgmlType;

use super::Parsed;
use super::cursor::Cursor;
use super::value::{Value, ValueType};

/// Far beyond any real model, and small enough that the table of a hostile file stays within a few MiB.
const MAX_ENTRIES: u64 = 1 << 16;
const MAX_TENSORS: u64 = 1 << 16;
const MAX_KEY_BYTES: usize = 65_535;
const MAX_NAME_BYTES: usize = 64;
const MAX_DIMENSIONS: u32 = 4;
const MAX_ALIGNMENT: u64 = 1 << 16;
const DEFAULT_ALIGNMENT: u64 = 32;

/// One metadata entry: where its key and its value lie.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: Range<usize>,
    pub(super) kind: ValueType,
    pub(super) value: Range<usize>,
}

/// One tensor: `range` is exactly its bytes.
#[derive(Debug)]
pub(super) struct TensorEntry {
    pub(super) name: String,
    pub(super) ggml_type: GgmlType,
    /// Row-major, outputs first: the reverse of the order in the file.
    pub(super) shape: Vec<usize>,
    pub(super) range: Range<usize>,
}

/// Everything that precedes the tensors' data.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) version: u32,
    pub(super) entries: Vec<Entry>,
    pub(super) tensors: Vec<TensorEntry>,
    pub(super) index: HashMap<String, usize>,
}

impl Table {
    /// Reads and proves the table of a whole file.
    pub(super) fn parse(bytes: &[u8]) -> Parsed<Self> {
        let mut cursor = Cursor::new(bytes, 0);
        let version = read_version(&mut cursor)?;
        let num_tensors = cursor.u64().map_err(|e| format!("header: {e}"))?;
        let num_entries = cursor.u64().map_err(|e| format!("header: {e}"))?;
        if num_tensors > MAX_TENSORS {
            return Err(format!("header: {num_tensors} tensors are claimed; at most {MAX_TENSORS} are read"));
        }
        if num_entries > MAX_ENTRIES {
            return Err(format!("header: {num_entries} metadata keys are claimed; at most {MAX_ENTRIES} are read"));
        }
        let (entries, alignment) = read_entries(&mut cursor, num_entries)?;
        let mut tensors = Vec::new();
        let mut index = HashMap::new();
        for number in 0..num_tensors {
            let tensor = read_tensor(&mut cursor, number, alignment)?;
            if index.insert(tensor.name.clone(), tensors.len()).is_some() {
                return Err(format!("tensor {} is listed twice", tensor.name));
            }
            tensors.push(tensor);
        }
        let data = cursor.position().next_multiple_of(alignment as usize);
        place(&mut tensors, data, bytes.len())?;
        Ok(Self { version, entries, tensors, index })
    }
}

fn read_version(cursor: &mut Cursor) -> Parsed<u32> {
    if cursor.take(4).is_ok_and(|magic| magic != b"GGUF") {
        return Err("this is not a GGUF file: it does not begin with the letters GGUF".into());
    }
    match cursor.u32().map_err(|e| format!("header: {e}"))? {
        version @ (2 | 3) => Ok(version),
        1 => Err("GGUF version 1 is not read any more: convert the model anew".into()),
        version if matches!(version.swap_bytes(), 1..=3) => {
            Err("this GGUF file is big-endian; only little-endian files are read".into())
        }
        version => Err(format!("GGUF version {version} is unknown; versions 2 and 3 are read")),
    }
}

/// Metadata entries, and the alignment among them.
fn read_entries(cursor: &mut Cursor, count: u64) -> Parsed<(Vec<Entry>, u64)> {
    let mut entries = Vec::new();
    let mut seen = HashSet::new();
    let mut alignment = DEFAULT_ALIGNMENT;
    for number in 0..count {
        let key = cursor.string().map_err(|e| format!("metadata key {number}: {e}"))?;
        let key_end = cursor.position();
        if key.is_empty() || key.len() > MAX_KEY_BYTES {
            return Err(format!("metadata key {number}: its length is {} bytes", key.len()));
        }
        if !seen.insert(key) {
            return Err(format!("metadata key {} appears twice", shown(key)));
        }
        let in_key = |e| format!("metadata key {}: {e}", shown(key));
        let kind = ValueType::read(cursor).map_err(in_key)?;
        let start = cursor.position();
        let value = Value::read(cursor, kind).map_err(in_key)?;
        if key == "general.alignment" {
            let wanted = value.as_u64().filter(|a| a.is_power_of_two() && (8..=MAX_ALIGNMENT).contains(a));
            alignment =
                wanted.ok_or_else(|| in_key(format!("{value} is no power of two from 8 to {MAX_ALIGNMENT}")))?;
        }
        entries.push(Entry { key: key_end - key.len()..key_end, kind, value: start..cursor.position() });
    }
    Ok((entries, alignment))
}

/// One row of the tensor table; its range counts from the start of the data until [`place`] moves it.
fn read_tensor(cursor: &mut Cursor, number: u64, alignment: u64) -> Parsed<TensorEntry> {
    let name = cursor.string().map_err(|e| format!("name of tensor {number}: {e}"))?;
    if name.is_empty() || name.len() > MAX_NAME_BYTES {
        return Err(format!("name of tensor {number}: its length is {} bytes; 1 to {MAX_NAME_BYTES} are", name.len()));
    }
    let at = |e| format!("tensor {}: {e}", shown(name));
    let num_dimensions = cursor.u32().map_err(at)?;
    if !(1..=MAX_DIMENSIONS).contains(&num_dimensions) {
        return Err(at(format!("it has {num_dimensions} dimensions; 1 to {MAX_DIMENSIONS} are read")));
    }
    let mut shape = Vec::with_capacity(num_dimensions as usize);
    for _ in 0..num_dimensions {
        let size = cursor.u64().map_err(at)?;
        shape.push(usize::try_from(size).map_err(|_| at(format!("a dimension of {size} is too large")))?);
    }
    let id = cursor.u32().map_err(at)?;
    let offset = cursor.u64().map_err(at)?;
    let ggml_type = GgmlType::from_id(id).ok_or_else(|| at(format!("type {} does not run here", type_name(id))))?;
    if !offset.is_multiple_of(alignment) {
        return Err(at(format!("its offset {offset} is no multiple of the alignment {alignment}")));
    }
    let offset = usize::try_from(offset).map_err(|_| at(format!("its offset {offset} is too large")))?;
    let len = data_bytes(ggml_type, &shape).map_err(at)?;
    let end = offset.checked_add(len).ok_or_else(|| at("its end is beyond any file".into()))?;
    shape.reverse();
    Ok(TensorEntry { name: name.to_owned(), ggml_type, shape, range: offset..end })
}

/// Bytes of a tensor whose dimensions are in the file's order, the contiguous one first.
fn data_bytes(ggml_type: GgmlType, dimensions: &[usize]) -> Parsed<usize> {
    if dimensions.contains(&0) {
        return Err(format!("a dimension of its shape {dimensions:?} is zero"));
    }
    if !dimensions[0].is_multiple_of(ggml_type.block_len()) {
        let (name, block) = (ggml_type.name(), ggml_type.block_len());
        return Err(format!("rows of {} elements do not divide into {name}'s blocks of {block}", dimensions[0]));
    }
    let blocks = dimensions[1..].iter().try_fold(dimensions[0] / ggml_type.block_len(), |n, d| n.checked_mul(*d));
    let bytes = blocks.and_then(|n| n.checked_mul(ggml_type.block_bytes()));
    bytes.ok_or_else(|| format!("its shape {dimensions:?} is larger than any file"))
}

/// Moves the ranges behind `data`, the start of the tensors' data, and proves that they end in the file and are
/// disjoint.
fn place(tensors: &mut [TensorEntry], data: usize, file_len: usize) -> Parsed<()> {
    for tensor in &mut *tensors {
        let moved = (tensor.range.start.checked_add(data), tensor.range.end.checked_add(data));
        match moved {
            (Some(start), Some(end)) if end <= file_len => tensor.range = start..end,
            _ => {
                let (name, len) = (&tensor.name, tensor.range.len());
                return Err(format!(
                    "tensor {name}: its {len} bytes reach beyond the end of the file; is it cut short?"
                ));
            }
        }
    }
    let mut order: Vec<&TensorEntry> = tensors.iter().collect();
    order.sort_by_key(|t| t.range.start);
    for pair in order.windows(2) {
        if pair[0].range.end > pair[1].range.start {
            return Err(format!("tensors {} and {} overlap", pair[0].name, pair[1].name));
        }
    }
    Ok(())
}

/// A name from the file, fit for one line of an error.
fn shown(name: &str) -> String {
    let mut text: String = name.chars().take(80).flat_map(char::escape_debug).collect();
    if name.chars().nth(80).is_some() {
        text.push('…');
    }
    text
}

/// ggml's name of any type id, of those that do not run here too.
fn type_name(id: u32) -> String {
    const OTHERS: [(u32, &str); 19] = [
        (9, "Q8_1"),
        (15, "Q8_K"),
        (16, "IQ2_XXS"),
        (17, "IQ2_XS"),
        (18, "IQ3_XXS"),
        (19, "IQ1_S"),
        (21, "IQ3_S"),
        (22, "IQ2_S"),
        (24, "I8"),
        (25, "I16"),
        (26, "I32"),
        (27, "I64"),
        (28, "F64"),
        (29, "IQ1_M"),
        (34, "TQ1_0"),
        (35, "TQ2_0"),
        (39, "MXFP4"),
        (40, "NVFP4"),
        (4, "Q4_2"),
    ];
    let known = OTHERS.iter().find(|(other, _)| *other == id);
    known.map_or_else(|| format!("number {id}"), |(_, name)| (*name).to_owned())
}
