//! Pages that packed weights lie in: written once, then only read. Knows nothing of what lies in them.

use std::io;
use std::ops::Deref;

use memmap2::{Mmap, MmapMut};

/// Bytes that are only read, from the start of a page.
#[derive(Debug)]
pub(crate) struct Memory(Mmap);

impl Memory {
    /// `len` zeros that `fill` changes; in large pages where the system has them, which are made and found faster.
    pub(crate) fn filled(len: usize, fill: impl FnOnce(&mut [u8])) -> io::Result<Self> {
        let mut map = MmapMut::map_anon(len)?;
        // Only a hint: a system without large pages refuses it.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        fill(&mut map);
        map.make_read_only().map(Self)
    }
}

impl Deref for Memory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}
