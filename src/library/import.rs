//! Takes a model from somewhere on this machine into the weights directory: hashed in full, opened, then put in place
//! by one rename, with a manifest beside it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::{Library, LibraryError, check, sha256_of};
use crate::manifest::Manifest;

/// What to import, and how.
#[derive(Debug, Clone)]
pub struct Import {
    /// A GGUF file or a safetensors directory.
    pub source: PathBuf,
    /// Name to install it under; none: the manifest's, else the source's own.
    pub name: Option<String>,
    /// Built-in manifest to start from; none: the one beside the source, or of its name.
    pub manifest: Option<Manifest>,
    /// Remove the source afterwards.
    pub moves: bool,
    /// Replace a model of the same name.
    pub force: bool,
}

/// A model in its place.
#[derive(Debug, Clone)]
pub struct Installed {
    /// The model.
    pub path: PathBuf,
    /// What was written beside it.
    pub manifest: Manifest,
}

/// Copies or moves a model into the library. The hash is that of the copy: what lies there is what was checked.
pub fn import(library: &Library, import: &Import, progress: &mut dyn FnMut(u64)) -> Result<Installed, LibraryError> {
    let is_gguf = import.source.is_file();
    let base = match &import.manifest {
        Some(manifest) => manifest.clone(),
        None => Manifest::of_model(&import.source)?.unwrap_or_default(),
    };
    let own_name = if base.name.is_empty() { Manifest::name_of(&import.source) } else { base.name.clone() };
    let name = import.name.clone().unwrap_or(own_name);
    let place = library.place(&name, is_gguf);
    if place.exists() && !import.force {
        return Err(LibraryError::Occupied(place));
    }
    check(&import.source)?;
    let staging = Staging::new(library)?;
    let staged = staging.path.join(if is_gguf { "model.gguf" } else { "model" });
    copy(&import.source, &staged)?;
    let manifest = Manifest { name, ..base };
    let installed = install(library, &staged, manifest, import.force, progress)?;
    if import.moves {
        let removed = if is_gguf { fs::remove_file(&import.source) } else { fs::remove_dir_all(&import.source) };
        removed.map_err(LibraryError::io(&import.source))?;
    }
    Ok(installed)
}

/// Hashes and opens the model at `staged`, which lies on the library's file system, and renames it into its place.
/// Hashes that the manifest states must be those of the files.
pub fn install(
    library: &Library,
    staged: &Path,
    mut manifest: Manifest,
    force: bool,
    progress: &mut dyn FnMut(u64),
) -> Result<Installed, LibraryError> {
    let is_gguf = staged.is_file();
    let place = library.place(&manifest.name, is_gguf);
    if is_gguf {
        let hash = sha256_of(staged, progress).map_err(LibraryError::io(staged))?;
        expect_hash(&manifest.name, manifest.sha256.as_deref(), &hash)?;
        manifest.sha256 = Some(hash);
    } else {
        let mut hashes = BTreeMap::new();
        for file in regular_files(staged)? {
            let hash = sha256_of(&staged.join(&file), progress).map_err(LibraryError::io(staged))?;
            expect_hash(&file, manifest.files.get(&file).map(String::as_str), &hash)?;
            hashes.insert(file, hash);
        }
        manifest.files = hashes;
    }
    check(staged)?;
    if place.exists() {
        if !force {
            return Err(LibraryError::Occupied(place));
        }
        let removed = if place.is_dir() { fs::remove_dir_all(&place) } else { fs::remove_file(&place) };
        removed.map_err(LibraryError::io(&place))?;
    }
    manifest.write_beside(&place)?;
    fs::rename(staged, &place).map_err(LibraryError::io(&place))?;
    Ok(Installed { path: place, manifest })
}

fn expect_hash(file: &str, expected: Option<&str>, actual: &str) -> Result<(), LibraryError> {
    match expected {
        Some(expected) if expected != actual => Err(LibraryError::WrongHash {
            file: file.to_owned(),
            expected: expected.to_owned(),
            actual: actual.to_owned(),
        }),
        _ => Ok(()),
    }
}

/// Copies a file, or the regular files of a directory (a model keeps everything in one).
fn copy(source: &Path, target: &Path) -> Result<(), LibraryError> {
    if source.is_file() {
        fs::copy(source, target).map_err(LibraryError::io(source))?;
        return Ok(());
    }
    fs::create_dir(target).map_err(LibraryError::io(target))?;
    for file in regular_files(source)? {
        let from = source.join(&file);
        fs::copy(&from, target.join(&file)).map_err(LibraryError::io(&from))?;
    }
    Ok(())
}

/// Names of the files directly inside a directory, hidden ones left out.
fn regular_files(directory: &Path) -> Result<Vec<String>, LibraryError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(LibraryError::io(directory))? {
        let path = entry.map_err(LibraryError::io(directory))?.path();
        if let Some(name) = path.file_name().and_then(|name| name.to_str())
            && path.is_file()
            && !name.starts_with('.')
        {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// A hidden directory inside the library, removed when dropped.
pub(super) struct Staging {
    pub path: PathBuf,
}

impl Staging {
    pub fn new(library: &Library) -> Result<Self, LibraryError> {
        let path = library.directory().join(format!(".import-{}", std::process::id()));
        fs::create_dir_all(&path).map_err(LibraryError::io(&path))?;
        Ok(Self { path })
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}
