//! Users: who may ask, in what role.

use std::str::FromStr;

use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::error::is_duplicate;
use super::{Connection, Moment, Result, Store, StoreError, new_id, now};

/// What a user may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Everything.
    Admin,
    /// Use the models, and see what is one's own.
    User,
}

impl Role {
    /// The word for it, in the database and in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::User => "user",
        }
    }
}

impl User {
    /// Whether whatever they hold is refused: they are shut out, or their source no longer vouches for them.
    pub fn is_out(&self) -> bool {
        self.disabled || (self.source != Source::Local && self.vouched_at == 0)
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        [Self::Admin, Self::User]
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| format!("`{text}` is no role; admin and user are"))
    }
}

/// Who knows a user's password, or vouches for them otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// This installation.
    Local,
    /// The company's directory.
    Directory,
    /// The issuer of the company's own tokens.
    Issuer,
}

impl Source {
    const ALL: [Self; 3] = [Self::Local, Self::Directory, Self::Issuer];

    /// The word for it, in the database and in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Directory => "directory",
            Self::Issuer => "issuer",
        }
    }
}

/// A user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Made by the program.
    pub id: String,
    /// What the user logs in with, in lower case.
    pub name: String,
    /// A PHC string; none for those whom somebody else vouches for.
    pub password_hash: Option<String>,
    /// Who vouches for them.
    pub source: Source,
    /// What the source calls them for ever, if it says.
    pub subject: Option<String>,
    /// When the source did so last; 0 when it no longer does.
    pub vouched_at: Moment,
    /// What they may do.
    pub role: Role,
    /// Department, if any.
    pub department_id: Option<String>,
    /// The department's own limits, a JSON object.
    pub department_limits: Option<String>,
    /// Refused everywhere.
    pub disabled: bool,
    /// Tokens issued before are void.
    pub tokens_from: Moment,
    /// When they were added.
    pub created_at: Moment,
}

/// A user to be added.
#[derive(Debug, Clone, Copy)]
pub struct NewUser<'a> {
    /// Any case.
    pub name: &'a str,
    /// A PHC string.
    pub password_hash: Option<&'a str>,
    /// What they may do.
    pub role: Role,
    /// An existing department.
    pub department_id: Option<&'a str>,
}

/// Somebody whom a source other than this installation vouches for, now.
#[derive(Debug, Clone, Copy)]
pub struct Vouched<'a> {
    /// Any case.
    pub name: &'a str,
    /// Who vouches.
    pub source: Source,
    /// What the source calls them for ever, if it says.
    pub subject: Option<&'a str>,
    /// What they may do; absent, it stays (users to begin with).
    pub role: Option<Role>,
    /// Whether the source says in which department they are.
    pub moves: bool,
    /// In which, if in any: an existing one.
    pub department_id: Option<&'a str>,
}

const COLUMNS: &str = "users.id, users.name, password_hash, source, subject, vouched_at, role, department_id, \
                       departments.limits AS limits, disabled, tokens_from, users.created_at";
const TABLES: &str = "users LEFT JOIN departments ON departments.id = department_id";

impl Store {
    /// Adds a user.
    pub async fn add_user(&self, new: NewUser<'_>) -> Result<User> {
        let user = User {
            id: new_id("user"),
            name: new.name.to_lowercase(),
            password_hash: new.password_hash.map(str::to_owned),
            source: Source::Local,
            subject: None,
            vouched_at: 0,
            role: new.role,
            department_id: new.department_id.map(str::to_owned),
            department_limits: None,
            disabled: false,
            tokens_from: 0,
            created_at: now(),
        };
        let added = sqlx::query(
            "INSERT INTO users (id, name, password_hash, role, department_id, disabled, tokens_from, created_at) \
             VALUES ($1, $2, $3, $4, $5, 0, 0, $6)",
        )
        .bind(&user.id)
        .bind(&user.name)
        .bind(&user.password_hash)
        .bind(user.role.as_str())
        .bind(&user.department_id)
        .bind(user.created_at)
        .execute(&self.pool)
        .await;
        match added {
            Ok(_) => Ok(self.user(&user.id).await?.unwrap_or(user)),
            Err(error) if is_duplicate(&error) => Err(StoreError::Exists(user.name)),
            Err(error) => Err(error.into()),
        }
    }

    /// Adds or updates somebody whom a source vouches for. None where the name is somebody else's: a source never
    /// takes over a user of another, nor one whom it knows under another `subject`.
    pub async fn vouch(&self, them: Vouched<'_>) -> Result<Option<User>> {
        let statement = "INSERT INTO users (id, name, source, subject, vouched_at, role, department_id, disabled, \
                         tokens_from, created_at) \
                         VALUES ($1, $2, $3, $4, $5, COALESCE($6, 'user'), $7, 0, 0, $5) \
                         ON CONFLICT (name) DO UPDATE SET vouched_at = $5, role = COALESCE($6, users.role), \
                         department_id = CASE WHEN $8 = 1 THEN $7 ELSE users.department_id END \
                         WHERE users.source = $3 AND COALESCE(users.subject, '') = COALESCE($4, '') RETURNING id";
        let write = sqlx::query(statement)
            .bind(new_id("user"))
            .bind(them.name.to_lowercase())
            .bind(them.source.as_str())
            .bind(them.subject.map(str::to_owned))
            .bind(now())
            .bind(them.role.map(Role::as_str))
            .bind(them.department_id.map(str::to_owned))
            .bind(i64::from(them.moves));
        match self.guard.once(write.fetch_optional(&self.pool)).await? {
            Some(row) => self.user(&row.try_get::<String, _>("id")?).await,
            None => Ok(None),
        }
    }

    /// The source no longer vouches for this user: their tokens are void, and whatever they hold is refused until it does
    /// again. Local users are nobody else's to disown.
    pub async fn disown(&self, user_id: &str) -> Result<()> {
        let mut transaction = self.pool.begin().await?;
        let statement = "UPDATE users SET vouched_at = 0, tokens_from = $1 WHERE id = $2 AND source <> 'local'";
        let changed = sqlx::query(statement).bind(now()).bind(user_id).execute(&mut *transaction).await?;
        if changed.rows_affected() > 0 {
            end_refresh_tokens(&mut transaction, user_id).await?;
        }
        Ok(transaction.commit().await?)
    }

    /// The user of this id.
    pub async fn user(&self, id: &str) -> Result<Option<User>> {
        self.user_where("id = $1", id).await
    }

    /// The user of this id, and whether the token of this `jti` was revoked.
    pub async fn user_with_token(&self, id: &str, jti: &str) -> Result<Option<(User, bool)>> {
        let revoked = "(SELECT COUNT(*) FROM revoked_tokens WHERE jti = $2) AS revoked";
        let statement =
            || sqlx::AssertSqlSafe(format!("SELECT {COLUMNS}, {revoked} FROM {TABLES} WHERE users.id = $1"));
        let found = self.row(|| sqlx::query(statement()).bind(id).bind(jti)).await?;
        found.map(|row| Ok((user(&row)?, row.try_get::<i64, _>("revoked")? > 0))).transpose()
    }

    /// The user of this name, in any case.
    pub async fn user_named(&self, name: &str) -> Result<Option<User>> {
        self.user_where("name = $1", &name.to_lowercase()).await
    }

    async fn user_where(&self, condition: &'static str, value: &str) -> Result<Option<User>> {
        let statement = || sqlx::AssertSqlSafe(format!("SELECT {COLUMNS} FROM {TABLES} WHERE users.{condition}"));
        self.row(|| sqlx::query(statement()).bind(value)).await?.as_ref().map(user).transpose()
    }

    /// All users by name.
    pub async fn users(&self) -> Result<Vec<User>> {
        let statement = sqlx::AssertSqlSafe(format!("SELECT {COLUMNS} FROM {TABLES} ORDER BY users.name"));
        sqlx::query(statement).fetch_all(&self.pool).await?.iter().map(user).collect()
    }

    /// Changes a password. Tokens issued before are void, and whoever had another source is a local user from now on.
    pub async fn set_password(&self, user_id: &str, password_hash: &str) -> Result<()> {
        let mut transaction = self.pool.begin().await?;
        let statement = "UPDATE users SET password_hash = $1, source = 'local', tokens_from = $2 WHERE id = $3";
        let change = sqlx::query(statement).bind(password_hash).bind(now()).bind(user_id);
        found(change.execute(&mut *transaction).await?.rows_affected(), user_id)?;
        end_refresh_tokens(&mut transaction, user_id).await?;
        Ok(transaction.commit().await?)
    }

    /// Changes what a user may do.
    pub async fn set_role(&self, user_id: &str, role: Role) -> Result<()> {
        let statement = "UPDATE users SET role = $1 WHERE id = $2";
        let changed = sqlx::query(statement).bind(role.as_str()).bind(user_id).execute(&self.pool).await?;
        found(changed.rows_affected(), user_id)
    }

    /// Moves a user into an existing department.
    pub async fn set_department(&self, user_id: &str, department_id: &str) -> Result<()> {
        let statement = "UPDATE users SET department_id = $1 WHERE id = $2";
        let changed = sqlx::query(statement).bind(department_id).bind(user_id).execute(&self.pool).await?;
        found(changed.rows_affected(), user_id)
    }

    /// Shuts a user out, whose tokens are void from then on, or lets them in again.
    pub async fn set_disabled(&self, user_id: &str, disabled: bool) -> Result<()> {
        let mut transaction = self.pool.begin().await?;
        let statement = "UPDATE users SET disabled = $1, tokens_from = $2 WHERE id = $3";
        let change = sqlx::query(statement).bind(i64::from(disabled)).bind(now()).bind(user_id);
        found(change.execute(&mut *transaction).await?.rows_affected(), user_id)?;
        end_refresh_tokens(&mut transaction, user_id).await?;
        Ok(transaction.commit().await?)
    }
}

async fn end_refresh_tokens(connection: &mut Connection, user_id: &str) -> Result<()> {
    sqlx::query("DELETE FROM refresh_tokens WHERE user_id = $1").bind(user_id).execute(connection).await?;
    Ok(())
}

fn found(changed: u64, user_id: &str) -> Result<()> {
    if changed == 0 { Err(StoreError::NotFound(format!("user {user_id}"))) } else { Ok(()) }
}

fn user(row: &AnyRow) -> Result<User> {
    let (role, source): (String, String) = (row.try_get("role")?, row.try_get("source")?);
    let known = Source::ALL.into_iter().find(|known| known.as_str() == source);
    Ok(User {
        id: row.try_get("id")?,
        name: row.try_get("name")?,
        password_hash: row.try_get("password_hash")?,
        source: known.ok_or_else(|| StoreError::Foreign(format!("the source `{source}`")))?,
        subject: row.try_get("subject")?,
        vouched_at: row.try_get("vouched_at")?,
        role: role.parse().map_err(|_| StoreError::Foreign(format!("the role `{role}`")))?,
        department_id: row.try_get("department_id")?,
        department_limits: row.try_get("limits")?,
        disabled: row.try_get::<i64, _>("disabled")? != 0,
        tokens_from: row.try_get("tokens_from")?,
        created_at: row.try_get("created_at")?,
    })
}
