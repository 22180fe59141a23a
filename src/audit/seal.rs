//! The keys of the chain, and what they make of a row and of the head. Every field goes in with its length, so that no two
//! rows have the same bytes.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

use super::AuditError;
use crate::store::audit::{AuditHead, AuditRow};
use crate::store::{Purpose, Store};

const CONFIGURED: &str = "configured-";

/// Whom a key keeps out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    /// Who cannot read the database.
    Database,
    /// Who knows no more than the database.
    Configured,
}

/// The keys there are, the current one first; older ones only check.
pub(super) struct Keys {
    keys: Vec<(String, Hmac<Sha256>)>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|(name, _)| name)).finish()
    }
}

impl Keys {
    /// The configured key, which the database does not know, then those of the database.
    pub async fn open(store: &Store, configured: Option<&str>) -> Result<Self, AuditError> {
        let make = || hex::encode(rand::random::<[u8; 32]>());
        let mut named = Vec::new();
        if let Some(key) = configured {
            let fingerprint = hex::encode(Sha256::digest(format!("audit key {key}")));
            named.push((format!("{CONFIGURED}{}", &fingerprint[..12]), key.to_owned()));
        }
        for secret in store.secrets(Purpose::AuditKey, make).await? {
            named.push((format!("database-{}", secret.generation), secret.material));
        }
        let key = |(name, material): (String, String)| {
            let mac = Hmac::new_from_slice(material.as_bytes()).map_err(|error| AuditError::Key(error.to_string()))?;
            Ok((name, mac))
        };
        Ok(Self { keys: named.into_iter().map(key).collect::<Result<_, AuditError>>()? })
    }

    /// Name of the current key.
    pub fn current(&self) -> &str {
        self.keys.first().map_or("", |(name, _)| name)
    }

    /// Whom a key keeps out; none where it is not known.
    pub fn rank(&self, name: &str) -> Option<Rank> {
        let known = self.keys.iter().any(|(known, _)| known == name);
        known.then(|| if name.starts_with(CONFIGURED) { Rank::Configured } else { Rank::Database })
    }

    /// Gives a row its place after one of this hash.
    pub fn seal_row(&self, row: &mut AuditRow, before: &str) {
        self.current().clone_into(&mut row.sealed_by);
        row.hash = self.row_hash(row, before).unwrap_or_default();
    }

    /// Seals a head.
    pub fn seal_head(&self, head: &mut AuditHead) {
        self.current().clone_into(&mut head.sealed_by);
        head.seal = self.head_seal(head).unwrap_or_default();
    }

    /// The hash that a row must have; none where its key is not known.
    pub fn row_hash(&self, row: &AuditRow, before: &str) -> Option<String> {
        self.mac(&row.sealed_by, &[row.seq, row.moment], &[&["row", before], &row.texts()[..]].concat())
    }

    /// The seal that a head must have; none where its key is not known.
    pub fn head_seal(&self, head: &AuditHead) -> Option<String> {
        self.mac(&head.sealed_by, &[head.seq, head.pruned_seq], &["head", &head.hash, &head.pruned_hash])
    }

    fn mac(&self, name: &str, numbers: &[i64], texts: &[&str]) -> Option<String> {
        let (_, key) = self.keys.iter().find(|(known, _)| known == name)?;
        let mut mac = key.clone();
        for number in numbers {
            mac.update(&number.to_be_bytes());
        }
        for text in texts {
            mac.update(&(text.len() as u64).to_be_bytes());
            mac.update(text.as_bytes());
        }
        Some(hex::encode(mac.finalize().into_bytes()))
    }
}
