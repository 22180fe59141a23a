//! `steppe pull` against a hub on this machine: the real program, `HF_ENDPOINT`, broken connections and wrong bytes.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use models::random::RandomModel;
use models::{Architecture, Recipe};
use sha2::{Digest, Sha256};

const COMMIT: &str = "5f0b02c75b57c5855da9ae460ce51323ea669d8a";

/// One repository, and how its connections misbehave.
#[derive(Default)]
struct Repository {
    files: HashMap<String, Vec<u8>>,
    /// Announced instead of the file's own hash.
    wrong_hashes: HashMap<String, String>,
    /// So many downloads end in their middle.
    cuts: usize,
    /// Every answer is this status.
    status: Option<u16>,
    /// `Range` of every request for a file, the probes for its size left out.
    ranges: Vec<String>,
}

struct Hub {
    url: String,
    repository: Arc<Mutex<Repository>>,
}

impl Hub {
    fn start(files: impl IntoIterator<Item = (String, Vec<u8>)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let repository = Repository { files: files.into_iter().collect(), ..Repository::default() };
        let repository = Arc::new(Mutex::new(repository));
        let shared = Arc::clone(&repository);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || answer(stream.unwrap(), &shared));
            }
        });
        Self { url, repository }
    }

    fn pull(&self, here: &Path, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_steppe"))
            .current_dir(here)
            .env("LANG", "C")
            .env("HF_ENDPOINT", &self.url)
            .env_remove("HF_TOKEN")
            .arg("pull")
            .args(arguments)
            .output()
            .unwrap()
    }
}

/// One request, one answer, then the connection ends.
fn answer(mut stream: TcpStream, repository: &Mutex<Repository>) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    let Some(request) = lines.next() else { return };
    let target = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let headers: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    let range =
        headers.iter().find_map(|line| line.to_ascii_lowercase().strip_prefix("range: bytes=").map(str::to_owned));
    let mut repository = repository.lock().unwrap();
    let not_found = repository.status.unwrap_or(404);
    let status = |status: u16| format!("HTTP/1.1 {status} X\r\nconnection: close\r\n");
    if repository.status.is_none() && target == "/api/models/owner/model/revision/main" {
        let siblings: Vec<_> = repository.files.keys().map(|name| serde_json::json!({ "rfilename": name })).collect();
        let body = serde_json::json!({ "sha": COMMIT, "siblings": siblings }).to_string();
        let head = format!("{}content-length: {}\r\n\r\n", status(200), body.len());
        let _ = stream.write_all((head + &body).as_bytes());
        return;
    }
    let file = target.strip_prefix(&format!("/owner/model/resolve/{COMMIT}/")).map(str::to_owned);
    let Some((name, bytes)) = file.and_then(|name| Some((name.clone(), repository.files.get(&name)?.clone()))) else {
        let _ = stream.write_all(format!("{}content-length: 0\r\n\r\n", status(not_found)).as_bytes());
        return;
    };
    let range = range.unwrap_or_else(|| "0-".into());
    let (first, last) = range.split_once('-').unwrap();
    let first: usize = first.parse().unwrap();
    let end = last.parse::<usize>().map_or(bytes.len(), |last| last + 1);
    let hash = repository.wrong_hashes.get(&name).cloned().unwrap_or_else(|| sha256(&bytes));
    let mut head = status(206);
    let _ = write!(head, "etag: \"{hash}\"\r\nx-repo-commit: {COMMIT}\r\n");
    let _ = write!(
        head,
        "content-range: bytes {first}-{}/{}\r\ncontent-length: {}\r\n\r\n",
        end - 1,
        bytes.len(),
        end - first
    );
    let mut part = &bytes[first..end];
    if range != "0-0" {
        repository.ranges.push(range);
        if repository.cuts > 0 {
            repository.cuts -= 1;
            part = &part[..part.len() / 2];
        }
    }
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(part));
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn gguf() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    RandomModel::tiny(Architecture::Llama, Recipe::Q4KM).write_gguf(&path, &mut |_| ()).unwrap();
    std::fs::read(path).unwrap()
}

fn installed(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn refused(output: &Output, here: &Path) -> String {
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let visible = |entry: &std::fs::DirEntry| !entry.file_name().to_string_lossy().starts_with('.');
    let left = std::fs::read_dir(here.join("weights"))
        .map_or(0, |entries| entries.map(Result::unwrap).filter(visible).count());
    assert_eq!(left, 0, "something was installed");
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn the_only_gguf_is_installed_with_its_hash() {
    let (folder, bytes) = (tempfile::tempdir().unwrap(), gguf());
    let hub = Hub::start([("small.gguf".into(), bytes.clone()), ("README.md".into(), b"x".to_vec())]);
    let text = installed(&hub.pull(folder.path(), &["owner/model"]));
    assert!(text.contains("steppe serve --model small") && text.contains(&sha256(&bytes)), "{text}");
    assert_eq!(std::fs::read(folder.path().join("weights/small.gguf")).unwrap(), bytes);
    let manifest = std::fs::read_to_string(folder.path().join("weights/small.toml")).unwrap();
    assert!(manifest.contains("repo = \"owner/model\"") && manifest.contains(&sha256(&bytes)), "{manifest}");
    assert!(!folder.path().join("weights/.download").exists(), "the download's cache is gone");
    let again = hub.pull(folder.path(), &["owner/model"]);
    assert!(String::from_utf8_lossy(&again.stderr).contains("--force"));
}

#[test]
fn a_cut_download_is_taken_up_where_it_ended() {
    let (folder, bytes) = (tempfile::tempdir().unwrap(), gguf());
    let hub = Hub::start([("small.gguf".into(), bytes.clone())]);
    hub.repository.lock().unwrap().cuts = 2;
    installed(&hub.pull(folder.path(), &["owner/model"]));
    assert_eq!(std::fs::read(folder.path().join("weights/small.gguf")).unwrap(), bytes);
    let (half, rest) = (bytes.len() / 2, bytes.len() - bytes.len() / 2);
    let wanted = ["0-".to_owned(), format!("{half}-"), format!("{}-", half + rest / 2)];
    assert_eq!(hub.repository.lock().unwrap().ranges, wanted);
}

#[test]
fn a_later_run_goes_on_with_what_an_earlier_one_brought() {
    let (folder, bytes) = (tempfile::tempdir().unwrap(), gguf());
    let hub = Hub::start([("small.gguf".into(), bytes.clone())]);
    hub.repository.lock().unwrap().cuts = 5;
    let text = refused(&hub.pull(folder.path(), &["owner/model"]), folder.path());
    assert!(text.contains("start again to go on"), "{text}");
    hub.repository.lock().unwrap().ranges.clear();
    installed(&hub.pull(folder.path(), &["owner/model"]));
    assert_eq!(std::fs::read(folder.path().join("weights/small.gguf")).unwrap(), bytes);
    let ranges = hub.repository.lock().unwrap().ranges.clone();
    let start: usize = ranges[0].trim_end_matches('-').parse().unwrap();
    assert!(ranges.len() == 1 && start > bytes.len() * 9 / 10, "{ranges:?} of {}", bytes.len());
}

#[test]
fn other_bytes_than_announced_are_thrown_away() {
    let (folder, bytes) = (tempfile::tempdir().unwrap(), gguf());
    let hub = Hub::start([("small.gguf".into(), bytes)]);
    hub.repository.lock().unwrap().wrong_hashes.insert("small.gguf".into(), "1".repeat(64));
    let text = refused(&hub.pull(folder.path(), &["owner/model"]), folder.path());
    assert!(text.contains("SHA-256") && text.contains(&"1".repeat(64)), "{text}");
    // Nothing of it is left to be trusted by a later run.
    hub.repository.lock().unwrap().wrong_hashes.clear();
    installed(&hub.pull(folder.path(), &["owner/model"]));
}

#[test]
fn a_file_that_is_no_model_is_not_installed() {
    let folder = tempfile::tempdir().unwrap();
    let hub = Hub::start([("noise.gguf".into(), vec![7; 4096])]);
    let text = refused(&hub.pull(folder.path(), &["owner/model"]), folder.path());
    assert!(text.contains("GGUF"), "{text}");
}

#[test]
fn a_hostile_entity_tag_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let hub = Hub::start([("small.gguf".into(), gguf())]);
    hub.repository.lock().unwrap().wrong_hashes.insert("small.gguf".into(), "../../../../escaped".into());
    let text = refused(&hub.pull(folder.path(), &["owner/model"]), folder.path());
    assert!(text.contains("entity tag"), "{text}");
}

#[test]
fn what_is_not_there_is_said_clearly() {
    let folder = tempfile::tempdir().unwrap();
    let hub = Hub::start([("a.gguf".into(), gguf()), ("b.gguf".into(), gguf())]);
    let pull = |arguments: &[&str]| refused(&hub.pull(folder.path(), arguments), folder.path());
    let text = pull(&["owner/other"]);
    assert!(text.contains("owner/other is not on") && text.contains("404"), "{text}");
    let text = pull(&["owner/model"]);
    assert!(text.contains("--file a.gguf") && text.contains("--file b.gguf"), "{text}");
    let text = pull(&["owner/model", "--file", "c.gguf"]);
    assert!(text.contains("c.gguf") && text.contains("a.gguf"), "{text}");
    let text = pull(&["nonsense"]);
    assert!(text.contains("saiga_llama3_8b"), "{text}");
    hub.repository.lock().unwrap().status = Some(401);
    let text = pull(&["owner/model"]);
    assert!(text.contains("HF_TOKEN"), "{text}");
}

#[test]
fn a_safetensors_model_comes_as_a_directory() {
    let (folder, source) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let model = RandomModel::tiny(Architecture::Qwen2, Recipe::Q4KM);
    model.write_safetensors(source.path(), kernels::GgmlType::F16, 2).unwrap();
    let entries = std::fs::read_dir(source.path()).unwrap().map(Result::unwrap);
    let mut files: Vec<_> =
        entries.map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap())).collect();
    files.push(("pytorch_model.bin".into(), vec![0; 100]));
    let hub = Hub::start(files);
    installed(&hub.pull(folder.path(), &["owner/model", "--name", "mine"]));
    assert!(folder.path().join("weights/mine/config.json").exists());
    assert!(!folder.path().join("weights/mine/pytorch_model.bin").exists());
    let manifest = std::fs::read_to_string(folder.path().join("weights/mine.toml")).unwrap();
    assert!(manifest.contains(".safetensors\" = "), "{manifest}");
    let opened = models::ModelFile::open(&folder.path().join("weights/mine")).unwrap();
    assert_eq!(opened.config().unwrap().num_layers, model.config.num_layers);
}
