//! Downloads a repository's files from a hub that speaks Hugging Face's protocol, through `hf-hub`.
//!
//! A broken download is taken up where it ended, in the same run and in later ones. A file whose SHA-256 the hub
//! announces (every large one: its entity tag) is refused when its bytes differ.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hf_hub::api::Progress;
use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};

use super::{has_extension, is_gguf, sha256_of};

/// Where partial downloads are kept inside the weights directory.
const DOWNLOADS: &str = ".download";
/// Attempts at one file before the error is the user's.
const ATTEMPTS: u32 = 5;

/// Why a download failed.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// No such repository or file, or not for these credentials.
    #[error("{what} is not on {endpoint} (404): check its name; a private one needs HF_TOKEN")]
    NotFound {
        /// Repository or file.
        what: String,
        /// The hub.
        endpoint: String,
    },
    /// Credentials are needed.
    #[error("{what}: {endpoint} refuses access ({status}): accept its terms there if it has any, and set HF_TOKEN")]
    Forbidden {
        /// Repository or file.
        what: String,
        /// The hub.
        endpoint: String,
        /// 401 or 403.
        status: u16,
    },
    /// The connection broke and further attempts did not help.
    #[error("{what} from {endpoint}: {reason}; what has arrived is kept, start again to go on")]
    Transport {
        /// Repository or file.
        what: String,
        /// The hub.
        endpoint: String,
        /// What broke.
        reason: String,
    },
    /// The hub's answer makes no sense.
    #[error("{endpoint} answers with {what}")]
    Protocol {
        /// The hub.
        endpoint: String,
        /// What is wrong.
        what: String,
    },
    /// The repository has no file to take, or several.
    #[error("{0}")]
    Choice(String),
    /// The bytes are not those that the hub announces.
    #[error("{file}: its SHA-256 is {actual}, the hub announces {expected}; the download was thrown away")]
    WrongHash {
        /// The file.
        file: String,
        /// The announced hash.
        expected: String,
        /// The hash of the bytes.
        actual: String,
    },
    /// A file cannot be written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
}

/// A repository at one commit.
#[derive(Debug)]
pub struct HubRepo {
    name: String,
    endpoint: String,
    api: Api,
    repo: ApiRepo,
    /// hf-hub's cache for this repository and commit.
    cache: PathBuf,
    files: Vec<String>,
}

/// A file that has arrived.
#[derive(Debug)]
pub struct Downloaded {
    /// Where it lies, inside the weights directory.
    pub path: PathBuf,
    /// Its SHA-256 if the hub announces one; the bytes have it.
    pub sha256: Option<String>,
}

impl HubRepo {
    /// Asks the hub for the repository's files.
    pub fn open(
        endpoint: &str,
        token: Option<String>,
        weights: &Path,
        name: &str,
        revision: &str,
    ) -> Result<Self, HubError> {
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        let downloads = weights.join(DOWNLOADS);
        let api = ApiBuilder::from_cache(Cache::new(downloads.clone()))
            .with_endpoint(endpoint.clone())
            .with_token(token)
            .with_user_agent("steppe", env!("CARGO_PKG_VERSION"))
            .build()
            .map_err(|e| failure(name, &endpoint, &e))?;
        let at = |revision: &str| Repo::with_revision(name.to_owned(), RepoType::Model, revision.to_owned());
        let info = retried(|| api.repo(at(revision)).info()).map_err(|e| failure(name, &endpoint, &e))?;
        if !is_hex(&info.sha) {
            return Err(HubError::Protocol { endpoint, what: format!("the commit {:?}", info.sha) });
        }
        let repo = at(&info.sha);
        let cache = downloads.join(repo.folder_name());
        let files = info.siblings.into_iter().map(|file| file.rfilename).filter(|file| is_plain(file)).collect();
        Ok(Self { name: name.to_owned(), endpoint, repo: api.repo(repo), api, cache, files })
    }

    /// Files to take: those named, else the only GGUF, else a whole safetensors model.
    pub fn choose(&self, named: &[String]) -> Result<Vec<String>, HubError> {
        if !named.is_empty() {
            return named.iter().map(|file| self.known(file)).collect();
        }
        if self.files.iter().any(|file| file == "config.json")
            && self.files.iter().any(|file| has_extension(file, "safetensors"))
        {
            return Ok(self.files.iter().filter(|file| belongs_to_safetensors(file)).cloned().collect());
        }
        let ggufs: Vec<&String> = self.files.iter().filter(|file| is_gguf(file)).collect();
        match ggufs[..] {
            [only] => Ok(vec![only.clone()]),
            [] => Err(HubError::Choice(format!("{} holds neither a GGUF file nor a safetensors model", self.name))),
            _ => {
                let list = ggufs.iter().map(|file| format!("--file {file}")).collect::<Vec<_>>().join("\n  ");
                Err(HubError::Choice(format!("{} holds several GGUF files, choose one:\n  {list}", self.name)))
            }
        }
    }

    fn known(&self, file: &str) -> Result<String, HubError> {
        if self.files.iter().any(|known| known == file) {
            return Ok(file.to_owned());
        }
        let ggufs: Vec<&str> = self.files.iter().map(String::as_str).filter(|file| is_gguf(file)).collect();
        let hint = if ggufs.is_empty() { String::new() } else { format!("; it has {}", ggufs.join(", ")) };
        Err(HubError::Choice(format!("{} has no file {file}{hint}", self.name)))
    }

    /// Brings one file, or takes up where an earlier attempt ended; `progress` makes what shows one attempt.
    pub fn download<P: Progress>(&self, file: &str, progress: impl Fn() -> P) -> Result<Downloaded, HubError> {
        let what = format!("{}/{file}", self.name);
        let fail = |e: ApiError| failure(&what, &self.endpoint, &e);
        let metadata = retried(|| self.api.metadata(&self.repo.url(file))).map_err(fail)?;
        let tag = metadata.etag().to_ascii_lowercase();
        if !is_hex(&tag) || !is_hex(metadata.commit_hash()) {
            return Err(HubError::Protocol {
                endpoint: self.endpoint.clone(),
                what: format!("the entity tag {tag:?}"),
            });
        }
        // hf-hub's links from a snapshot to its blobs, dangling once a blob has moved, are not used here.
        let _ = fs::remove_dir_all(self.cache.join("snapshots"));
        let blob = self.cache.join("blobs").join(metadata.etag());
        let part = blob.with_extension("part");
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| HubError::Io { path, source }
        };
        let size = |path: &Path| fs::metadata(path).map_or(0, |file| file.len());
        if size(&part) > metadata.size() as u64 {
            fs::remove_file(&part).map_err(io(&part))?;
        }
        if size(&blob) == metadata.size() as u64 && blob.is_file() {
            // An earlier run brought it and was stopped before all files were there.
        } else if size(&part) == metadata.size() as u64 && metadata.size() > 0 {
            fs::rename(&part, &blob).map_err(io(&blob))?;
        } else {
            retried(|| self.repo.download_with_progress(file, progress())).map_err(fail)?;
        }
        if tag.len() != 64 {
            return Ok(Downloaded { path: blob, sha256: None });
        }
        let actual = sha256_of(&blob, &mut |_| ()).map_err(io(&blob))?;
        if actual != tag {
            fs::remove_file(&blob).map_err(io(&blob))?;
            return Err(HubError::WrongHash { file: file.to_owned(), expected: tag, actual });
        }
        Ok(Downloaded { path: blob, sha256: Some(actual) })
    }

    /// Removes what `hf-hub` keeps of this repository, for when its files are installed.
    pub fn forget(self) {
        let _ = fs::remove_dir_all(&self.cache);
        if let Some(downloads) = self.cache.parent() {
            let _ = fs::remove_dir(downloads);
        }
    }
}

/// Tries again after a broken connection or a server's error; a refusal is final. `hf-hub`'s own retries are not used:
/// after an attempt that wrote nothing they append to a partial file from its beginning.
fn retried<T>(mut attempt: impl FnMut() -> Result<T, ApiError>) -> Result<T, ApiError> {
    let mut pause = Duration::from_millis(500);
    for _ in 1..ATTEMPTS {
        match attempt() {
            Err(error) if is_passing(&error) => std::thread::sleep(pause),
            outcome => return outcome,
        }
        pause *= 2;
    }
    attempt()
}

fn is_passing(error: &ApiError) -> bool {
    match error {
        ApiError::RequestError(e) => match **e {
            ureq::Error::StatusCode(status) => status == 408 || status == 429 || status >= 500,
            ureq::Error::HostNotFound | ureq::Error::BadUri(_) | ureq::Error::Tls(_) => false,
            _ => true,
        },
        ApiError::IoError(e) => e.kind() != std::io::ErrorKind::StorageFull,
        _ => false,
    }
}

fn failure(what: &str, endpoint: &str, error: &ApiError) -> HubError {
    let (what, endpoint) = (what.to_owned(), endpoint.to_owned());
    if let ApiError::RequestError(e) = error {
        match **e {
            ureq::Error::StatusCode(404) => return HubError::NotFound { what, endpoint },
            ureq::Error::StatusCode(status @ (401 | 403)) => return HubError::Forbidden { what, endpoint, status },
            _ => {}
        }
    }
    HubError::Transport { what, endpoint, reason: error.to_string() }
}

/// A file that cannot leave the directory it is put into.
fn is_plain(file: &str) -> bool {
    let mut components = Path::new(file).components().peekable();
    components.peek().is_some() && components.all(|part| matches!(part, std::path::Component::Normal(_)))
}

fn is_hex(text: &str) -> bool {
    (8..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn belongs_to_safetensors(file: &str) -> bool {
    let wanted = [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "chat_template.jinja",
        "model.safetensors.index.json",
    ];
    !file.contains('/') && (wanted.contains(&file) || has_extension(file, "safetensors"))
}
