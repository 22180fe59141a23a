//! The chain in the database: appending to it and removing what is too old. Replicas append to one chain, one after the
//! other.

use std::sync::{Arc, Mutex, PoisonError};

use super::AuditError;
use super::seal::Keys;
use crate::store::audit::{self, AuditFilter, AuditRow};
use crate::store::{Connection, Moment, Store, StoreError, Write};

/// Rows that are removed in one transaction.
const PRUNED_AT_ONCE: i64 = 5000;

/// The log in the database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Log {
    pub(super) store: Store,
    pub(super) keys: Arc<Keys>,
}

/// Number and hash of the last row of an attempt that may have been committed although it is said to have failed.
pub(super) type Attempt = Arc<Mutex<Option<(i64, String)>>>;

impl Log {
    /// The log in this database. `key` seals it; without one a key that the database holds.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn open(store: Store, key: Option<&str>) -> Result<Self, AuditError> {
        let keys = Arc::new(Keys::open(&store, key).await?);
        Ok(Self { store, keys })
    }

    /// Rows in their order, so many at most.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn rows(&self, filter: &AuditFilter, limit: i64) -> Result<Vec<AuditRow>, AuditError> {
        Ok(self.store.audit_rows(filter, limit).await?)
    }

    /// Appends rows, all or none, and returns them with their places. `attempt` outlives a failure, so that the same rows
    /// are not written twice when only the answer was lost.
    pub(super) async fn append(&self, rows: Vec<AuditRow>, attempt: &Attempt) -> Result<Vec<AuditRow>, AuditError> {
        let append =
            Write::new((Arc::clone(&self.keys), rows, Arc::clone(attempt)), |connection, (keys, rows, attempt)| {
                Box::pin(append(connection, keys, rows.clone(), attempt))
            });
        Ok(self.store.write_apart(append).await?)
    }

    /// Removes leading rows that are all older than `moment`, and says which was the last of them. The head keeps its hash,
    /// so that what is left can still be proven.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn prune(&self, moment: Moment) -> Result<Option<i64>, AuditError> {
        let mut pruned = None;
        while let Some(last) = self.prune_some(moment).await? {
            pruned = Some(last);
        }
        Ok(pruned)
    }

    async fn prune_some(&self, moment: Moment) -> Result<Option<i64>, AuditError> {
        let prune = Write::new((Arc::clone(&self.keys), moment), |connection, (keys, moment)| {
            Box::pin(async move {
                let mut head = audit::lock_head(connection).await?;
                let Some(last) = audit::last_before(connection, *moment, PRUNED_AT_ONCE).await? else {
                    return Ok(None);
                };
                head.pruned_hash = audit::hash_of(connection, last).await?.unwrap_or_default();
                head.pruned_seq = last;
                keys.seal_head(&mut head);
                audit::remove_through(connection, last).await?;
                audit::set_head(connection, &head).await?;
                Ok(Some(last))
            })
        });
        Ok(self.store.write_apart(prune).await?)
    }
}

/// Gives rows their places at the end of the chain.
async fn append(
    connection: &mut Connection,
    keys: &Keys,
    mut rows: Vec<AuditRow>,
    attempt: &Attempt,
) -> Result<Vec<AuditRow>, StoreError> {
    let mut head = audit::lock_head(connection).await?;
    let before = attempt.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some((last, hash)) = before
        && audit::hash_of(connection, last).await?.as_ref() == Some(&hash)
    {
        let first = last - rows.len() as i64;
        return audit::after(connection, first, rows.len() as i64).await;
    }
    for row in &mut rows {
        row.seq = head.seq + 1;
        keys.seal_row(row, &head.hash);
        head.seq = row.seq;
        head.hash.clone_from(&row.hash);
    }
    keys.seal_head(&mut head);
    *attempt.lock().unwrap_or_else(PoisonError::into_inner) = Some((head.seq, head.hash.clone()));
    audit::insert(connection, &rows).await?;
    audit::set_head(connection, &head).await?;
    Ok(rows)
}
