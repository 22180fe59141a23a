//! The command line: one enum variant, one file and one `run` per subcommand. Must not know what a subcommand does.

mod audit;
mod bench;
mod check_config;
mod config_args;
mod import;
mod inspect;
mod key;
mod library_args;
mod make_model;
mod models;
mod pull;
mod quantize;
mod secret;
mod serve;
mod unix_user;
mod user;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::audit::{Actor, Audit, Event, Kind};
use crate::auth::Authenticator;
use crate::lang::Lang;
use crate::startup;
use crate::trust;

/// A change is written down in so long, or that is an error.
const AUDIT_PATIENCE: Duration = Duration::from_secs(10);

/// Serves local language models behind an OpenAI-compatible API.
#[derive(Debug, Parser)]
#[command(name = "steppe", version, about, propagate_version = true)]
struct Cli {
    /// Language of the messages, en or ru
    #[arg(long, global = true, env = "LANG", hide_env = true, default_value = "en", hide_default_value = true)]
    lang: Lang,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Load a model and serve it.
    Serve(serve::Args),
    /// Print the resolved configuration and where each value comes from.
    CheckConfig(check_config::Args),
    /// Download a model from the hub into the weights directory.
    Pull(pull::Args),
    /// Take a model that was carried here into the weights directory.
    Import(import::Args),
    /// List the models in the weights directory.
    Models(models::Args),
    /// Show what a model file is and what it takes to run it.
    Inspect(inspect::Args),
    /// Turn a safetensors directory into a quantised GGUF file.
    Quantize(quantize::Args),
    /// Write a model with random weights, for tests and benchmarks.
    MakeModel(make_model::Args),
    /// Add, list and change the users.
    User(user::Args),
    /// Make, list and take back API keys.
    Key(key::Args),
    /// Rotate the keys that replicas share.
    Secret(secret::Args),
    /// Prove the audit log, and write it out.
    Audit(audit::Args),
    /// Put load on any OpenAI-compatible server and measure it.
    Bench(bench::Args),
}

impl Command {
    fn run(self, lang: Lang) -> anyhow::Result<()> {
        match self {
            Self::Serve(args) => args.run(lang),
            Self::CheckConfig(args) => args.run(),
            Self::Pull(args) => args.run(lang),
            Self::Import(args) => args.run(lang),
            Self::Models(args) => args.run(lang),
            Self::Inspect(args) => args.run(lang),
            Self::Quantize(args) => args.run(lang),
            Self::MakeModel(args) => args.run(lang),
            Self::User(args) => args.run(lang),
            Self::Key(args) => args.run(lang),
            Self::Secret(args) => args.run(lang),
            Self::Audit(args) => args.run(lang),
            Self::Bench(args) => args.run(lang),
        }
    }
}

/// Does something with the users and keys of the configured database; what was changed goes into the audit log.
fn with_users(
    config: config_args::PlaceArgs,
    work: impl AsyncFnOnce(Authenticator) -> anyhow::Result<Option<Event>>,
) -> anyhow::Result<()> {
    let mut config = config.load()?.config;
    // A file that is made here might belong to somebody else than the server.
    config.audit.file.take_if(|file| !file.exists());
    runtime()?.block_on(async {
        let auth = startup::open_auth(&config).await?;
        let audit = Audit::open(auth.store().clone(), &config.audit).await?;
        let Some(event) = work(auth).await? else { return Ok(()) };
        audit.record(event);
        anyhow::ensure!(audit.flush(AUDIT_PATIENCE).await, "it is done, but the audit log could not be written");
        Ok(())
    })
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()
}

/// Something that whoever runs this program has done to an object. Never a secret in `details`.
fn deed(action: &str, object: String, details: serde_json::Value) -> Event {
    let actor = Actor { name: format!("cli:{}", unix_user::name()), credential: "shell", ..Actor::default() };
    let details = if let serde_json::Value::Object(details) = details { details } else { serde_json::Map::new() };
    Event { actor, object, details, outcome: "done".into(), ..Event::new(Kind::Admin, action) }
}

/// Parses the process's arguments, runs the subcommand and turns an error into one message and a non-zero exit.
#[expect(clippy::print_stderr, reason = "the program's last word to its user")]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    // Whatever connects by TLS from now on.
    trust::provider();
    match cli.command.run(cli.lang) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", told(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error and its causes in one line, without a cause that its effect repeats.
fn told(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string).filter(|cause| !cause.is_empty()) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}
