//! Departments: groups of users that share limits and budgets.

use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::{Result, Store, StoreError, is_duplicate, new_id, now};

/// A department.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Department {
    /// Made by the program.
    pub id: String,
    /// Unique.
    pub name: String,
}

impl Store {
    /// Adds a department.
    pub async fn add_department(&self, name: &str) -> Result<Department> {
        let id = new_id("dep");
        let statement = "INSERT INTO departments (id, name, created_at) VALUES ($1, $2, $3)";
        let added = sqlx::query(statement).bind(&id).bind(name).bind(now()).execute(&self.pool).await;
        match added {
            Ok(_) => Ok(Department { id, name: name.to_owned() }),
            Err(error) if is_duplicate(&error) => Err(StoreError::Exists(name.to_owned())),
            Err(error) => Err(error.into()),
        }
    }

    /// The department of this name.
    pub async fn department_named(&self, name: &str) -> Result<Option<Department>> {
        let row = sqlx::query("SELECT id, name FROM departments WHERE name = $1").bind(name);
        row.fetch_optional(&self.pool).await?.as_ref().map(department).transpose()
    }

    /// All departments by name.
    pub async fn departments(&self) -> Result<Vec<Department>> {
        let rows = sqlx::query("SELECT id, name FROM departments ORDER BY name").fetch_all(&self.pool).await?;
        rows.iter().map(department).collect()
    }
}

fn department(row: &AnyRow) -> Result<Department> {
    Ok(Department { id: row.try_get("id")?, name: row.try_get("name")? })
}
