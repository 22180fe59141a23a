//! `steppe key`: API keys.

use clap::Subcommand;
use serde_json::json;

use super::config_args::PlaceArgs;
use super::{deed, with_users};
use crate::auth::{KeyRequest, Scope};
use crate::lang::Lang;
use crate::limits::Quota;
use crate::store::now;

const DAY_MILLISECONDS: i64 = 24 * 60 * 60 * 1000;

/// Arguments of `steppe key`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a key, which is printed once.
    Create(Create),
    /// List a user's keys.
    List {
        /// Whose keys
        user: String,
        #[command(flatten)]
        config: PlaceArgs,
    },
    /// Take a key back.
    Revoke {
        /// Whose key
        user: String,
        /// Its id, as `list` shows it
        id: String,
        #[command(flatten)]
        config: PlaceArgs,
    },
}

#[derive(Debug, clap::Args)]
struct Create {
    /// Whose key
    user: String,
    #[arg(long, default_value = "key", help = "What its owner calls it")]
    name: String,
    #[arg(long, help = "generate, read, act_as, metrics, admin; may be repeated [default: generate, read]")]
    scope: Vec<Scope>,
    #[arg(long, help = "Only this model; may be repeated [default: all]")]
    model: Vec<String>,
    #[arg(long, help = "Requests in a minute, whatever the default of keys is")]
    requests_per_minute: Option<u64>,
    #[arg(long, help = "Requests in an hour, whatever the default of keys is")]
    requests_per_hour: Option<u64>,
    #[arg(long, help = "Tokens in a minute, whatever the default of keys is")]
    tokens_per_minute: Option<u64>,
    #[arg(long, help = "Requests at the same time, whatever the default of keys is")]
    parallel_requests: Option<u64>,
    #[arg(long, value_name = "DAYS", help = "Good for so long [default: for good]")]
    days: Option<u16>,
    #[command(flatten)]
    config: PlaceArgs,
}

impl Create {
    #[expect(clippy::print_stdout, reason = "the output of the command")]
    fn run(self) -> anyhow::Result<()> {
        let limits = Quota {
            requests_per_minute: self.requests_per_minute,
            requests_per_hour: self.requests_per_hour,
            tokens_per_minute: self.tokens_per_minute,
            parallel_requests: self.parallel_requests,
        };
        with_users(self.config, async |auth| {
            let user = auth.find_user(&self.user).await?;
            let expires_at = self.days.map(|days| now() + i64::from(days) * DAY_MILLISECONDS);
            let request = KeyRequest { name: self.name, scopes: self.scope, models: self.model, limits, expires_at };
            let made = auth.make_key(&user.id, request).await?;
            println!("{}", made.secret);
            let key = made.key;
            let told = json!({"user_id": user.id, "name": key.name, "scopes": key.scopes, "models": key.models});
            Ok(Some(deed("key create", format!("key:{}", key.id), told)))
        })
    }
}

impl Args {
    /// Does it in the configured database; a running server sees it at once.
    #[expect(clippy::print_stdout, reason = "the output of the command")]
    pub fn run(self, lang: Lang) -> anyhow::Result<()> {
        match self.action {
            Action::Create(create) => create.run(),
            Action::List { user, config } => with_users(config, async |auth| {
                let user = auth.find_user(&user).await?;
                for key in auth.store().api_keys_of(&user.id).await? {
                    let state = if key.is_good(now()) {
                        ""
                    } else {
                        lang.pick("not good any more", "уже не годится")
                    };
                    println!("{} …{} {:<20} {} {state}", key.id, key.hint, key.name, key.scopes.join(","));
                }
                Ok(None)
            }),
            Action::Revoke { user, id, config } => with_users(config, async |auth| {
                let user = auth.find_user(&user).await?;
                auth.store().revoke_api_key(&user.id, &id).await?;
                Ok(Some(deed("key revoke", format!("key:{id}"), json!({"user_id": user.id}))))
            }),
        }
    }
}
