//! `steppe audit`: whether the log is as it was written, and the log itself.

use std::io::Write as _;

use clap::Subcommand;

use super::config_args::PlaceArgs;
use super::runtime;
use crate::audit::{Anchor, AuditFilter, Format, Log, Proof, parse_moment, timestamp};
use crate::config::Config;
use crate::lang::Lang;
use crate::startup;
use crate::store::Moment;

/// Rows read at once.
const PAGE: i64 = 1000;

/// Arguments of `steppe audit`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Check every row of the log; fails with the first that is not as it was written.
    Verify {
        #[arg(long, value_name = "NUMBER:HASH", help = "A row that was noted elsewhere and must be there")]
        anchor: Option<Anchor>,
        #[command(flatten)]
        config: PlaceArgs,
    },
    /// Write the log to standard output.
    Export {
        #[arg(long, value_parser = moment, help = "From this day or moment on (UTC), such as 2026-01-31T15:00:00Z")]
        from: Option<Moment>,
        #[arg(long, value_parser = moment, help = "Before this day or moment")]
        to: Option<Moment>,
        #[arg(long, default_value = "jsonl", help = "jsonl or syslog")]
        format: Format,
        #[command(flatten)]
        config: PlaceArgs,
    },
}

fn moment(text: &str) -> Result<Moment, String> {
    parse_moment(text).ok_or_else(|| format!("`{text}` is neither like 2026-01-31 nor like 2026-01-31T15:00:00Z"))
}

impl Args {
    /// Does it with the configured database, while a server runs or not.
    pub fn run(self, lang: Lang) -> anyhow::Result<()> {
        match self.action {
            Action::Verify { anchor, config } => runtime()?.block_on(verify(&config.load()?.config, anchor, lang)),
            Action::Export { from, to, format, config } => {
                let all = AuditFilter::default();
                let filter = AuditFilter { from: from.unwrap_or(all.from), to: to.unwrap_or(all.to), ..all };
                runtime()?.block_on(export(&config.load()?.config, filter, format))
            }
        }
    }
}

#[expect(clippy::print_stdout, reason = "the output of the command")]
async fn verify(config: &Config, anchor: Option<Anchor>, lang: Lang) -> anyhow::Result<()> {
    let Proof { rows, first, last, hash, span } = startup::open_audit_log(config).await?.verify(anchor).await?;
    let Some((begin, end)) = span else {
        println!("{}", lang.pick("there are no rows", "записей нет"));
        return Ok(());
    };
    let (begin, end) = (timestamp(begin), timestamp(end));
    let told = lang.pick(
        format!("{rows} rows, {first} to {last}, from {begin} to {end}, are as they were written"),
        format!("{rows} записей, {first}–{last}, с {begin} по {end}, не изменены"),
    );
    println!("{told}");
    if first > 1 {
        let before = first - 1;
        let told = lang.pick(
            format!("rows 1 to {before} were removed by retention"),
            format!("записи 1–{before} удалены по сроку хранения"),
        );
        println!("{told}");
    }
    let told = lang.pick(
        "note it elsewhere to prove later that the end is there",
        "запишите это в другом месте, чтобы потом доказать, что конец цел",
    );
    println!("--anchor {last}:{hash}  # {told}");
    Ok(())
}

async fn export(config: &Config, mut filter: AuditFilter, format: Format) -> anyhow::Result<()> {
    let log: Log = startup::open_audit_log(config).await?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    loop {
        let rows = log.rows(&filter, PAGE).await?;
        let Some(last) = rows.last() else { break };
        filter.after = last.seq;
        for row in &rows {
            writeln!(out, "{}", format.line(row))?;
        }
    }
    Ok(out.flush()?)
}
