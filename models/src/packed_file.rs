//! Packed weights in a file, so that a restart maps them and does not pack again. A file is written whole or not at all,
//! and nothing in it is believed: what is another model's, another layout's or damaged is packed anew. While a model runs
//! on it, the file may be removed or replaced by another, but not cut short, which ends the process.
//!
//! Layout: the packed bytes of one matrix after the other, each from a multiple of [`ALIGNMENT`]; the [`Index`] as JSON;
//! its length and hash, both u64, and [`MAGIC`].

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use kernels::{Compute, GgmlType, PackedMatrix};
use memmap2::Mmap;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::{Error, ModelFile, Result, TensorView};

const MAGIC: [u8; 8] = *b"STEPPE-1";
const TRAILER: usize = 24;
const ALIGNMENT: usize = 4096;
/// Bytes that are proved at a time: few enough to be in the processor's cache still.
const PIECE: usize = 256 << 10;
/// Bytes that may wait to be written out, so that nobody else's memory goes to them.
const UNSYNCED: usize = 64 << 20;
/// An index that says more is not ours.
const MAX_INDEX: u64 = 64 << 20;

/// What a file holds.
#[derive(Debug, Serialize, Deserialize)]
struct Index {
    key: String,
    matrices: HashMap<String, Entry>,
}

/// Where a matrix lies.
#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    start: usize,
    /// Of each [`PIECE`].
    hashes: Vec<u64>,
}

/// A file of packed weights that belongs to a model.
#[derive(Debug)]
pub struct PackedFile {
    file: File,
    map: Arc<Mmap>,
    index: Index,
    damage: OnceLock<String>,
    buffers: Mutex<Vec<Vec<u8>>>,
}

impl PackedFile {
    /// What a file must have been made from to be this model's on this machine: the same tensors of the same file, as far
    /// as its size, its time of change and a page of each tensor tell, packed the way that this program packs.
    ///
    /// # Errors
    /// When a tensor cannot be packed.
    pub fn key(model: &ModelFile, compute: &Compute) -> Result<String> {
        let mut hash = Xxh3::new();
        hash.update(&packing(compute)?.to_le_bytes());
        hash.update(format!("{:?}", model.stamps()).as_bytes());
        for tensor in model.tensors() {
            hash.update(format!("{tensor:?}").as_bytes());
        }
        for bytes in model.contents() {
            let middle = &bytes[bytes.len() / 2..];
            let page = &middle[..middle.len().min(ALIGNMENT)];
            hash.update(page);
            model.release(page);
        }
        Ok(format!("{:032x}", hash.digest128()))
    }

    /// Opens `path`. `None` when there is no file, or one of another model or another layout.
    ///
    /// # Errors
    /// When the file cannot be read, or is not a whole one.
    pub fn open(path: &Path, key: &str) -> Result<Option<Self>> {
        let failed = |source| Error::Io { path: path.to_owned(), source };
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(failed)?,
        };
        let index = read_index(&file).map_err(failed)?;
        if index.key != key {
            return Ok(None);
        }
        // SAFETY: the map is read-only, and nobody writes to a file that has this name: another one takes its place.
        let map = unsafe { Mmap::map(&file) }.map_err(failed)?;
        Ok(Some(Self { file, map: Arc::new(map), index, damage: OnceLock::new(), buffers: Mutex::default() }))
    }

    /// What was found damaged since the file was opened.
    pub fn damage(&self) -> Option<&str> {
        self.damage.get().map(String::as_str)
    }

    /// Moves the weights from the file's small pages into large ones, which are read faster. Whoever reads them
    /// meanwhile notices nothing.
    ///
    /// # Errors
    /// When the system has none. The weights are as good as before.
    pub fn use_large_pages(&self) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        kernels::move_to_large_pages(&self.map)?;
        Ok(())
    }

    /// The matrix `name`, whose source is `view`; `None` when the file does not have it, or not as it was written.
    pub(crate) fn matrix(&self, compute: &Compute, name: &str, view: &TensorView<'_>) -> Option<PackedMatrix> {
        let (entry, &[rows, columns]) = (self.index.matrices.get(name)?, view.shape.as_slice()) else { return None };
        let len = PackedMatrix::packed_bytes(view.ggml_type, rows, columns);
        let matrix = self.prove(compute, entry, len).map_err(|error| error.to_string()).and_then(|()| {
            let matrix = PackedMatrix::mapped(view.ggml_type, rows, columns, &self.map, entry.start);
            matrix.map_err(|error| error.to_string())
        });
        matrix.map_err(|error| self.damage.get_or_init(|| format!("{name}: {error}"))).ok()
    }

    /// Compares `len` bytes with what was written, and makes them ready to be used. They are read, not looked at in the
    /// map: there a failing disk is a signal.
    fn prove(&self, compute: &Compute, entry: &Entry, len: usize) -> io::Result<()> {
        let failed = Mutex::new(None);
        compute.parallel_for(len.div_ceil(PIECE), |piece| {
            let start = entry.start.saturating_add(piece * PIECE);
            let mut buffer = lock(&self.buffers).pop().unwrap_or_else(|| vec![0; PIECE]);
            let bytes = &mut buffer[..PIECE.min(len - piece * PIECE)];
            let read = self.file.read_exact_at(bytes, start as u64);
            let whole = entry.hashes.get(piece) == Some(&xxh3_64(bytes));
            match read {
                Ok(()) if whole => {
                    #[cfg(target_os = "linux")] // Only a hint, which older kernels refuse.
                    let _ = self.map.advise_range(memmap2::Advice::PopulateRead, start, bytes.len());
                }
                Ok(()) => *lock(&failed) = Some(io::Error::other("it is not what was written")),
                Err(error) => *lock(&failed) = Some(error),
            }
            lock(&self.buffers).push(buffer);
        });
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    /// Writes matrices under their names. The file is there when all of it is on the disk.
    ///
    /// # Errors
    /// When it cannot be written; nothing of it is left then. [`io::ErrorKind::WouldBlock`] when another process is
    /// writing it.
    pub fn write(path: &Path, key: &str, matrices: &[(String, PackedMatrix)]) -> Result<()> {
        let part = path.with_extension("part");
        let failed = |source| Error::Io { path: part.clone(), source };
        let file = File::options().write(true).create(true).truncate(false).open(&part).map_err(failed)?;
        file.try_lock().map_err(|error| failed(error.into()))?;
        let written = write_all(&file, key, matrices).and_then(|()| fs::rename(&part, path));
        if written.is_err() {
            // What is left of it is in the way of whatever has filled the disk.
            let _ = fs::remove_file(&part);
        }
        written.map_err(failed)?;
        path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all()).map_err(failed)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read_index(file: &File) -> io::Result<Index> {
    let invalid = |message: &str| io::Error::new(io::ErrorKind::InvalidData, message.to_owned());
    let truncated = || invalid("it is not whole");
    let end = file.metadata()?.len().checked_sub(TRAILER as u64).ok_or_else(truncated)?;
    let mut trailer = [0; TRAILER];
    file.read_exact_at(&mut trailer, end)?;
    let (numbers, magic) = trailer.as_chunks::<8>().0.split_at(2);
    let [len, hash] = [numbers[0], numbers[1]].map(u64::from_le_bytes);
    let start = end.checked_sub(len).filter(|_| len <= MAX_INDEX && magic == [MAGIC]).ok_or_else(truncated)?;
    let mut json = vec![0; len as usize];
    file.read_exact_at(&mut json, start)?;
    if xxh3_64(&json) != hash {
        return Err(invalid("its index is damaged"));
    }
    Ok(serde_json::from_slice(&json)?)
}

fn write_all(file: &File, key: &str, matrices: &[(String, PackedMatrix)]) -> io::Result<()> {
    file.set_len(0)?;
    let mut out = Syncing { file, written: 0 };
    let mut index = Index { key: key.to_owned(), matrices: HashMap::new() };
    for (name, matrix) in matrices {
        out.pad()?;
        let mut entry = Entry { start: out.written, hashes: Vec::new() };
        for piece in matrix.packed().flat_map(|part| part.chunks(PIECE)) {
            entry.hashes.push(xxh3_64(piece));
            out.write(piece)?;
        }
        index.matrices.insert(name.clone(), entry);
    }
    let json = serde_json::to_vec(&index)?;
    out.write(&json)?;
    let numbers = [json.len() as u64, xxh3_64(&json)].map(u64::to_le_bytes);
    out.write(&[numbers[0], numbers[1], MAGIC].concat())?;
    file.sync_all()
}

/// A file that is written from its beginning and brought to the disk as it grows.
struct Syncing<'a> {
    file: &'a File,
    written: usize,
}

impl Syncing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        let before = self.written / UNSYNCED;
        self.written += bytes.len();
        if self.written / UNSYNCED > before { self.file.sync_data() } else { Ok(()) }
    }

    fn pad(&mut self) -> io::Result<()> {
        self.write(&[0; ALIGNMENT][..self.written.next_multiple_of(ALIGNMENT) - self.written])
    }
}

/// The way that this program packs on this machine, as a hash of what comes of the same blocks of every type.
fn packing(compute: &Compute) -> Result<u64> {
    const ROWS: usize = 9;
    let mut hash = Xxh3::new();
    for ggml_type in GgmlType::ALL {
        let columns = 2 * ggml_type.block_len();
        let blocks: Vec<u8> = (0..ROWS * 2 * ggml_type.block_bytes()).map(|i| (i * 167 + i / 251) as u8).collect();
        let packed = PackedMatrix::pack(compute, ggml_type, ROWS, columns, &blocks)?;
        hash.update(ggml_type.name().as_bytes());
        packed.packed().for_each(|part| hash.update(part));
    }
    Ok(hash.digest())
}
