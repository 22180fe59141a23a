//! Users: who may ask, in what role.

use std::str::FromStr;

use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::{Moment, Result, Store, StoreError, is_duplicate, new_id, now};

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

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        [Self::Admin, Self::User]
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| format!("`{text}` is no role; admin and user are"))
    }
}

/// A user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Made by the program.
    pub id: String,
    /// What the user logs in with, in lower case.
    pub name: String,
    /// A PHC string; none for those whom a directory vouches for.
    pub password_hash: Option<String>,
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
    /// A PHC string; none for those whom a directory vouches for.
    pub password_hash: Option<&'a str>,
    /// What they may do.
    pub role: Role,
    /// An existing department.
    pub department_id: Option<&'a str>,
}

const SELECT: &str = "SELECT users.id, users.name, password_hash, role, department_id, departments.limits AS limits, \
                      disabled, tokens_from, users.created_at FROM users \
                      LEFT JOIN departments ON departments.id = department_id";

impl Store {
    /// Adds a user.
    pub async fn add_user(&self, new: NewUser<'_>) -> Result<User> {
        let user = User {
            id: new_id("user"),
            name: new.name.to_lowercase(),
            password_hash: new.password_hash.map(str::to_owned),
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

    /// The user of this id.
    pub async fn user(&self, id: &str) -> Result<Option<User>> {
        self.user_where("id = $1", id).await
    }

    /// The user of this name, in any case.
    pub async fn user_named(&self, name: &str) -> Result<Option<User>> {
        self.user_where("name = $1", &name.to_lowercase()).await
    }

    async fn user_where(&self, condition: &'static str, value: &str) -> Result<Option<User>> {
        let statement = || sqlx::AssertSqlSafe(format!("{SELECT} WHERE users.{condition}"));
        let found = self.guard.read(|| sqlx::query(statement()).bind(value).fetch_optional(&self.pool));
        found.await?.as_ref().map(user).transpose()
    }

    /// All users by name.
    pub async fn users(&self) -> Result<Vec<User>> {
        let statement = sqlx::AssertSqlSafe(format!("{SELECT} ORDER BY users.name"));
        sqlx::query(statement).fetch_all(&self.pool).await?.iter().map(user).collect()
    }

    /// Changes a password. Tokens issued before are void.
    pub async fn set_password(&self, user_id: &str, password_hash: &str) -> Result<()> {
        let statement = "UPDATE users SET password_hash = $1, tokens_from = $2 WHERE id = $3";
        let changed = sqlx::query(statement).bind(password_hash).bind(now()).bind(user_id).execute(&self.pool).await?;
        found(changed.rows_affected(), user_id)
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
        let statement = "UPDATE users SET disabled = $1, tokens_from = $2 WHERE id = $3";
        let changed =
            sqlx::query(statement).bind(i64::from(disabled)).bind(now()).bind(user_id).execute(&self.pool).await?;
        found(changed.rows_affected(), user_id)
    }
}

fn found(changed: u64, user_id: &str) -> Result<()> {
    if changed == 0 { Err(StoreError::NotFound(format!("user {user_id}"))) } else { Ok(()) }
}

fn user(row: &AnyRow) -> Result<User> {
    let role: String = row.try_get("role")?;
    Ok(User {
        id: row.try_get("id")?,
        name: row.try_get("name")?,
        password_hash: row.try_get("password_hash")?,
        role: role.parse().map_err(|_| StoreError::Foreign(format!("the role `{role}`")))?,
        department_id: row.try_get("department_id")?,
        department_limits: row.try_get("limits")?,
        disabled: row.try_get::<i64, _>("disabled")? != 0,
        tokens_from: row.try_get("tokens_from")?,
        created_at: row.try_get("created_at")?,
    })
}
