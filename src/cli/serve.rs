//! `steppe serve`: load the model and serve it until told to stop.

use super::config_args::ConfigArgs;
use crate::startup;

/// Arguments of `steppe serve`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    config: ConfigArgs,
}

impl Args {
    /// Runs until SIGTERM or SIGINT.
    pub fn run(self) -> anyhow::Result<()> {
        startup::serve(self.config.load()?.config)
    }
}
