//! The steps of the schema, oldest first. A step that has been released never changes.

use sqlx::SqlSafeStr as _;
use sqlx::migrate::{Migration, MigrationType, Migrator};

const STEPS: [(&str, &str); 4] = [
    ("identity", include_str!("migrations/1_identity.sql")),
    ("ledger", include_str!("migrations/2_ledger.sql")),
    ("sources", include_str!("migrations/3_sources.sql")),
    ("audit", include_str!("migrations/4_audit.sql")),
];

/// All steps.
pub(super) fn all() -> Migrator {
    let step = |(index, (name, sql)): (usize, (&'static str, &'static str))| {
        Migration::new(index as i64 + 1, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    };
    Migrator::with_migrations(STEPS.into_iter().enumerate().map(step).collect())
}
