//! A file being written: it bears its name only once it is complete, and an abandoned one leaves nothing behind.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// A buffered writer to `<name>.partial`.
#[derive(Debug)]
pub(crate) struct PartialFile {
    path: PathBuf,
    partial: PathBuf,
    out: BufWriter<File>,
}

impl PartialFile {
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".partial");
        let partial = path.with_file_name(name);
        let file = File::create(&partial).map_err(|source| Error::Io { path: partial.clone(), source })?;
        Ok(Self { path: path.to_owned(), partial, out: BufWriter::with_capacity(1 << 20, file) })
    }

    /// Gives the complete file its name and returns its size in bytes.
    pub(crate) fn finish(mut self) -> Result<u64> {
        let io = |source| Error::Io { path: self.path.clone(), source };
        self.out.flush().map_err(io)?;
        let size = self.out.get_ref().metadata().map_err(io)?.len();
        fs::rename(&self.partial, &self.path).map_err(io)?;
        Ok(size)
    }
}

impl Write for PartialFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Drop for PartialFile {
    fn drop(&mut self) {
        // After `finish` there is no such file any more.
        let _ = fs::remove_file(&self.partial);
    }
}
