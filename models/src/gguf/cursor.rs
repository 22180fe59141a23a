//! Bounded reading of little-endian values from bytes: every length is checked against what is left before it is used.

use super::Parsed;

/// A position in bytes that only moves forward.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8], position: usize) -> Self {
        Self { bytes, position: position.min(bytes.len()) }
    }

    pub(super) fn position(&self) -> usize {
        self.position
    }

    pub(super) fn remaining(&self) -> usize {
        self.bytes.len() - self.position
    }

    /// What was read since `start`, an earlier position.
    pub(super) fn since(&self, start: usize) -> &'a [u8] {
        &self.bytes[start..self.position]
    }

    /// The next `len` bytes.
    pub(super) fn take(&mut self, len: u64) -> Parsed<&'a [u8]> {
        let left = self.remaining();
        match usize::try_from(len) {
            Ok(len) if len <= left => {
                let taken = &self.bytes[self.position..self.position + len];
                self.position += len;
                Ok(taken)
            }
            _ => Err(format!("{len} bytes are needed at offset {} but the file ends {left} bytes on", self.position)),
        }
    }

    fn array<const N: usize>(&mut self) -> Parsed<[u8; N]> {
        let taken = self.take(N as u64)?;
        let mut out = [0; N];
        out.copy_from_slice(taken);
        Ok(out)
    }

    pub(super) fn u8(&mut self) -> Parsed<u8> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn u16(&mut self) -> Parsed<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Parsed<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Parsed<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A string: length as u64, then UTF-8.
    pub(super) fn string(&mut self) -> Parsed<&'a str> {
        let len = self.u64()?;
        let at = self.position;
        let bytes = self.take(len)?;
        std::str::from_utf8(bytes).map_err(|_| format!("the text at offset {at} is not valid UTF-8"))
    }
}
