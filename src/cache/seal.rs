//! Names of entries and seals around their values, both HMAC-SHA-256 under keys that one secret gives.
//!
//! A sealed value: version (1 byte), made and good until (milliseconds since 1970, 8 bytes each, little-endian), the
//! value, and 32 bytes of MAC over all that and the entry's name.

use std::time::{Duration, SystemTime};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::Hit;

const VERSION: u8 = 1;
const HEAD_BYTES: usize = 17;
const MAC_BYTES: usize = 32;

/// Everything that one secret is good for.
pub(super) struct Seal {
    names: Hmac<Sha256>,
    values: Hmac<Sha256>,
}

impl std::fmt::Debug for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seal").finish_non_exhaustive()
    }
}

/// What was found under a name.
pub(super) enum Sealed {
    Good(Hit),
    /// Ours, and its time is over.
    Old,
    /// Damaged, or made for another name or under another secret.
    Foreign,
}

impl Seal {
    /// None for a secret without a byte.
    pub fn new(secret: &[u8]) -> Option<Self> {
        let derived = |purpose: &[u8]| {
            let mut mac = Hmac::<Sha256>::new_from_slice(secret).ok()?;
            mac.update(purpose);
            Hmac::new_from_slice(&mac.finalize().into_bytes()).ok()
        };
        if secret.is_empty() {
            return None;
        }
        Some(Self { names: derived(b"steppe cache names")?, values: derived(b"steppe cache values")? })
    }

    pub fn name(&self, parts: &[&[u8]]) -> String {
        let mut mac = self.names.clone();
        for part in parts {
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part);
        }
        hex::encode(mac.finalize().into_bytes())
    }

    fn mac(&self, name: &str, sealed: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.values.clone();
        mac.update(&(name.len() as u64).to_le_bytes());
        mac.update(name.as_bytes());
        mac.update(sealed);
        mac
    }

    pub fn close(&self, name: &str, value: &[u8], now: SystemTime, time_to_live: Duration) -> Vec<u8> {
        let mut sealed = Vec::with_capacity(HEAD_BYTES + value.len() + MAC_BYTES);
        sealed.push(VERSION);
        sealed.extend(milliseconds(now).to_le_bytes());
        sealed.extend(milliseconds(now).saturating_add(time_to_live.as_millis() as u64).to_le_bytes());
        sealed.extend(value);
        let mac = self.mac(name, &sealed).finalize().into_bytes();
        sealed.extend(mac);
        sealed
    }

    pub fn open(&self, name: &str, bytes: &[u8], now: SystemTime) -> Sealed {
        let Some((sealed, mac)) = bytes.split_last_chunk::<MAC_BYTES>() else { return Sealed::Foreign };
        if self.mac(name, sealed).verify_slice(mac).is_err() {
            return Sealed::Foreign;
        }
        let (Some((head, value)), now) = (sealed.split_first_chunk::<HEAD_BYTES>(), milliseconds(now)) else {
            return Sealed::Foreign;
        };
        let [VERSION, times @ ..] = head else { return Sealed::Foreign };
        let ([made, until], []) = times.as_chunks::<8>() else { return Sealed::Foreign };
        let (made, until) = (u64::from_le_bytes(*made), u64::from_le_bytes(*until));
        if now >= until {
            return Sealed::Old;
        }
        // Clocks of replicas may differ.
        Sealed::Good(Hit { value: value.to_vec(), age: Duration::from_millis(now.saturating_sub(made)) })
    }
}

fn milliseconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_breaks_at_every_bit_and_under_another_name_or_secret() {
        let (Some(seal), Some(other)) = (Seal::new(b"secret"), Seal::new(b"Secret")) else { unreachable!() };
        let (now, minute) = (SystemTime::now(), Duration::from_mins(1));
        let sealed = seal.close("name", b"value", now, minute);
        let Sealed::Good(hit) = seal.open("name", &sealed, now + minute / 2) else { unreachable!() };
        assert_eq!(hit, Hit { value: b"value".to_vec(), age: minute / 2 });
        assert!(matches!(seal.open("name", &sealed, now + minute), Sealed::Old));
        assert!(matches!(seal.open("name", &sealed, now - minute), Sealed::Good(hit) if hit.age == Duration::ZERO));

        assert!(matches!(seal.open("nam", &sealed, now), Sealed::Foreign));
        assert!(matches!(other.open("name", &sealed, now), Sealed::Foreign));
        for bit in 0..sealed.len() * 8 {
            let mut damaged = sealed.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(seal.open("name", &damaged, now), Sealed::Foreign), "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert!(matches!(seal.open("name", &sealed[..length], now), Sealed::Foreign), "{length} bytes");
        }
        // A future version's value is well sealed, and not for us.
        let mut newer = sealed[..sealed.len() - MAC_BYTES].to_vec();
        newer[0] = VERSION + 1;
        newer.extend(seal.mac("name", &newer).finalize().into_bytes());
        assert!(matches!(seal.open("name", &newer, now), Sealed::Foreign));
    }

    #[test]
    fn parts_are_told_apart() {
        let Some(seal) = Seal::new(b"secret") else { unreachable!() };
        let lists: [&[&[u8]]; 7] =
            [&[], &[b""], &[b"", b""], &[b"abc"], &[b"ab", b"c"], &[b"a", b"bc"], &[b"abc", b""]];
        let names: std::collections::HashSet<String> = lists.iter().map(|parts| seal.name(parts)).collect();
        assert_eq!(names.len(), lists.len());
        assert_eq!(seal.name(&[b"abc"]), seal.name(&[b"abc"]));
    }
}
