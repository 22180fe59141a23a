//! Departments: groups of users that share limits and budgets.

use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::error::is_duplicate;
use super::{Result, Store, StoreError, new_id, now};

/// A department.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Department {
    /// Made by the program.
    pub id: String,
    /// Unique.
    pub name: String,
    /// Its own limits, a JSON object.
    pub limits: String,
}

/// No limits of one's own.
const NONE: &str = "{}";
const COLUMNS: &str = "id, name, limits";

impl Store {
    /// Adds a department.
    pub async fn add_department(&self, name: &str) -> Result<Department> {
        let id = new_id("dep");
        let statement = "INSERT INTO departments (id, name, limits, created_at) VALUES ($1, $2, $3, $4)";
        let added = sqlx::query(statement).bind(&id).bind(name).bind(NONE).bind(now()).execute(&self.pool).await;
        match added {
            Ok(_) => Ok(Department { id, name: name.to_owned(), limits: NONE.to_owned() }),
            Err(error) if is_duplicate(&error) => Err(StoreError::Exists(name.to_owned())),
            Err(error) => Err(error.into()),
        }
    }

    /// The department of this name.
    pub async fn department_named(&self, name: &str) -> Result<Option<Department>> {
        let statement = sqlx::AssertSqlSafe(format!("SELECT {COLUMNS} FROM departments WHERE name = $1"));
        sqlx::query(statement).bind(name).fetch_optional(&self.pool).await?.as_ref().map(department).transpose()
    }

    /// Gives a department limits of its own, a JSON object.
    pub async fn set_department_limits(&self, id: &str, limits: &str) -> Result<()> {
        let statement = "UPDATE departments SET limits = $1 WHERE id = $2";
        let changed = sqlx::query(statement).bind(limits).bind(id).execute(&self.pool).await?;
        if changed.rows_affected() == 0 {
            return Err(StoreError::NotFound(format!("department {id}")));
        }
        Ok(())
    }

    /// All departments by name.
    pub async fn departments(&self) -> Result<Vec<Department>> {
        let statement = sqlx::AssertSqlSafe(format!("SELECT {COLUMNS} FROM departments ORDER BY name"));
        sqlx::query(statement).fetch_all(&self.pool).await?.iter().map(department).collect()
    }
}

fn department(row: &AnyRow) -> Result<Department> {
    Ok(Department { id: row.try_get("id")?, name: row.try_get("name")?, limits: row.try_get("limits")? })
}
