//! `steppe pull`: a model from the hub into the weights directory. The only subcommand that needs the internet.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use hf_hub::api::Progress;
use indicatif::ProgressBar;

use super::library_args::{LibraryArgs, byte_bar, human_bytes, installed_text};
use crate::lang::Lang;
use crate::library::hub::{Downloaded, HubRepo};
use crate::library::{Library, LibraryError, install, is_gguf};
use crate::manifest::Manifest;

/// Arguments of `steppe pull`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A repository on the hub (owner/name) or a manifest's name, such as `saiga_llama3_8b`
    what: String,
    /// File of the repository; for a GGUF model one, for safetensors as many as wanted [default: chosen]
    #[arg(long)]
    file: Vec<String>,
    /// Name of the model here
    #[arg(long)]
    name: Option<String>,
    /// Branch, tag or commit
    #[arg(long, default_value = "main")]
    revision: String,
    /// Replace a model of the same name
    #[arg(long)]
    force: bool,
    /// The hub
    #[arg(long, env = "HF_ENDPOINT", default_value = "https://huggingface.co")]
    endpoint: String,
    /// Token for private repositories
    #[arg(long, env = "HF_TOKEN", hide_env_values = true)]
    token: Option<String>,
    #[command(flatten)]
    library: LibraryArgs,
}

impl Args {
    /// Downloads, checks and installs.
    #[expect(clippy::print_stdout, reason = "the output of the command")]
    pub fn run(self, lang: Lang) -> anyhow::Result<()> {
        let library = self.library.open()?;
        let mut manifest = wanted(&library, &self.what, lang)?;
        let repo = manifest.repo.clone().with_context(|| match lang {
            Lang::En => format!("the manifest {} names no repository to pull from", manifest.name),
            Lang::Ru => format!("манифест {} не называет репозитория, откуда загружать", manifest.name),
        })?;
        let named = if self.file.is_empty() { manifest.file.clone().into_iter().collect() } else { self.file };

        let hub = HubRepo::open(&self.endpoint, self.token, library.directory(), &repo, &self.revision)?;
        let files = hub.choose(&named)?;
        let single = matches!(&files[..], [file] if is_gguf(file));
        manifest.file = single.then(|| files[0].clone());
        if let Some(name) = self.name {
            manifest.name = name;
        } else if manifest.name.is_empty() {
            manifest.name = Manifest::name_of(Path::new(if single { &files[0] } else { &repo }));
        }
        let place = library.place(&manifest.name, single);
        if place.exists() && !self.force {
            return Err(LibraryError::Occupied(place).into());
        }

        let mut arrived = Vec::new();
        for file in &files {
            let downloaded = hub.download(file, || Bar::new(file))?;
            println!("{file}: {}", told(&downloaded, lang));
            arrived.push((file.clone(), downloaded));
        }
        let (staged, staging) = stage(&library, &mut manifest, arrived, single)?;
        let installed = install(&library, &staged, manifest, self.force, &mut |_| ());
        if let Some(staging) = staging {
            let _ = std::fs::remove_dir_all(staging);
        }
        println!("{}", installed_text(&installed?, lang));
        hub.forget();
        Ok(())
    }
}

/// The manifest to start from: the one in the weights directory, a built-in one, or one for a bare repository.
fn wanted(library: &Library, what: &str, lang: Lang) -> anyhow::Result<Manifest> {
    let is_repo = what.split('/').count() == 2 && !what.starts_with(['.', '/']) && !what.ends_with('/');
    if is_repo {
        return Ok(Manifest { repo: Some(what.to_owned()), ..Manifest::default() });
    }
    let manifest = Manifest::of_model(&library.place(what, false))?;
    manifest.with_context(|| {
        let known: Vec<_> = Manifest::built_in().filter(|m| m.repo.is_some()).map(|m| m.name).collect();
        let known = known.join(", ");
        match lang {
            Lang::En => format!("{what} is neither a repository (owner/name) nor a known manifest (built in: {known})"),
            Lang::Ru => format!("{what} — не репозиторий (владелец/имя) и не манифест (встроены: {known})"),
        }
    })
}

/// One file stays where it is; the files of a directory are gathered in one.
fn stage(
    library: &Library,
    manifest: &mut Manifest,
    arrived: Vec<(String, Downloaded)>,
    single: bool,
) -> anyhow::Result<(PathBuf, Option<PathBuf>)> {
    if single && let [(_, downloaded)] = &arrived[..] {
        manifest.sha256 = downloaded.sha256.clone().or_else(|| manifest.sha256.take());
        return Ok((downloaded.path.clone(), None));
    }
    let directory = library.directory().join(format!(".pull-{}", std::process::id()));
    std::fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
    for (file, downloaded) in arrived {
        let name = Path::new(&file).file_name().context("a file without a name")?;
        let target = directory.join(name);
        std::fs::rename(&downloaded.path, &target).with_context(|| target.display().to_string())?;
        if let Some(hash) = downloaded.sha256 {
            manifest.files.insert(name.to_string_lossy().into_owned(), hash);
        }
    }
    Ok((directory.clone(), Some(directory)))
}

fn told(downloaded: &Downloaded, lang: Lang) -> String {
    let size = human_bytes(std::fs::metadata(&downloaded.path).map_or(0, |file| file.len()));
    match (&downloaded.sha256, lang) {
        (Some(hash), Lang::En) => format!("{size}, SHA-256 {hash} as the hub announces"),
        (Some(hash), Lang::Ru) => format!("{size}, SHA-256 {hash}, как объявлено хабом"),
        (None, Lang::En) => format!("{size}, the hub announces no SHA-256"),
        (None, Lang::Ru) => format!("{size}, хаб не объявил SHA-256"),
    }
}

/// A download on the terminal. Its position starts over at each attempt, which first reports what is there already.
struct Bar(ProgressBar);

impl Bar {
    fn new(file: &str) -> Self {
        Self(byte_bar(file, 0))
    }
}

impl Progress for Bar {
    fn init(&mut self, size: usize, _file: &str) {
        self.0.set_length(size as u64);
        self.0.set_position(0);
    }

    fn update(&mut self, bytes: usize) {
        self.0.inc(bytes as u64);
    }

    fn finish(&mut self) {
        self.0.finish_and_clear();
    }
}
