//! `steppe check-config`: the resolved configuration, each value with where it came from.

use super::config_args::ConfigArgs;
use crate::auth::Outside;
use crate::resilience::Breakers;

/// Arguments of `steppe check-config`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    config: ConfigArgs,
}

impl Args {
    /// Prints the configuration as TOML with the origins as comments, if the files that it names can be used.
    #[expect(clippy::print_stdout, reason = "the output of the command")]
    pub fn run(self) -> anyhow::Result<()> {
        let loaded = self.config.load()?;
        Outside::open(loaded.config.directory.as_ref(), loaded.config.issuer.as_ref(), &Breakers::default())?;
        let mut section = String::new();
        for (path, value, origin) in loaded.provenance {
            let (this_section, key) = path.split_once('.').unwrap_or(("", &path));
            if this_section != section {
                println!("{}[{this_section}]", if section.is_empty() { "" } else { "\n" });
                this_section.clone_into(&mut section);
            }
            println!("{:<40} # {origin}", format!("{key} = {value}"));
        }
        Ok(())
    }
}
