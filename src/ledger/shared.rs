//! A ledger among replicas: its lease, what dead replicas left held, and budgets that others have changed.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Inner, LedgerError};

/// Takes a lease, and keeps it until the ledger is closed or dropped.
pub(super) async fn join(inner: &Arc<Inner>) -> Result<(), LedgerError> {
    inner.renew().await?;
    let (weak, pause) = (Arc::downgrade(inner), inner.settings.lease / 3);
    inner.runtime.spawn(async move {
        loop {
            tokio::time::sleep(pause).await;
            let Some(inner) = weak.upgrade() else { return };
            if inner.closed.load(Ordering::Relaxed) {
                return;
            }
            if let Err(error) = inner.renew().await {
                tracing::warn!(%error, "the ledger's lease could not be renewed");
            }
        }
    });
    Ok(())
}

impl Inner {
    async fn renew(&self) -> Result<(), LedgerError> {
        let milliseconds = i64::try_from(self.settings.lease.as_millis()).unwrap_or(i64::MAX / 2);
        self.store.renew_lease(&self.owner, milliseconds).await?;
        let voided = self.store.void_orphaned_holds().await?;
        if voided > 0 {
            tracing::warn!(holds = voided, "voided what a dead replica had left on hold");
        }
        self.read_budgets().await
    }

    /// See [`super::Ledger::close`].
    pub(super) async fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        drop(self.tasks.write().await);
        if self.local.is_none() && self.open_requests().is_empty() {
            // If it fails, the lease ends by itself.
            self.store.end_lease(&self.owner).await.ok();
        }
    }
}
