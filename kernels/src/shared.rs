//! Mutable values that the threads of one operation write at disjoint places. Knows no operation.

use std::marker::PhantomData;

/// A mutable slice that several threads write disjoint parts of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shared<'a, T> {
    start: *mut T,
    len: usize,
    borrowed: PhantomData<&'a mut [T]>,
}

// SAFETY: only `Shared::slice` reaches the values, and its callers promise disjointness.
unsafe impl<T: Send> Send for Shared<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    /// Shares `values`.
    pub(crate) fn new(values: &'a mut [T]) -> Self {
        Self { start: values.as_mut_ptr(), len: values.len(), borrowed: PhantomData }
    }

    /// The values `start..start + len`.
    ///
    /// # Safety
    /// No two slices that live at the same time overlap.
    ///
    /// # Panics
    /// When the range lies outside the values.
    pub(crate) unsafe fn slice(&self, start: usize, len: usize) -> &'a mut [T] {
        assert!(start <= self.len && len <= self.len - start, "a shared slice outside its values");
        // SAFETY: inside the values, as asserted; disjoint, as promised.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}
