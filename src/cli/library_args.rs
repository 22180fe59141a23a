//! The flags that name the weights directory, for the subcommands that work on it.

use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};

use crate::config;
use crate::lang::Lang;
use crate::library::Library;

/// Where models lie.
#[derive(Debug, clap::Args)]
pub struct LibraryArgs {
    /// Directory of the models [default: model.directory of the configuration, else weights]
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Configuration file [default: config.toml if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl LibraryArgs {
    /// The library in that directory.
    pub fn open(self) -> anyhow::Result<Library> {
        if let Some(directory) = self.directory {
            return Ok(Library::new(directory));
        }
        let sources = super::config_args::sources(self.config, Vec::new());
        Ok(Library::new(config::load(&sources)?.config.model.directory))
    }
}

/// A bar over so many bytes; hidden where standard error is no terminal.
pub fn byte_bar(label: &str, bytes: u64) -> ProgressBar {
    let bar = ProgressBar::new(bytes).with_message(label.to_owned());
    let template = "{msg} [{wide_bar}] {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

/// Bytes for people.
pub fn human_bytes(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

/// Bytes of a file, or of the files in a directory; 0 when unknown.
pub fn size_of(path: &Path) -> u64 {
    let of = |path: &Path| std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file).map_or(0, |m| m.len());
    match std::fs::read_dir(path) {
        Ok(entries) => entries.flatten().map(|entry| of(&entry.path())).sum(),
        Err(_) => of(path),
    }
}

/// What to say once a model lies in its place.
pub fn installed_text(installed: &crate::library::Installed, lang: Lang) -> String {
    let (path, name) = (installed.path.display(), &installed.manifest.name);
    match lang {
        Lang::En => format!("{path} is checked and ready: steppe serve --model {name}"),
        Lang::Ru => format!("{path} проверена и готова: steppe serve --model {name}"),
    }
}
