//! Pages that packed weights lie in: written once, or mapped from a file. Knows nothing of what lies in them.

use std::io;
use std::ops::Deref;
use std::sync::Arc;

use memmap2::{Mmap, MmapMut};

use crate::lines::Line;

/// Bytes that are only read, from the start of a cache line.
#[derive(Debug)]
pub(crate) struct Memory {
    map: Arc<Mmap>,
    start: usize,
    len: usize,
}

impl Memory {
    /// `len` zeros that `fill` changes; in large pages where the system has them, which are made and found faster.
    pub(crate) fn filled(len: usize, fill: impl FnOnce(&mut [u8])) -> io::Result<Self> {
        let mut map = MmapMut::map_anon(len)?;
        // Only a hint: a system without large pages refuses it.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        fill(&mut map);
        Ok(Self { map: Arc::new(map.make_read_only()?), start: 0, len })
    }

    /// A part of a map; `None` when it reaches outside, or begins inside a cache line.
    pub(crate) fn part(map: &Arc<Mmap>, start: usize, len: usize) -> Option<Self> {
        let inside = start.checked_add(len).is_some_and(|end| end <= map.len());
        (inside && start.is_multiple_of(size_of::<Line>())).then(|| Self { map: Arc::clone(map), start, len })
    }
}

impl Deref for Memory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map[self.start..][..self.len]
    }
}
