//! Failed logins cost more and more time, for a name at an address and for an address whatever the name. The delay ends by
//! itself and never grows beyond a minute, so that nobody can lock somebody else out for good.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use moka::sync::Cache;

/// A person may mistype so often before they must wait.
const FREE: u32 = 10;
/// Different names may be tried from one address so often; many people may share one behind a proxy.
const FREE_OF_ADDRESS: u32 = 50;
const LONGEST: Duration = Duration::from_mins(1);
/// Failures are forgotten after so long without another.
const MEMORY: Duration = Duration::from_mins(15);
/// Names and addresses remembered.
const REMEMBERED: u64 = 100_000;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Name(String, IpAddr),
    Address(IpAddr),
}

impl Key {
    fn free(&self) -> u32 {
        match self {
            Self::Name(..) => FREE,
            Self::Address(_) => FREE_OF_ADDRESS,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    until: Instant,
}

/// Counts failed logins.
#[derive(Debug)]
pub(super) struct Attempts {
    failures: Cache<Key, Failures>,
}

impl Attempts {
    pub fn new() -> Self {
        Self { failures: Cache::builder().max_capacity(REMEMBERED).time_to_idle(MEMORY).build() }
    }

    /// How long this name must still wait at this address.
    pub fn wait(&self, name: &str, address: IpAddr, now: Instant) -> Option<Duration> {
        let wait = |key: Key| self.failures.get(&key).map(|failures| failures.until.saturating_duration_since(now));
        let longest = keys(name, address).into_iter().filter_map(wait).max();
        longest.filter(|wait| !wait.is_zero())
    }

    /// Somebody tries. Counted before the password is checked, so that many at once are no way around the delay.
    pub fn begun(&self, name: &str, address: IpAddr, now: Instant) {
        for key in keys(name, address) {
            let free = key.free();
            self.failures.entry(key).and_upsert_with(|known| {
                let count = known.map_or(1, |known| known.into_value().count.saturating_add(1));
                let doublings = count.checked_sub(free);
                let delay = doublings.map_or(Duration::ZERO, |n| Duration::from_secs(1 << n.min(6)).min(LONGEST));
                Failures { count, until: now + delay }
            });
        }
    }

    /// The password was right: it was no failure.
    pub fn succeeded(&self, name: &str, address: IpAddr, now: Instant) {
        let [own, shared] = keys(name, address);
        self.failures.invalidate(&own);
        self.failures.entry(shared).and_upsert_with(|known| {
            let count = known.map_or(0, |known| known.into_value().count.saturating_sub(1));
            Failures { count, until: now }
        });
    }
}

fn keys(name: &str, address: IpAddr) -> [Key; 2] {
    [Key::Name(name.to_lowercase(), address), Key::Address(address)]
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

    #[test]
    fn delays_grow_to_a_minute_and_concern_one_address() {
        let (attempts, now) = (Attempts::new(), Instant::now());
        for _ in 1..FREE {
            attempts.begun("Ann", HERE, now);
            assert_eq!(attempts.wait("ann", HERE, now), None);
        }
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            attempts.begun("ann", HERE, now);
            assert_eq!(attempts.wait("ANN", HERE, now), Some(Duration::from_secs(seconds)));
        }
        assert_eq!(attempts.wait("ann", THERE, now), None, "the owner elsewhere is not locked out");
        assert_eq!(attempts.wait("bob", HERE, now), None);
        assert_eq!(attempts.wait("ann", HERE, now + LONGEST), None, "it ends by itself");
        attempts.succeeded("ann", HERE, now);
        assert_eq!(attempts.wait("ann", HERE, now), None);
    }

    #[test]
    fn trying_many_names_from_one_address_is_slowed_down_too() {
        let (attempts, now) = (Attempts::new(), Instant::now());
        for index in 0..FREE_OF_ADDRESS {
            assert_eq!(attempts.wait("next", HERE, now), None);
            attempts.begun(&format!("user{index}"), HERE, now);
        }
        assert_eq!(attempts.wait("next", HERE, now), Some(Duration::from_secs(1)));
        assert_eq!(attempts.wait("next", THERE, now), None);
    }
}
