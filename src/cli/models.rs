//! `steppe models`: what lies in the weights directory and what can be pulled by name.

use serde_json::json;

use super::library_args::{LibraryArgs, human_bytes};
use crate::lang::Lang;
use crate::library::{Library, LibraryError, Summary};
use crate::manifest::Manifest;

/// Arguments of `steppe models`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    library: LibraryArgs,
}

struct Row {
    name: String,
    model: Result<(Summary, bool), LibraryError>,
}

impl Args {
    /// Lists every model; one that cannot be opened says why.
    pub fn run(self, lang: Lang) -> anyhow::Result<()> {
        let library = self.library.open()?;
        let rows = rows(&library)?;
        let absent: Vec<String> = Manifest::built_in()
            .filter(|manifest| manifest.repo.is_some() && !rows.iter().any(|row| row.name == manifest.name))
            .map(|manifest| manifest.name)
            .collect();
        if self.json {
            print_json(&library, &rows, &absent);
        } else {
            print_table(&library, &rows, &absent, lang);
        }
        Ok(())
    }
}

fn rows(library: &Library) -> Result<Vec<Row>, LibraryError> {
    let row = |path: std::path::PathBuf| {
        let open = || Ok((Summary::of(&models::ModelFile::open(&path)?)?, Manifest::of_model(&path)?.is_some()));
        let model = open();
        Row { name: Manifest::name_of(&path), model }
    };
    Ok(library.models()?.into_iter().map(row).collect())
}

#[expect(clippy::print_stdout, reason = "the output of the command")]
fn print_json(library: &Library, rows: &[Row], absent: &[String]) {
    let row = |row: &Row| match &row.model {
        Ok((summary, manifest)) => json!({ "name": row.name, "manifest": manifest, "model": summary }),
        Err(error) => json!({ "name": row.name, "error": error.to_string() }),
    };
    let models: Vec<_> = rows.iter().map(row).collect();
    println!("{}", json!({ "directory": library.directory(), "models": models, "can_be_pulled": absent }));
}

#[expect(clippy::print_stdout, reason = "the output of the command")]
fn print_table(library: &Library, rows: &[Row], absent: &[String], lang: Lang) {
    let directory = library.directory().display();
    if rows.is_empty() {
        println!("{directory}: {}", lang.pick("no models", "моделей нет"));
    } else {
        let head = lang.pick(
            ["name", "architecture", "parameters", "types", "size", "context", "manifest"],
            ["имя", "архитектура", "параметры", "типы", "размер", "контекст", "манифест"],
        );
        let width = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0).max(4);
        let line = |c: [&str; 7]| {
            println!("{:width$}  {:12}  {:>10}  {:6}  {:>11}  {:>8}  {}", c[0], c[1], c[2], c[3], c[4], c[5], c[6]);
        };
        line(head);
        for row in rows {
            match &row.model {
                Ok((summary, manifest)) => line([
                    &row.name,
                    &summary.architecture,
                    &human_count(summary.parameters),
                    summary.main_type(),
                    &human_bytes(summary.tensor_bytes),
                    &summary.max_context.to_string(),
                    if *manifest { lang.pick("yes", "есть") } else { "-" },
                ]),
                Err(error) => println!("{:width$}  {}: {error}", row.name, lang.pick("damaged", "повреждена")),
            }
        }
    }
    if !absent.is_empty() {
        println!("{}: {}", lang.pick("can be pulled by name", "можно загрузить по имени"), absent.join(", "));
    }
}

/// `8.03B`, `135M`.
pub fn human_count(count: u64) -> String {
    match count {
        1_000_000_000.. => format!("{:.2}B", count as f64 / 1e9),
        1_000_000.. => format!("{:.0}M", count as f64 / 1e6),
        _ => count.to_string(),
    }
}
