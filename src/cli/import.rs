//! `steppe import`: a model that was carried here on a disk or over the company's network, into the weights directory.

use std::path::PathBuf;

use anyhow::Context as _;

use super::library_args::{LibraryArgs, byte_bar, installed_text, size_of};
use crate::lang::Lang;
use crate::library::{Import, import};
use crate::manifest::Manifest;

/// Arguments of `steppe import`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A GGUF file or a safetensors directory
    path: PathBuf,
    /// Name of the model here
    #[arg(long)]
    name: Option<String>,
    /// Built-in manifest with its system prompt and sampling, such as `saiga_llama3_8b`
    #[arg(long)]
    manifest: Option<String>,
    /// Remove the source when all is done
    #[arg(long = "move")]
    moves: bool,
    /// Replace a model of the same name
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    library: LibraryArgs,
}

impl Args {
    /// Copies, hashes, opens and installs.
    #[expect(clippy::print_stdout, reason = "the output of the command")]
    pub fn run(self, lang: Lang) -> anyhow::Result<()> {
        let library = self.library.open()?;
        let manifest = match self.manifest {
            None => None,
            Some(name) => Some(Manifest::built_in_named(&name).with_context(|| match lang {
                Lang::En => format!("no manifest {name} is built in"),
                Lang::Ru => format!("манифест {name} не встроен"),
            })?),
        };
        let bar = byte_bar(lang.pick("checking", "проверка"), size_of(&self.path));
        let wanted = Import { source: self.path, name: self.name, manifest, moves: self.moves, force: self.force };
        let installed = import(&library, &wanted, &mut |bytes| bar.inc(bytes))?;
        bar.finish_and_clear();
        println!("{}", installed_text(&installed, lang));
        Ok(())
    }
}
