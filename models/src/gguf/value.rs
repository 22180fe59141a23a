//! Metadata values of GGUF: decoded from the mapped bytes each time they are asked for, so that an array costs no
//! memory however long it is. Source: the GGUF specification (ggml).

use std::fmt;

use super::Parsed;
use super::cursor::Cursor;

/// Arrays of arrays may nest so deep.
const MAX_NESTING: usize = 4;

/// The type of a metadata value, by its id in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum ValueType {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    String = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl ValueType {
    const ALL: [Self; 13] = [
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::F32,
        Self::Bool,
        Self::String,
        Self::Array,
        Self::U64,
        Self::I64,
        Self::F64,
    ];

    pub(super) fn read(cursor: &mut Cursor) -> Parsed<Self> {
        let id = cursor.u32()?;
        let known = Self::ALL.get(id as usize).copied();
        known.ok_or_else(|| format!("{id} is no type of a metadata value"))
    }

    /// The fewest bytes that one value takes.
    const fn min_bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 | Self::String => 8,
            Self::Array => 12,
        }
    }
}

/// A metadata value, borrowed from the file.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Value<'a> {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    String(&'a str),
    Array(Array<'a>),
}

/// A metadata array whose elements are decoded as they are walked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Array<'a> {
    element: ValueType,
    len: usize,
    bytes: &'a [u8],
}

impl<'a> Value<'a> {
    /// Decodes a value of type `kind`; of an array every element is walked and checked.
    pub(super) fn read(cursor: &mut Cursor<'a>, kind: ValueType) -> Parsed<Self> {
        Self::read_nested(cursor, kind, 0)
    }

    fn read_nested(cursor: &mut Cursor<'a>, kind: ValueType, depth: usize) -> Parsed<Self> {
        Ok(match kind {
            ValueType::U8 => Self::Unsigned(cursor.u8()?.into()),
            ValueType::I8 => Self::Signed((cursor.u8()? as i8).into()),
            ValueType::U16 => Self::Unsigned(cursor.u16()?.into()),
            ValueType::I16 => Self::Signed((cursor.u16()? as i16).into()),
            ValueType::U32 => Self::Unsigned(cursor.u32()?.into()),
            ValueType::I32 => Self::Signed((cursor.u32()? as i32).into()),
            ValueType::F32 => Self::Float(f32::from_bits(cursor.u32()?).into()),
            ValueType::U64 => Self::Unsigned(cursor.u64()?),
            ValueType::I64 => Self::Signed(cursor.u64()? as i64),
            ValueType::F64 => Self::Float(f64::from_bits(cursor.u64()?)),
            ValueType::String => Self::String(cursor.string()?),
            ValueType::Bool => match cursor.u8()? {
                0 => Self::Bool(false),
                1 => Self::Bool(true),
                other => return Err(format!("{other} is neither true (1) nor false (0)")),
            },
            ValueType::Array => Self::Array(Array::read(cursor, depth)?),
        })
    }

    /// The value as a whole number that is not negative.
    pub(crate) fn as_u64(self) -> Option<u64> {
        match self {
            Self::Unsigned(value) => Some(value),
            Self::Signed(value) => value.try_into().ok(),
            _ => None,
        }
    }

    /// The value as a number.
    pub(crate) fn as_f64(self) -> Option<f64> {
        match self {
            Self::Float(value) => Some(value),
            Self::Unsigned(value) => Some(value as f64),
            Self::Signed(value) => Some(value as f64),
            _ => None,
        }
    }
}

impl<'a> Array<'a> {
    fn read(cursor: &mut Cursor<'a>, depth: usize) -> Parsed<Self> {
        if depth == MAX_NESTING {
            return Err(format!("arrays are nested more than {MAX_NESTING} deep"));
        }
        let element = ValueType::read(cursor)?;
        let count = cursor.u64()?;
        // Before any loop: a count that the rest of the file cannot hold is refused at once.
        let fits = usize::try_from(count).ok().filter(|len| *len <= cursor.remaining() / element.min_bytes());
        let len = fits.ok_or_else(|| {
            format!("an array claims {count} elements, more than the remaining {} bytes can hold", cursor.remaining())
        })?;
        let start = cursor.position();
        for _ in 0..len {
            Value::read_nested(cursor, element, depth + 1)?;
        }
        Ok(Self { element, len, bytes: cursor.since(start) })
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The elements in order.
    pub(crate) fn iter(self) -> impl Iterator<Item = Parsed<Value<'a>>> {
        let mut cursor = Cursor::new(self.bytes, 0);
        (0..self.len).map(move |_| Value::read(&mut cursor, self.element))
    }
}

impl fmt::Display for Value<'_> {
    /// Scalars and text in full; of an array its type, its length and its first elements.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsigned(value) => value.fmt(f),
            Self::Signed(value) => value.fmt(f),
            // Nearly all came as f32 and read best as one.
            Self::Float(value) => (*value as f32).fmt(f),
            Self::Bool(value) => value.fmt(f),
            Self::String(value) => value.fmt(f),
            Self::Array(array) => {
                write!(f, "[")?;
                for value in array.iter().take(6).flatten() {
                    match value {
                        Self::String(text) => write!(f, "{text:?}, ")?,
                        other => write!(f, "{other}, ")?,
                    }
                }
                write!(f, "… {} in all]", array.len())
            }
        }
    }
}
