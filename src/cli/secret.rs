//! `steppe secret`: the keys that replicas share through the database.

use clap::{Subcommand, ValueEnum};
use serde_json::json;

use super::config_args::PlaceArgs;
use super::{deed, with_users};
use crate::lang::Lang;
use crate::store::Purpose;

/// Arguments of `steppe secret`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a new key; what was made under older ones stays good.
    Rotate {
        /// Which key
        kind: Kind,
        #[command(flatten)]
        config: PlaceArgs,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    /// Signs access tokens
    TokenKey,
    /// Hashes API keys and refresh tokens
    KeyPepper,
    /// Seals entries of the prompt cache
    CacheMac,
    /// Seals the audit log where no `audit.key` is configured
    AuditKey,
}

impl Args {
    /// Does it in the configured database; servers take the new key when they are started again.
    #[expect(clippy::print_stdout, reason = "the output of the command")]
    pub fn run(self, lang: Lang) -> anyhow::Result<()> {
        let Action::Rotate { kind, config } = self.action;
        let purpose = match kind {
            Kind::TokenKey => Purpose::TokenKey,
            Kind::KeyPepper => Purpose::KeyPepper,
            Kind::CacheMac => Purpose::CacheMac,
            Kind::AuditKey => Purpose::AuditKey,
        };
        with_users(config, async |auth| {
            // 64 hexadecimal digits are a seed, a pepper and a key alike.
            let material = hex::encode(rand::random::<[u8; 32]>());
            let generation = auth.store().rotate_secret(purpose, &material).await?.first().map_or(0, |s| s.generation);
            println!(
                "{}",
                lang.pick(
                    format!("generation {generation}; restart the servers to use it"),
                    format!("поколение {generation}; перезапустите серверы, чтобы его использовать"),
                )
            );
            let name = kind.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
            Ok(Some(deed("secret rotate", format!("secret:{name}"), json!({"generation": generation}))))
        })
    }
}
