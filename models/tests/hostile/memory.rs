//! Reading a hostile file takes less than 64 MiB beyond its own size, which the map may make resident. Measured by an
//! allocator that counts what this thread holds.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;

use models::ModelFile;

use crate::raw::{ARRAY, Raw, RawGguf, STRING, array, entry, number, tensor};

const PROMISED: isize = 64 << 20;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count(bytes: isize) {
    let held = HELD.get() + bytes;
    HELD.set(held);
    PEAK.set(PEAK.get().max(held));
}

// SAFETY: every call is passed on unchanged to the system's allocator; the counters allocate nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller keeps GlobalAlloc's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller keeps GlobalAlloc's contract.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // Old and new exist together while the allocator copies.
        count(new_size as isize);
        count(-(layout.size() as isize));
        // SAFETY: the caller keeps GlobalAlloc's contract.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

/// The most that opening `path` and reading everything but weights holds at once.
fn peak_of_reading(path: &Path) -> isize {
    let before = HELD.get();
    PEAK.set(before);
    if let Ok(file) = ModelFile::open(path) {
        let _ = file.config();
        let _ = file.end_ids();
        let _ = file.tokenizer();
    }
    PEAK.get() - before
}

fn assert_gguf_within(case: &str, file: &RawGguf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hostile.gguf");
    std::fs::write(&path, file.bytes()).unwrap();
    let peak = peak_of_reading(&path);
    assert!((1..PROMISED).contains(&peak), "{case}: {peak} bytes");
}

/// A sound file whose vocabulary has `count` tokens of no text.
fn with_tokens(count: u64) -> RawGguf {
    let tokens = array(STRING, count).bytes(&vec![0; 8 * count as usize]);
    let merges = entry("tokenizer.ggml.merges", ARRAY, tokens.clone());
    let kinds = array(0, count).bytes(&vec![3; count as usize]);
    RawGguf::sound()
        .with_entry("tokenizer.ggml.tokens", entry("tokenizer.ggml.tokens", ARRAY, tokens))
        .with_entry("tokenizer.ggml.token_type", entry("tokenizer.ggml.token_type", ARRAY, kinds))
        .with_entry("tokenizer.ggml.merges", merges)
}

#[test]
fn metadata_arrays_cost_nothing() {
    let numbers = array(0, 8 << 20).bytes(&vec![7; 8 << 20]);
    assert_gguf_within("numbers", &RawGguf::sound().with_entry("?", entry("a", ARRAY, numbers)));
    assert_gguf_within("tokens beyond the limit", &with_tokens(4 << 20));
    assert_gguf_within("as many tokens as are read", &with_tokens(1 << 19));
    let empty = Raw::default().u32(0).u64(0).0.repeat(1 << 20);
    let nested = array(ARRAY, 1 << 20).bytes(&empty);
    assert_gguf_within("nested arrays", &RawGguf::sound().with_entry("?", entry("a", ARRAY, nested)));
}

#[test]
fn tables_of_keys_and_tensors_are_bounded() {
    let mut keys = RawGguf::sound();
    keys.entries.extend((0..65_000).map(|n| number(&format!("{n:x}"), 0)));
    assert_gguf_within("keys", &keys);
    let mut tensors = RawGguf::sound();
    tensors.tensors.extend((0..65_000).map(|n| tensor(&format!("{n:060}"), &[8], 0, 320 + 32 * n)));
    tensors.data_len += 65_000 * 32;
    assert_gguf_within("tensors", &tensors);
}

#[test]
fn safetensors_headers_and_json_are_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let model =
        models::random::RandomModel::tiny(models::Architecture::Llama, models::Recipe::Uniform(kernels::GgmlType::F16));
    model.write_safetensors(directory.path(), kernels::GgmlType::F16, 1).unwrap();
    let weights = directory.path().join("model.safetensors");
    let shape = format!(r#"{{"a":{{"dtype":"F32","shape":[{}1],"data_offsets":[0,4]}}}}"#, "1,".repeat(4_000_000));
    let row = |n| format!(r#""{n:x}":{{"dtype":"F32","shape":[1],"data_offsets":[{},{}]}}"#, 4 * n, 4 * n + 4);
    let rows = format!("{{{}}}", (0..65_000).map(row).collect::<Vec<_>>().join(","));
    for header in [shape, rows] {
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; 4 * 65_000]].concat();
        std::fs::write(&weights, bytes).unwrap();
        let peak = peak_of_reading(directory.path());
        assert!((1..PROMISED).contains(&peak), "a header of {} bytes: {peak} bytes", header.len());
    }
    for name in ["config.json", "tokenizer_config.json", "generation_config.json", "model.safetensors.index.json"] {
        let list = format!(r#"{{"chat_template":[{}[]],"eos_token_id":[]}}"#, "[],".repeat(600_000));
        let pairs: Vec<String> = (0..150_000).map(|n| format!(r#""{n:x}":"""#)).collect();
        let map = format!(r#"{{"weight_map":{{{}}}}}"#, pairs.join(","));
        let small = format!(r#"{{"a":[{}0]}}"#, "[0],".repeat(60_000));
        for text in [list, map, small] {
            let path = directory.path().join(name);
            let before = std::fs::read(&path).ok();
            std::fs::write(&path, &text).unwrap();
            let peak = peak_of_reading(directory.path());
            assert!((1..PROMISED).contains(&peak), "{name} of {} bytes: {peak} bytes", text.len());
            match before {
                Some(bytes) => std::fs::write(&path, bytes).unwrap(),
                None => std::fs::remove_file(&path).unwrap(),
            }
        }
    }
}
