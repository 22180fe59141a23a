//! `steppe make-model`: a model with random weights, for tests and for benchmarks where the real file cannot be had.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::ValueEnum;
use indicatif::ProgressBar;
use models::Architecture;
use models::random::RandomModel;

use super::library_args::{human_bytes, size_of};
use super::quantize::recipe;
use crate::lang::Lang;

/// Arguments of `steppe make-model`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The GGUF file to write; with --safetensors the directory
    output: PathBuf,
    /// The shape of Saiga Llama 3 8B in Q4_K_M, 4.9 GB [default: two layers of a few hundred kilobytes]
    #[arg(long)]
    saiga_8b: bool,
    /// Family of the model
    #[arg(long, value_enum, default_value = "llama", conflicts_with = "saiga_8b")]
    architecture: Family,
    /// Types of the matrices: `q4_k_m`, or one type such as `q8_0`, `f16`
    #[arg(long = "type", default_value = "q4_k_m")]
    recipe: String,
    /// Transformer blocks
    #[arg(long)]
    layers: Option<usize>,
    /// Width of the residual stream
    #[arg(long)]
    hidden: Option<usize>,
    /// Width of the feed-forward layer
    #[arg(long)]
    intermediate: Option<usize>,
    /// Query heads
    #[arg(long)]
    heads: Option<usize>,
    /// Key and value heads
    #[arg(long)]
    kv_heads: Option<usize>,
    /// Tokens of the vocabulary
    #[arg(long)]
    vocab: Option<usize>,
    /// Longest context
    #[arg(long)]
    context: Option<usize>,
    /// A Hugging Face tokenizer.json to take the vocabulary from [default: the 256 bytes and a few merges]
    #[arg(long)]
    tokenizer: Option<PathBuf>,
    /// Seed of the weights; the same options and seed give the same bytes
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write a safetensors directory in F16 instead
    #[arg(long)]
    safetensors: bool,
}

/// Families by their names on the command line.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Family {
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
}

impl Args {
    /// Writes the model.
    #[expect(clippy::print_stdout, reason = "the output of the command")]
    pub fn run(self, lang: Lang) -> anyhow::Result<()> {
        let model = self.model(lang)?;
        let bar = ProgressBar::new(1000);
        let mut progress = |done: f32| bar.set_position((done * 1000.0) as u64);
        if self.safetensors {
            model.write_safetensors(&self.output, kernels::GgmlType::F16, 1)?;
            if let Some(tokenizer) = &self.tokenizer {
                copy_tokenizer(tokenizer, &self.output)?;
            }
        } else {
            model.write_gguf(&self.output, &mut progress)?;
        }
        bar.finish_and_clear();
        let size = size_of(&self.output);
        println!(
            "{}: {} ({})",
            self.output.display(),
            human_bytes(size),
            lang.pick("random weights", "случайные веса")
        );
        Ok(())
    }

    fn model(&self, lang: Lang) -> anyhow::Result<RandomModel> {
        let recipe = recipe(&self.recipe, lang)?;
        let architecture = match self.architecture {
            Family::Llama => Architecture::Llama,
            Family::Mistral => Architecture::Mistral,
            Family::Qwen2 => Architecture::Qwen2,
            Family::Qwen3 => Architecture::Qwen3,
        };
        let mut model = if self.saiga_8b { RandomModel::saiga_8b() } else { RandomModel::tiny(architecture, recipe) };
        model.recipe = recipe;
        model.seed = self.seed;
        let config = &mut model.config;
        if let Some(tokenizer) = &self.tokenizer {
            model.vocabulary = models::read_tokenizer_json(tokenizer, Some(&config_beside(tokenizer)))?;
            config.vocab_size = config.vocab_size.max(model.vocabulary.tokens.len());
        }
        let set = |target: &mut usize, given: Option<usize>| *target = given.unwrap_or(*target);
        set(&mut config.num_layers, self.layers);
        set(&mut config.hidden_size, self.hidden);
        set(&mut config.intermediate_size, self.intermediate);
        set(&mut config.num_heads, self.heads);
        set(&mut config.num_kv_heads, self.kv_heads);
        set(&mut config.vocab_size, self.vocab);
        set(&mut config.max_context, self.context);
        if self.hidden.is_some() || self.heads.is_some() {
            config.head_dim = config.hidden_size / config.num_heads.max(1);
        }
        Ok(model)
    }
}

fn config_beside(tokenizer: &Path) -> PathBuf {
    tokenizer.with_file_name("tokenizer_config.json")
}

/// Puts a tokenizer into a safetensors directory as it is, not as GGUF's terms describe it.
fn copy_tokenizer(tokenizer: &Path, directory: &Path) -> anyhow::Result<()> {
    let copy = |from: &Path, name: &str| {
        fs::copy(from, directory.join(name)).map(drop).with_context(|| from.display().to_string())
    };
    copy(tokenizer, "tokenizer.json")?;
    let config = config_beside(tokenizer);
    if config.is_file() { copy(&config, "tokenizer_config.json") } else { Ok(()) }
}
