//! Files of packed weights: what they give is what packing gives, whatever has happened to them.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use kernels::{Activations, Compute, ComputeOptions, KvCacheType, Span};
use models::random::RandomModel;
use models::{Architecture, Error, ForwardBatch, KvCache, Model, ModelFile, PackedFile, Recipe};

struct Fixture {
    _folder: tempfile::TempDir,
    compute: Compute,
    source: PathBuf,
    packed: PathBuf,
    key: String,
    logits: Vec<Vec<f32>>,
}

impl Fixture {
    /// A model, packed and kept.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [source, packed] = ["model.gguf", "model.packed"].map(|name| folder.path().join(name));
        RandomModel::tiny(Architecture::Qwen3, Recipe::Q4KM).write_gguf(&source, &mut |_| {}).unwrap();
        let options = ComputeOptions { threads: 2, isa: None, activations: Activations::Int8 };
        let compute = Compute::cpu(options).unwrap();
        let file = ModelFile::open(&source).unwrap();
        let key = PackedFile::key(&file, &compute).unwrap();
        let model = load(&file, &compute);
        PackedFile::write(&packed, &key, model.matrices()).unwrap();
        Self { _folder: folder, logits: logits(model, &compute), compute, source, packed, key }
    }

    fn open(&self) -> models::Result<Option<PackedFile>> {
        PackedFile::open(&self.packed, &self.key)
    }

    /// What was found damaged. Whatever that is, the model says the same.
    fn damage(&self, packed: PackedFile) -> Option<String> {
        let file = ModelFile::open(&self.source).unwrap().with_packed(Some(packed));
        assert_eq!(logits(load(&file, &self.compute), &self.compute), self.logits);
        file.packed().unwrap().damage().map(str::to_owned)
    }
}

fn load(file: &ModelFile, compute: &Compute) -> Model {
    Model::load(file, compute, 4, 4, &mut |_| {}).unwrap()
}

fn logits(mut model: Model, compute: &Compute) -> Vec<Vec<f32>> {
    let kv = KvCache::new(model.config(), KvCacheType::F16, 1, compute).unwrap();
    let span = Span { query_start: 0, query_len: 4, context_len: 4, block_table: vec![0] };
    let batch = ForwardBatch { token_ids: vec![1, 70, 200, 9], spans: vec![span], logit_rows: vec![0, 1, 2, 3] };
    model.forward(&batch, &kv).unwrap().to_vec2().unwrap()
}

/// Changes the file's bytes.
fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_kept_model_says_the_same_to_the_bit() {
    let fixture = Fixture::new();
    let packed = fixture.open().unwrap().unwrap();
    assert_eq!(fixture.damage(packed), None);
    assert!(!fixture.packed.with_extension("part").exists());
}

#[test]
fn what_is_read_is_the_file_and_not_packed_again() {
    // A file of the first model under the key of a second one: its weights are taken.
    let fixture = Fixture::new();
    let other = fixture.source.with_file_name("other.gguf");
    let made = RandomModel { seed: 2, ..RandomModel::tiny(Architecture::Qwen3, Recipe::Q4KM) };
    made.write_gguf(&other, &mut |_| {}).unwrap();
    let file = ModelFile::open(&other).unwrap();
    assert_ne!(PackedFile::key(&file, &fixture.compute).unwrap(), fixture.key);
    let alone = logits(load(&file, &fixture.compute), &fixture.compute);
    let file = file.with_packed(fixture.open().unwrap());
    let with_packed = logits(load(&file, &fixture.compute), &fixture.compute);
    assert_ne!(with_packed, alone);
}

#[test]
fn any_byte_that_has_changed_is_found_and_made_good() {
    let fixture = Fixture::new();
    let whole = fs::read(&fixture.packed).unwrap();
    let mut rng = fastrand::Rng::with_seed(7);
    let mut found = 0;
    // The trailer and the index, then anything.
    let (end, tries) = (whole.len(), 200);
    for at in (end - 600..end).step_by(23).chain(std::iter::repeat_with(|| rng.usize(..end)).take(tries)) {
        change(&fixture.packed, |bytes| bytes[at] ^= 1 << (at % 8));
        found += match fixture.open() {
            Err(_) => 1,
            Ok(packed) => usize::from(fixture.damage(packed.unwrap()).is_some()),
        };
        fs::write(&fixture.packed, &whole).unwrap();
    }
    // Only what fills the gaps between matrices may change.
    assert!(found > tries / 2, "{found} of {tries}");
}

#[test]
fn a_file_that_is_not_whole_is_no_file() {
    let fixture = Fixture::new();
    let whole = fs::read(&fixture.packed).unwrap();
    for len in [0, 1, 23, 24, 25, whole.len() / 2, whole.len() - 1] {
        fs::write(&fixture.packed, &whole[..len]).unwrap();
        assert!(fixture.open().is_err(), "{len} bytes");
    }
    // Cut short while it is open.
    fs::write(&fixture.packed, &whole).unwrap();
    let packed = fixture.open().unwrap().unwrap();
    change(&fixture.packed, |bytes| bytes.truncate(5000));
    assert!(fixture.damage(packed).is_some());
    fs::remove_file(&fixture.packed).unwrap();
    assert!(fixture.open().unwrap().is_none());
}

#[test]
fn another_models_file_is_no_file() {
    let fixture = Fixture::new();
    let key = || PackedFile::key(&ModelFile::open(&fixture.source).unwrap(), &fixture.compute).unwrap();
    assert_eq!(key(), fixture.key);
    assert!(PackedFile::open(&fixture.packed, "another").unwrap().is_none());
    // The same content of another time; other content of the same time and size.
    let changed = fs::metadata(&fixture.source).unwrap().modified().unwrap();
    let set_changed = |time: SystemTime| {
        fs::File::options().write(true).open(&fixture.source).unwrap().set_modified(time).unwrap();
    };
    set_changed(changed + Duration::from_secs(1));
    assert_ne!(key(), fixture.key);
    set_changed(changed);
    assert_eq!(key(), fixture.key);
    let seed = 2;
    let made = RandomModel { seed, ..RandomModel::tiny(Architecture::Qwen3, Recipe::Q4KM) };
    made.write_gguf(&fixture.source, &mut |_| {}).unwrap();
    set_changed(changed);
    assert_ne!(key(), fixture.key);
}

#[test]
fn what_cannot_be_written_leaves_nothing() {
    let fixture = Fixture::new();
    let file = ModelFile::open(&fixture.source).unwrap();
    let model = load(&file, &fixture.compute);
    let write = |path: &Path| PackedFile::write(path, &fixture.key, model.matrices());
    // A folder that is a file, and a place that is taken by a folder.
    assert!(write(&fixture.source.join("model.packed")).is_err());
    let taken = fixture.source.with_file_name("taken.packed");
    fs::create_dir_all(taken.join("something")).unwrap();
    assert!(write(&taken).is_err());
    assert!(!taken.with_extension("part").exists());
    // Another process is writing.
    let part = fs::File::create(fixture.packed.with_extension("part")).unwrap();
    part.lock().unwrap();
    let Err(Error::Io { source, .. }) = write(&fixture.packed) else { panic!("two have written at once") };
    assert_eq!(source.kind(), std::io::ErrorKind::WouldBlock);
    // One that has ended in the middle of it is in nobody's way.
    drop(part);
    write(&fixture.packed).unwrap();
    assert_eq!(fixture.damage(fixture.open().unwrap().unwrap()), None);
}
