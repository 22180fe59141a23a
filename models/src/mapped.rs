//! A file mapped read-only into memory. Owns the only `unsafe` of reading; knows nothing of formats.
//!
//! What was proved about the *content* holds only while nobody writes to the file, so readers check text and numbers
//! again whenever they decode them; what was proved about *ranges* holds until somebody cuts the file short, which ends
//! the process with SIGBUS. A loaded model borrows nothing from the map: packing copies, and the map goes with the file.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use memmap2::{Mmap, UncheckedAdvice};

use crate::{Error, Result};

/// Size of a file and when it was changed.
pub(crate) type Stamp = (usize, Option<SystemTime>);

/// A mapped file and where it came from.
#[derive(Debug)]
pub(crate) struct MappedFile {
    path: PathBuf,
    map: Mmap,
    modified: Option<SystemTime>,
    /// The pages come from a file, so that dropped ones can be read again.
    file_backed: bool,
}

impl MappedFile {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        if !metadata.is_file() {
            return Err(Error::invalid(path, "is not a regular file"));
        }
        if metadata.len() == 0 {
            return Err(Error::invalid(path, "the file is empty"));
        }
        // SAFETY: the map is read-only and lives as long as `self`. Model files are replaced by renaming, never
        // rewritten in place; bytes that change nevertheless are only ever read as plain integers and checked text.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        Ok(Self { path: path.to_owned(), map, modified: metadata.modified().ok(), file_backed: true })
    }

    /// A map that holds a copy of `bytes`, as though they had come from `path`: for fuzzing without a file system.
    pub(crate) fn from_bytes(path: &Path, bytes: &[u8]) -> Result<Self> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        if bytes.is_empty() {
            return Err(Error::invalid(path, "the file is empty"));
        }
        let mut map = memmap2::MmapMut::map_anon(bytes.len()).map_err(io)?;
        map.copy_from_slice(bytes);
        let map = map.make_read_only().map_err(io)?;
        Ok(Self { path: path.to_owned(), map, modified: None, file_backed: false })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }

    pub(crate) fn stamp(&self) -> Stamp {
        (self.map.len(), self.modified)
    }

    /// Drops the resident pages under `part` when it lies in this file; returns whether it does.
    pub(crate) fn release(&self, part: &[u8]) -> bool {
        let Some(offset) = (part.as_ptr() as usize).checked_sub(self.map.as_ptr() as usize) else { return false };
        if offset.checked_add(part.len()).is_none_or(|end| end > self.map.len()) {
            return false;
        }
        if !self.file_backed {
            return true;
        }
        // SAFETY: the pages belong to a read-only map of a file, so that a page dropped is read from the file again
        // when next touched: no reference sees anything but the file's bytes. A failure changes nothing.
        let _ = unsafe { self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, offset, part.len()) };
        true
    }
}
