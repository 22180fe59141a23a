//! `steppe quantize`: a safetensors directory (or a GGUF of float weights) into a quantised GGUF file.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use models::{ModelFile, Recipe};

use super::library_args::{human_bytes, size_of};
use crate::lang::Lang;
use crate::manifest::Manifest;

/// Arguments of `steppe quantize`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A safetensors directory, or a GGUF file of F32, F16 or BF16
    source: PathBuf,
    /// `q4_k_m`, `q8_0`, or any other element type
    #[arg(long = "type", value_name = "TYPE")]
    recipe: String,
    /// The file to write [default: beside the source, NAME.TYPE.gguf]
    #[arg(short, long)]
    output: Option<PathBuf>,
    /// Replace the output if it is there
    #[arg(long)]
    force: bool,
}

impl Args {
    /// Reads, quantises and writes, a few megabytes at a time.
    #[expect(clippy::print_stdout, reason = "the output of the command")]
    pub fn run(self, lang: Lang) -> anyhow::Result<()> {
        let recipe = recipe(&self.recipe, lang)?;
        let output = self.output.unwrap_or_else(|| beside(&self.source, &self.recipe));
        anyhow::ensure!(
            self.force || !output.exists(),
            match lang {
                Lang::En => format!("{} is there already; replace it with --force", output.display()),
                Lang::Ru => format!("{} уже есть; заменить его — с --force", output.display()),
            }
        );
        let source = ModelFile::open(&self.source)?;
        let bar = ProgressBar::new(1000);
        let style = ProgressStyle::with_template("[{wide_bar}] {percent}% {eta}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        let size = models::quantize(&source, recipe, &output, &mut |done| bar.set_position((done * 1000.0) as u64))?;
        bar.finish_and_clear();
        let (from, to) = (human_bytes(size_of(&self.source)), human_bytes(size));
        println!("{}: {to} ({} {from})", output.display(), lang.pick("from", "из"));
        Ok(())
    }
}

/// The recipe that `--type` names.
pub fn recipe(name: &str, lang: Lang) -> anyhow::Result<Recipe> {
    Recipe::from_name(name).with_context(|| match lang {
        Lang::En => format!("--type {name}: q4_k_m or an element type such as q8_0 is needed"),
        Lang::Ru => format!("--type {name}: нужно q4_k_m или тип элементов, например q8_0"),
    })
}

fn beside(source: &Path, recipe: &str) -> PathBuf {
    source.with_file_name(format!("{}.{}.gguf", Manifest::name_of(source), recipe.to_uppercase()))
}
