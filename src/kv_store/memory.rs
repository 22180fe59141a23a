//! The store in this process: bounded by bytes, the least used goes first.

use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::Expiry;
use moka::sync::Cache;

/// Values in this process. Cheap to clone; clones share them.
#[derive(Debug, Clone)]
pub struct Memory {
    entries: Cache<String, Arc<Entry>>,
}

#[derive(Debug)]
struct Entry {
    value: Arc<[u8]>,
    time_to_live: Duration,
    tags: Vec<String>,
}

/// What an entry takes besides its bytes, roughly.
const ENTRY_OVERHEAD: usize = 200;

impl Memory {
    /// Empty, for at most so many bytes.
    pub fn new(bytes: u64) -> Self {
        let weigh = |key: &String, entry: &Arc<Entry>| {
            let tags: usize = entry.tags.iter().map(String::len).sum();
            u32::try_from(key.len() + entry.value.len() + tags + ENTRY_OVERHEAD).unwrap_or(u32::MAX)
        };
        let builder = Cache::builder().max_capacity(bytes).weigher(weigh).expire_after(OwnTime);
        Self { entries: builder.support_invalidation_closures().build() }
    }

    /// Does now what the cache does when it finds time.
    #[cfg(test)]
    pub(super) fn run_maintenance(&self) {
        self.entries.run_pending_tasks();
    }

    pub(super) fn get(&self, key: &str) -> Option<Arc<[u8]>> {
        self.entries.get(key).map(|entry| entry.value.clone())
    }

    pub(super) fn set(&self, key: &str, value: &[u8], time_to_live: Duration, tags: &[&str]) {
        let tags = tags.iter().map(|&tag| tag.into()).collect();
        self.entries.insert(key.into(), Arc::new(Entry { value: value.into(), time_to_live, tags }));
    }

    pub(super) fn delete(&self, key: &str) {
        self.entries.invalidate(key);
    }

    pub(super) fn purge(&self, tag: &str) {
        let purged: String = tag.into();
        // The only error is that closures are not supported, and the constructor asked for them.
        let _registered = self.entries.invalidate_entries_if(move |_, entry| entry.tags.contains(&purged));
    }
}

/// Each entry lives for as long as it was set for.
struct OwnTime;

impl Expiry<String, Arc<Entry>> for OwnTime {
    fn expire_after_create(&self, _: &String, entry: &Arc<Entry>, _: Instant) -> Option<Duration> {
        Some(entry.time_to_live)
    }

    fn expire_after_update(&self, _: &String, entry: &Arc<Entry>, _: Instant, _: Option<Duration>) -> Option<Duration> {
        Some(entry.time_to_live)
    }
}
