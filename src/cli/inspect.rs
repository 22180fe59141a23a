//! `steppe inspect`: what a model file is, without loading it.

use std::fmt::Write as _;

use models::ModelFile;
use serde_json::json;

use super::library_args::{LibraryArgs, human_bytes};
use super::models::human_count;
use crate::lang::Lang;
use crate::library::Summary;

/// Arguments of `steppe inspect`.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "independent flags")]
pub struct Args {
    /// A GGUF file, a safetensors directory or the name of a model
    model: String,
    /// List every tensor
    #[arg(long)]
    tensors: bool,
    /// List everything that the file says about itself
    #[arg(long)]
    metadata: bool,
    /// Print the chat template
    #[arg(long)]
    template: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    library: LibraryArgs,
}

impl Args {
    /// Prints what the file is.
    #[expect(clippy::print_stdout, reason = "the output of the command")]
    pub fn run(self, lang: Lang) -> anyhow::Result<()> {
        let path = self.library.open()?.find(&self.model)?;
        let file = ModelFile::open(&path)?;
        if self.json {
            println!("{}", json_of(&file)?);
            return Ok(());
        }
        if self.template {
            println!("{}", file.chat_template().unwrap_or_default());
            return Ok(());
        }
        print!("{}", text_of(&file, &Summary::of(&file)?, lang));
        if self.metadata {
            for (key, value) in file.metadata() {
                println!("{key} = {value}");
            }
        }
        if self.tensors {
            for tensor in file.tensors() {
                let shape = tensor.shape.iter().map(ToString::to_string).collect::<Vec<_>>().join(" x ");
                let size = human_bytes(tensor.bytes as u64);
                println!("{:40}  {:5}  {shape:>16}  {size:>12}", tensor.name, tensor.ggml_type.name());
            }
        }
        Ok(())
    }
}

fn json_of(file: &ModelFile) -> anyhow::Result<String> {
    let tensor = |tensor: models::TensorInfo| json!({ "name": tensor.name, "type": tensor.ggml_type.name(), "shape": tensor.shape, "bytes": tensor.bytes });
    let mut value = serde_json::to_value(Summary::of(file)?)?;
    value["path"] = json!(file.path());
    value["tensor_list"] = file.tensors().into_iter().map(tensor).collect();
    value["metadata"] = file.metadata().into_iter().map(|(key, text)| (key, json!(text))).collect();
    value["chat_template"] = json!(file.chat_template());
    Ok(value.to_string())
}

fn text_of(file: &ModelFile, summary: &Summary, lang: Lang) -> String {
    let mut text = String::new();
    let mut line = |english: &str, russian: &str, value: String| {
        let _ = writeln!(text, "{:18}{value}", lang.pick(english, russian));
    };
    line("file", "файл", format!("{} ({})", file.path().display(), summary.format));
    let parameters = human_count(summary.parameters);
    line("architecture", "архитектура", format!("{}, {parameters}", summary.architecture));
    line(
        "shape",
        "размеры",
        format!(
            "layers {}, hidden {}, feed-forward {}, heads {} / {} of {}, vocabulary {}",
            summary.layers,
            summary.hidden_size,
            summary.intermediate_size,
            summary.heads,
            summary.kv_heads,
            summary.head_dim,
            summary.vocab_size
        ),
    );
    line("context", "контекст", summary.max_context.to_string());
    line("rope", "rope", format!("theta {}, scaling: {}", summary.rope_theta, summary.rope_scaling));
    let types = summary.types.iter();
    let types: Vec<_> =
        types.map(|(name, share)| format!("{name} {} ({})", share.tensors, human_bytes(share.bytes))).collect();
    let total = human_bytes(summary.tensor_bytes);
    line("tensors", "тензоры", format!("{}, {total}: {}", summary.tensors, types.join(", ")));
    let tied = lang.pick("tied to the embedding", "общая с эмбеддингом");
    line(
        "output",
        "выход",
        if summary.tied_embeddings { tied } else { lang.pick("of its own", "отдельная") }.to_owned(),
    );
    let tokenizer = &summary.tokenizer;
    let pre = tokenizer.pre.as_ref().map(|pre| format!(" / {pre}")).unwrap_or_default();
    line("tokenizer", "токенизатор", format!("{}{pre}", tokenizer.model));
    line("begins with", "начало", tokenizer.bos.clone().unwrap_or_else(|| "-".into()));
    line("ends with", "окончания", tokenizer.ends.join(" "));
    let own = summary.chat_template_bytes.map(|bytes| match lang {
        Lang::En => format!("in the file, {bytes} bytes (--template prints it)"),
        Lang::Ru => format!("в файле, {bytes} байт (--template печатает его)"),
    });
    let none = lang.pick("none in the file: llama3's or ChatML's is taken", "в файле нет: берётся llama3 или ChatML");
    line("chat template", "шаблон чата", own.unwrap_or_else(|| none.to_owned()));
    for row in &summary.memory {
        let (total, kv) = (human_bytes(row.total_bytes), human_bytes(row.kv_bytes));
        let value = match lang {
            Lang::En => format!("{total} with one context of {} tokens (KV {kv})", row.context),
            Lang::Ru => format!("{total} при одном контексте в {} токенов (KV {kv})", row.context),
        };
        line("memory", "память", value);
    }
    text
}
