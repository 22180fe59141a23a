//! Moves a mapped file into large pages of the process's own, under the feet of those who read it. A file's pages are
//! small ones, and reading weights at memory's speed looks up more of them than the processor remembers.

use std::ffi::c_void;
use std::io;
use std::ptr;

use memmap2::Mmap;
use rustix::mm::{
    Advice, MapFlags, MprotectFlags, MremapFlags, ProtFlags, madvise, mmap_anonymous, mprotect, mremap_fixed, munmap,
};

const LARGE_PAGE: usize = 2 << 20;
/// Bytes that are moved at a time: what is there twice meanwhile. Each becomes an area of the process, of which a system
/// allows some 65,000.
const PIECE: usize = 32 << 20;

/// Moves what `map` shows, as far as it fills large pages, to memory at the same addresses. Others may read it all the
/// while; they see the same bytes. What is moved no longer depends on the file.
///
/// # Errors
/// When the system has no large pages or not enough memory. The map is as good as before, moved in part or not at all.
pub fn move_to_large_pages(map: &Mmap) -> io::Result<()> {
    let skipped = map.as_ptr().align_offset(LARGE_PAGE).min(map.len());
    let (pages, _) = map[skipped..].as_chunks::<LARGE_PAGE>();
    pages.as_flattened().chunks(PIECE).try_for_each(move_piece)
}

/// Moves whole large pages.
fn move_piece(piece: &[u8]) -> io::Result<()> {
    let mut reserved = Reserved::new(piece.len() + LARGE_PAGE)?;
    reserved.trim(reserved.start.align_offset(LARGE_PAGE), piece.len())?;
    let Reserved { start, len } = reserved;
    // SAFETY: the reserved pages are nobody else's until they take the place of the piece, whole and with its bytes. Who
    // touches the piece in between waits for the system to have changed its table of pages.
    unsafe {
        madvise(start.cast(), len, Advice::LinuxHugepage)?;
        ptr::copy_nonoverlapping(piece.as_ptr(), start, len);
        mprotect(start.cast(), len, MprotectFlags::READ)?;
        let place: *const c_void = piece.as_ptr().cast();
        mremap_fixed(start.cast(), len, len, MremapFlags::MAYMOVE, place.cast_mut())?;
    }
    reserved.len = 0;
    Ok(())
}

/// Fresh pages, given back when they have not gone elsewhere.
struct Reserved {
    start: *mut u8,
    len: usize,
}

impl Reserved {
    fn new(len: usize) -> io::Result<Self> {
        // SAFETY: the system chooses a free place.
        let start =
            unsafe { mmap_anonymous(ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)? };
        Ok(Self { start: start.cast(), len })
    }

    /// Keeps `len` bytes behind the first `skipped`.
    fn trim(&mut self, skipped: usize, len: usize) -> io::Result<()> {
        let end = skipped + len;
        assert!(end <= self.len, "{skipped} and {len} bytes of {}", self.len);
        // SAFETY: nobody has an address within the pages that are given back, and none is given back twice.
        unsafe {
            give_back(self.start.add(end), self.len - end)?;
            self.len = end;
            give_back(self.start, skipped)?;
            (self.start, self.len) = (self.start.add(skipped), len);
        }
        Ok(())
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        // SAFETY: nobody has an address within. It fails only for addresses that are no pages.
        let _ = unsafe { give_back(self.start, self.len) };
    }
}

/// # Safety
/// Nobody has an address within.
unsafe fn give_back(start: *mut u8, len: usize) -> io::Result<()> {
    if len > 0 {
        // SAFETY: see above.
        unsafe { munmap(start.cast(), len)? };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::fs::File;
    use std::io::Write as _;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use super::*;

    fn byte(i: usize) -> u8 {
        (i ^ (i >> 9) ^ (i >> 18)) as u8
    }

    #[test]
    fn readers_see_the_same_bytes_while_they_move_and_when_the_file_is_gone() {
        let len = 2 * PIECE + 5 * LARGE_PAGE + 12_345;
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&(0..len).map(byte).collect::<Vec<_>>()).unwrap();
        // SAFETY: what is cut off below is not read any more.
        let map = unsafe { Mmap::map(&file) }.unwrap();
        let has_large_pages = File::open("/sys/kernel/mm/transparent_hugepage/enabled").is_ok();
        let moved = AtomicBool::new(false);
        thread::scope(|scope| {
            for reader in 0..2 {
                let (map, moved) = (&map, &moved);
                scope.spawn(move || {
                    let mut rng = fastrand::Rng::with_seed(reader);
                    while !moved.load(Ordering::Relaxed) {
                        for i in std::iter::repeat_with(|| rng.usize(..len)).take(1000) {
                            assert_eq!(map[i], byte(i));
                        }
                    }
                });
            }
            let result = move_to_large_pages(&map);
            moved.store(true, Ordering::Relaxed);
            assert_eq!(result.is_ok(), has_large_pages, "{result:?}");
        });
        assert!(map.iter().enumerate().all(|(i, &found)| found == byte(i)));
        if has_large_pages {
            // Reading the map of a file that has become short is a signal, reading memory is not.
            file.set_len(0).unwrap();
            let first = map.as_ptr().align_offset(LARGE_PAGE);
            let end = first + (len - first) / LARGE_PAGE * LARGE_PAGE;
            assert!((first..end).all(|i| map[i] == byte(i)));
        }
    }

    #[test]
    fn what_fills_no_large_page_stays() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 5000]).unwrap();
        // SAFETY: nobody changes the file.
        let map = unsafe { Mmap::map(&file) }.unwrap();
        move_to_large_pages(&map).unwrap();
        assert_eq!(*map, [7; 5000]);
    }
}
