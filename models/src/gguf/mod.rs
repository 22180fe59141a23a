//! GGUF files: one mapped file whose table is proved sound when it is opened. A file is hostile input: nothing in it
//! panics, allocates more than its table is worth, or reaches a byte outside it.
//! Source: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

mod config;
mod cursor;
mod describe;
mod metadata;
mod table;
mod value;
mod vocabulary;
pub(crate) mod writer;

use std::path::Path;

use crate::file::{TensorInfo, TensorView};
use crate::mapped::{MappedFile, Stamp};
use crate::{Error, GgufVocabulary, ModelConfig, Result};

use metadata::Metadata;
use table::{Table, TensorEntry};
pub(crate) use vocabulary::MAX_TOKENS;

/// What parsing gives; the message lacks only the file's name.
type Parsed<T> = std::result::Result<T, String>;

/// An opened GGUF file.
#[derive(Debug)]
pub(crate) struct GgufFile {
    file: MappedFile,
    table: Table,
}

impl GgufFile {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        Self::new(MappedFile::open(path)?)
    }

    pub(crate) fn new(file: MappedFile) -> Result<Self> {
        let table = Table::parse(file.bytes()).map_err(|message| Error::invalid(file.path(), message))?;
        let opened = Self { file, table };
        let parts = opened.read(|file| file.metadata().u64("split.count"))?.unwrap_or(1);
        if parts > 1 {
            let message =
                format!("this is one of {parts} parts of a split model: join them (llama-gguf-split --merge)");
            return Err(Error::invalid(opened.file.path(), message));
        }
        Ok(opened)
    }

    /// Runs a reader and adds the file's name to its error.
    fn read<T>(&self, read: impl FnOnce(&Self) -> Parsed<T>) -> Result<T> {
        read(self).map_err(|message| Error::invalid(self.file.path(), message))
    }

    pub(crate) fn config(&self) -> Result<ModelConfig> {
        self.read(config::read)
    }

    pub(crate) fn vocabulary(&self) -> Result<GgufVocabulary> {
        self.read(|file| vocabulary::read(file.metadata()))
    }

    pub(crate) fn end_ids(&self) -> Vec<u32> {
        vocabulary::end_ids(self.metadata()).unwrap_or_default()
    }

    pub(crate) fn chat_template(&self) -> Option<&str> {
        self.metadata().str("tokenizer.chat_template").ok().flatten()
    }

    pub(crate) fn version(&self) -> u32 {
        self.table.version
    }

    pub(crate) fn metadata(&self) -> Metadata<'_> {
        Metadata { bytes: self.file.bytes(), entries: &self.table.entries }
    }

    fn bytes(&self) -> &[u8] {
        self.file.bytes()
    }

    fn tensor(&self, name: &str) -> Option<&TensorEntry> {
        self.table.index.get(name).map(|number| &self.table.tensors[*number])
    }

    pub(crate) fn tensor_view(&self, name: &str) -> Option<TensorView<'_>> {
        self.tensor(name).map(|tensor| TensorView {
            ggml_type: tensor.ggml_type,
            shape: tensor.shape.clone(),
            bytes: &self.bytes()[tensor.range.clone()],
        })
    }

    pub(crate) fn tensors(&self) -> impl Iterator<Item = TensorInfo> {
        self.table.tensors.iter().map(|tensor| TensorInfo {
            name: tensor.name.clone(),
            ggml_type: tensor.ggml_type,
            shape: tensor.shape.clone(),
            bytes: tensor.range.len(),
        })
    }

    pub(crate) fn contents(&self) -> impl Iterator<Item = &[u8]> {
        self.table.tensors.iter().map(|tensor| &self.bytes()[tensor.range.clone()])
    }

    pub(crate) fn stamp(&self) -> Stamp {
        self.file.stamp()
    }

    pub(crate) fn release(&self, bytes: &[u8]) {
        self.file.release(bytes);
    }
}
