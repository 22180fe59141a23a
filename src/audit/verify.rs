//! Whether the log is as it was written: every row after the one before it, up to the end that the head knows.

use std::sync::Arc;

use super::seal::{Keys, Rank};
use super::{AuditError, Log};
use crate::store::audit::{self, AuditHead, AuditRow};
use crate::store::{Connection, Moment};

/// Rows read at once.
const PAGE: i64 = 1000;

/// What was proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// Rows that are as they were written.
    pub rows: i64,
    /// The first of them; what was before was removed by retention.
    pub first: i64,
    /// The last one; 0 where there is none.
    pub last: i64,
    /// Its hash, by which a later proof can be asked whether it still stands.
    pub hash: String,
    /// When the first and the last of them were written.
    pub span: Option<(Moment, Moment)>,
}

/// The first thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// The head is not what was sealed.
    #[error("the head of the log was changed")]
    Head,
    /// A row, the last one perhaps, is sealed by the database's key after the configured one.
    #[error("row {0} is sealed by a key of the database, although audit.key is in force")]
    WeakerKey(i64),
    /// The key of a row is not known here.
    #[error("row {0} is sealed by `{1}`, which is not known here (audit.key)")]
    UnknownKey(i64, String),
    /// A row is missing.
    #[error("row {0} is missing")]
    Missing(i64),
    /// A row is not what was sealed.
    #[error("row {0} was changed")]
    Changed(i64),
    /// There are rows after the last one.
    #[error("row {0} was added behind the end of the log")]
    Added(i64),
    /// The row that was noted is not there, or another one.
    #[error("row {0} is not the one that was noted")]
    Anchor(i64),
}

/// A row that somebody noted elsewhere: its number and its hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anchor {
    /// Number of the row.
    pub seq: i64,
    /// Its hash.
    pub hash: String,
}

impl std::str::FromStr for Anchor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once(':').and_then(|(seq, hash)| Some((seq.parse().ok()?, hash.to_owned())));
        parts.map(|(seq, hash)| Self { seq, hash }).ok_or_else(|| format!("`{text}` is not NUMBER:HASH"))
    }
}

impl Log {
    /// Checks every row that is there, and that of the anchor among them.
    ///
    /// # Errors
    /// [`AuditError::Broken`] with the first thing that is wrong.
    pub async fn verify(&self, anchor: Option<Anchor>) -> Result<Proof, AuditError> {
        let keys = Arc::clone(&self.keys);
        self.store.snapshot(|connection| Box::pin(async move { verify(connection, &keys, anchor).await })).await
    }
}

async fn verify(connection: &mut Connection, keys: &Keys, anchor: Option<Anchor>) -> Result<Proof, AuditError> {
    let head = audit::head(connection).await?;
    check_head(keys, &head)?;
    let noted = |seq, hash: &str| anchor.as_ref().is_none_or(|anchor| anchor.seq == seq && anchor.hash == hash);
    let mut found = noted(head.pruned_seq, &head.pruned_hash);
    let mut walk = Walk { keys, seq: head.pruned_seq, hash: head.pruned_hash, rank: Rank::Database };
    let mut span: Option<(Moment, Moment)> = None;
    loop {
        let rows = audit::after(connection, walk.seq, PAGE).await?;
        for row in &rows {
            if row.seq > head.seq && walk.seq == head.seq {
                return Err(Broken::Added(row.seq).into());
            }
            walk.step(row)?;
            found |= noted(row.seq, &row.hash);
            span = Some((span.map_or(row.moment, |(first, _)| first), row.moment));
        }
        if rows.is_empty() {
            break;
        }
    }
    if walk.seq < head.seq {
        return Err(Broken::Missing(walk.seq + 1).into());
    }
    if walk.hash != head.hash {
        return Err(Broken::Changed(head.seq).into());
    }
    match anchor {
        Some(anchor) if !found => Err(Broken::Anchor(anchor.seq).into()),
        _ => Ok(Proof {
            rows: head.seq - head.pruned_seq,
            first: head.pruned_seq + 1,
            last: head.seq,
            hash: walk.hash,
            span,
        }),
    }
}

/// The way along the chain.
struct Walk<'a> {
    keys: &'a Keys,
    seq: i64,
    hash: String,
    /// Of the last row's key.
    rank: Rank,
}

impl Walk<'_> {
    fn step(&mut self, row: &AuditRow) -> Result<(), Broken> {
        let expected = self.seq + 1;
        if row.seq != expected {
            return Err(Broken::Missing(expected));
        }
        let Some(rank) = self.keys.rank(&row.sealed_by) else {
            return Err(Broken::UnknownKey(row.seq, row.sealed_by.clone()));
        };
        if self.keys.row_hash(row, &self.hash).as_ref() != Some(&row.hash) {
            return Err(Broken::Changed(row.seq));
        }
        // Who knows only the database's key cannot go on after the configured one.
        if rank < self.rank {
            return Err(Broken::WeakerKey(row.seq));
        }
        (self.seq, self.rank) = (row.seq, rank);
        self.hash.clone_from(&row.hash);
        Ok(())
    }
}

fn check_head(keys: &Keys, head: &AuditHead) -> Result<(), Broken> {
    if *head == AuditHead::default() {
        // Nothing has ever been written.
        return Ok(());
    }
    match keys.rank(&head.sealed_by) {
        None => Err(Broken::UnknownKey(head.seq, head.sealed_by.clone())),
        Some(_) if keys.head_seal(head).as_ref() != Some(&head.seal) => Err(Broken::Head),
        Some(rank) if Some(rank) < keys.rank(keys.current()) => Err(Broken::WeakerKey(head.seq)),
        Some(_) => Ok(()),
    }
}
