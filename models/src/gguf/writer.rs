//! Writes GGUF v3 as a stream: first the header with all metadata and the table of tensors, then each tensor's bytes in
//! the table's order, in chunks of any size. Knows nothing of models. Source: the GGUF specification (ggml).

use std::io::{self, Write};

use kernels::GgmlType;

use super::value::ValueType;

const ALIGNMENT: usize = 32;

/// A metadata value to be written.
#[derive(Debug, Clone, Copy)]
pub(crate) enum MetadataValue<'a> {
    U32(u32),
    F32(f32),
    Bool(bool),
    String(&'a str),
    Strings(&'a [String]),
    F32s(&'a [f32]),
    I32s(&'a [i32]),
}

/// Everything before the tensors' data: filled first, then written whole.
#[derive(Debug, Default)]
pub(crate) struct GgufHeader {
    num_keys: u64,
    metadata: Vec<u8>,
    table: Vec<u8>,
    /// Bytes of each declared tensor.
    sizes: Vec<usize>,
    data_len: usize,
}

impl GgufHeader {
    /// Adds a metadata entry. Keys must differ; readers refuse a file that repeats one.
    pub(crate) fn set(&mut self, key: &str, value: MetadataValue) {
        put_string(&mut self.metadata, key);
        put_value(&mut self.metadata, value);
        self.num_keys += 1;
    }

    /// Declares the next tensor. `shape` is row-major, outputs first; its last dimension must divide into blocks of
    /// `ggml_type`.
    pub(crate) fn tensor(&mut self, name: &str, ggml_type: GgmlType, shape: &[usize]) {
        put_string(&mut self.table, name);
        self.table.extend((shape.len() as u32).to_le_bytes());
        for size in shape.iter().rev() {
            self.table.extend((*size as u64).to_le_bytes());
        }
        self.table.extend(ggml_type.id().to_le_bytes());
        self.table.extend((self.data_len as u64).to_le_bytes());
        let size = shape.iter().product::<usize>() / ggml_type.block_len() * ggml_type.block_bytes();
        self.sizes.push(size);
        self.data_len += size.next_multiple_of(ALIGNMENT);
    }

    /// Bytes of all tensors together, padding included.
    pub(crate) fn data_len(&self) -> usize {
        self.data_len
    }

    /// Writes the header; the data follows through the returned writer.
    pub(crate) fn write<W: Write>(self, mut out: W) -> io::Result<GgufData<W>> {
        let mut start = Vec::with_capacity(24);
        start.extend(b"GGUF");
        start.extend(3u32.to_le_bytes());
        start.extend((self.sizes.len() as u64).to_le_bytes());
        start.extend(self.num_keys.to_le_bytes());
        let written = start.len() + self.metadata.len() + self.table.len();
        out.write_all(&start)?;
        out.write_all(&self.metadata)?;
        out.write_all(&self.table)?;
        pad(&mut out, written)?;
        Ok(GgufData { out, sizes: self.sizes, current: 0, filled: 0 })
    }
}

/// The tensors' data, in the order of the header's table.
#[derive(Debug)]
pub(crate) struct GgufData<W> {
    out: W,
    sizes: Vec<usize>,
    current: usize,
    filled: usize,
}

impl<W: Write> GgufData<W> {
    /// Appends to the current tensor; a full one is padded and the next becomes current.
    ///
    /// # Errors
    /// When the bytes are more than the current tensor lacks, or writing fails.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let lacking = self.sizes.get(self.current).map_or(0, |size| size - self.filled);
        if bytes.len() > lacking {
            let message = format!("{} bytes for tensor {}, which lacks {lacking}", bytes.len(), self.current);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        self.out.write_all(bytes)?;
        self.filled += bytes.len();
        if bytes.len() == lacking {
            pad(&mut self.out, self.filled)?;
            (self.current, self.filled) = (self.current + 1, 0);
        }
        Ok(())
    }

    /// Checks that every tensor is complete, and flushes.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        if self.current < self.sizes.len() {
            let message = format!("{} of {} tensors were written", self.current, self.sizes.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        self.out.flush()?;
        Ok(self.out)
    }
}

fn pad(out: &mut impl Write, written: usize) -> io::Result<()> {
    out.write_all(&[0; ALIGNMENT][..written.next_multiple_of(ALIGNMENT) - written])
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn put_type(out: &mut Vec<u8>, kind: ValueType) {
    out.extend((kind as u32).to_le_bytes());
}

fn put_array_start(out: &mut Vec<u8>, element: ValueType, len: usize) {
    put_type(out, ValueType::Array);
    put_type(out, element);
    out.extend((len as u64).to_le_bytes());
}

fn put_value(out: &mut Vec<u8>, value: MetadataValue) {
    match value {
        MetadataValue::U32(value) => {
            put_type(out, ValueType::U32);
            out.extend(value.to_le_bytes());
        }
        MetadataValue::F32(value) => {
            put_type(out, ValueType::F32);
            out.extend(value.to_le_bytes());
        }
        MetadataValue::Bool(value) => {
            put_type(out, ValueType::Bool);
            out.push(u8::from(value));
        }
        MetadataValue::String(text) => {
            put_type(out, ValueType::String);
            put_string(out, text);
        }
        MetadataValue::Strings(texts) => {
            put_array_start(out, ValueType::String, texts.len());
            for text in texts {
                put_string(out, text);
            }
        }
        MetadataValue::F32s(values) => {
            put_array_start(out, ValueType::F32, values.len());
            out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        }
        MetadataValue::I32s(values) => {
            put_array_start(out, ValueType::I32, values.len());
            out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        }
    }
}
