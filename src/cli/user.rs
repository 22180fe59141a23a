//! `steppe user`: who may ask.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use anyhow::Context as _;
use clap::Subcommand;
use serde_json::{Value as Json, json};

use super::config_args::PlaceArgs;
use super::{deed, with_users};
use crate::audit::Event;
use crate::auth::{Account, AccountChange, Authenticator};
use crate::lang::Lang;
use crate::store::{Role, User};

/// Arguments of `steppe user`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Add a user, whose password is made and printed once.
    Add {
        /// What they log in with
        name: String,
        /// May do everything
        #[arg(long)]
        admin: bool,
        #[arg(long, help = "Department, which shares limits and budgets")]
        department: Option<String>,
        /// Read the password from standard input
        #[arg(long)]
        password_stdin: bool,
        #[command(flatten)]
        config: PlaceArgs,
    },
    /// List the users.
    List {
        #[command(flatten)]
        config: PlaceArgs,
    },
    /// Give a user a new password, which voids the tokens issued before.
    Passwd {
        /// Whose
        name: String,
        /// Read the password from standard input
        #[arg(long)]
        password_stdin: bool,
        #[command(flatten)]
        config: PlaceArgs,
    },
    /// Shut a user out.
    Disable {
        /// Whom
        name: String,
        #[command(flatten)]
        config: PlaceArgs,
    },
    /// Let a user in again.
    Enable {
        /// Whom
        name: String,
        #[command(flatten)]
        config: PlaceArgs,
    },
}

impl Args {
    /// Does it in the configured database; a running server sees it at once.
    pub fn run(self, lang: Lang) -> anyhow::Result<()> {
        match self.action {
            Action::Add { name, admin, department, password_stdin, config } => with_users(config, async |auth| {
                let role = if admin { Role::Admin } else { Role::User };
                let password = password_stdin.then(read_password).transpose()?;
                let (user, made) = auth.add_user(Account { name, password, role, department }).await?;
                tell_password(&user.name, made.as_deref(), lang);
                let told = json!({"role": user.role.as_str(), "department_id": user.department_id});
                Ok(Some(changed("user add", &user, told)))
            }),
            Action::List { config } => with_users(config, async |auth| list(&auth, lang).await.map(|()| None)),
            Action::Passwd { name, password_stdin, config } => with_users(config, async |auth| {
                let user = auth.find_user(&name).await?;
                let made = (!password_stdin).then(Authenticator::random_password);
                let password = made.clone().map_or_else(read_password, Ok)?;
                let change = AccountChange { password: Some(password), ..AccountChange::default() };
                auth.change_user(&user.id, change).await?;
                tell_password(&user.name, made.as_deref(), lang);
                Ok(Some(changed("user passwd", &user, json!({}))))
            }),
            Action::Disable { name, config } => with_users(config, async |auth| disable(&auth, &name, true).await),
            Action::Enable { name, config } => with_users(config, async |auth| disable(&auth, &name, false).await),
        }
    }
}

async fn disable(auth: &Authenticator, name: &str, disabled: bool) -> anyhow::Result<Option<Event>> {
    let user = auth.find_user(name).await?;
    let change = AccountChange { disabled: Some(disabled), ..AccountChange::default() };
    auth.change_user(&user.id, change).await?;
    Ok(Some(changed(if disabled { "user disable" } else { "user enable" }, &user, json!({}))))
}

fn changed(action: &str, user: &User, mut details: Json) -> Event {
    details["username"] = user.name.as_str().into();
    deed(action, format!("user:{}", user.id), details)
}

#[expect(clippy::print_stdout, reason = "the output of the command")]
async fn list(auth: &Authenticator, lang: Lang) -> anyhow::Result<()> {
    let departments = auth.store().departments().await?;
    for user in auth.store().users().await? {
        let department = departments.iter().find(|department| Some(&department.id) == user.department_id.as_ref());
        let department = department.map_or("-", |department| department.name.as_str());
        let state = if user.disabled { lang.pick("disabled", "отключён") } else { "" };
        let state = if user.is_out() && !user.disabled { lang.pick("left", "выбыл") } else { state };
        let (role, source) = (user.role.as_str(), user.source.as_str());
        println!("{:<24} {role:<6} {source:<10} {department:<20} {} {state}", user.name, user.id);
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the output of the command")]
fn tell_password(name: &str, made: Option<&str>, lang: Lang) {
    if let Some(password) = made {
        println!("{}", lang.pick(format!("password of {name}: {password}"), format!("пароль {name}: {password}")));
    }
}

#[expect(clippy::print_stderr, reason = "a prompt")]
fn read_password() -> anyhow::Result<String> {
    if std::io::stdin().is_terminal() {
        eprint!("password: ");
        std::io::stderr().flush()?;
    }
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).context("no password on standard input")?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
