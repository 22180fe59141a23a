//! `steppe serve`: load the model and serve it until told to stop.

use super::config_args::ConfigArgs;
use crate::lang::Lang;
use crate::startup::{self, Report};

/// Arguments of `steppe serve`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    config: ConfigArgs,
}

impl Args {
    /// Runs until SIGTERM or SIGINT.
    pub fn run(self, lang: Lang) -> anyhow::Result<()> {
        startup::serve(self.config.load()?.config, Report::new(lang))
    }
}
