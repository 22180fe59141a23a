//! The cache of packed weights: one file in the data directory, of the model that was served last. Without it a start
//! packs the weights; nothing that is wrong with it is more than a line in the log.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use kernels::{Compute, PackedMatrix};
use models::{Error, ModelFile, PackedFile};

use crate::manifest::Manifest;

/// Its place in the data directory.
const FOLDER: &str = "packed";

/// A smaller model is packed before anybody notices.
const WORTH_KEEPING: usize = 256 << 20;

/// Packed matrices under their names.
pub(super) type Matrices = Vec<(String, PackedMatrix)>;

/// Where a model's packed weights are kept, and what they must have been made from.
#[derive(Debug)]
pub(super) struct PackedCache {
    path: PathBuf,
    key: String,
}

impl PackedCache {
    /// The cache of `model` under the data directory `data`; a small model has none.
    ///
    /// # Errors
    /// When the model's weights cannot be packed.
    pub(super) fn of(model: &ModelFile, data: &Path, compute: &Compute) -> models::Result<Option<Self>> {
        if model.tensors().iter().map(|tensor| tensor.bytes).sum::<usize>() < WORTH_KEEPING {
            return Ok(None);
        }
        let path = data.join(FOLDER).join(format!("{}.packed", Manifest::name_of(model.path())));
        Ok(Some(Self { path, key: PackedFile::key(model, compute)? }))
    }

    /// What is kept, if it is this model's.
    pub(super) fn open(&self) -> Option<PackedFile> {
        PackedFile::open(&self.path, &self.key).unwrap_or_else(|error| {
            tracing::warn!("packed weights are made anew: {error}");
            None
        })
    }

    /// Keeps `matrices`, and nothing else; in the log when that cannot be done.
    pub(super) fn keep(&self, matrices: &Matrices) {
        match self.write(matrices) {
            Ok(()) => tracing::info!("packed weights are kept for the next start: {}", self.path.display()),
            // Another process is at it.
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => tracing::warn!("packed weights are not kept for the next start: {error}"),
        }
    }

    fn write(&self, matrices: &Matrices) -> models::Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let failed = |source| Error::Io { path: folder.to_owned(), source };
        fs::create_dir_all(folder).map_err(failed)?;
        for old in fs::read_dir(folder).map_err(failed)?.flatten() {
            if old.path().extension().is_some_and(|extension| extension == "packed") {
                fs::remove_file(old.path()).map_err(failed)?;
            }
        }
        let bytes: usize = matrices.iter().map(|(_, matrix)| matrix.bytes()).sum();
        let room = rustix::fs::statvfs(folder).map_err(|error| failed(error.into()))?;
        // As much must be left for everything else as it takes itself.
        if room.f_bavail.saturating_mul(room.f_frsize) < 2 * bytes as u64 {
            return Err(failed(io::ErrorKind::StorageFull.into()));
        }
        PackedFile::write(&self.path, &self.key, matrices)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use kernels::{Activations, ComputeOptions};
    use models::random::RandomModel;
    use models::{Architecture, Model, Recipe};

    use super::*;

    fn matrices(folder: &Path) -> Matrices {
        let path = folder.join("model.gguf");
        RandomModel::tiny(Architecture::Llama, Recipe::Q4KM).write_gguf(&path, &mut |_| {}).unwrap();
        let options = ComputeOptions { threads: 1, isa: None, activations: Activations::Int8 };
        let (file, compute) = (ModelFile::open(&path).unwrap(), Compute::cpu(options).unwrap());
        assert!(PackedCache::of(&file, folder, &compute).unwrap().is_none(), "a small model has no cache");
        Model::load(&file, &compute, 1, 1, &mut |_| {}).unwrap().matrices().to_vec()
    }

    #[test]
    fn the_model_that_was_served_last_is_kept_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let matrices = matrices(folder.path());
        let cache =
            |name: &str, key: &str| PackedCache { path: folder.path().join(FOLDER).join(name), key: key.to_owned() };
        let (first, changed, second) = (cache("a.packed", "1"), cache("a.packed", "2"), cache("b.packed", "3"));
        assert!(first.open().is_none());
        first.keep(&matrices);
        assert!(first.open().is_some());
        assert!(changed.open().is_none());
        changed.keep(&matrices);
        assert!(first.open().is_none() && changed.open().is_some());
        second.keep(&matrices);
        assert!(changed.open().is_none() && second.open().is_some());
        fs::write(&second.path, b"damaged").unwrap();
        assert!(second.open().is_none());
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_no_fault() {
        let folder = tempfile::tempdir().unwrap();
        let matrices = matrices(folder.path());
        fs::write(folder.path().join(FOLDER), "a file").unwrap();
        let cache = PackedCache { path: folder.path().join(FOLDER).join("a.packed"), key: String::new() };
        cache.keep(&matrices);
        assert!(cache.write(&matrices).is_err() && cache.open().is_none());
    }
}
