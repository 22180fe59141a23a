//! A kernel launch put together: grid, threads, shared memory, arguments as the driver takes them.

use std::ffi::c_void;

use super::Backend;
use crate::Result;

/// Words that the arguments of one kernel may take.
const MAX_WORDS: usize = 96;
/// Arguments of one kernel.
const MAX_ARGUMENTS: usize = 32;

/// An address in device memory.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Address(pub u64);

impl Address {
    /// No memory.
    pub const NULL: Self = Self(0);

    /// So many bytes further.
    pub fn offset(self, bytes: usize) -> Self {
        Self(self.0 + bytes as u64)
    }
}

/// What can be handed to a kernel by value.
///
/// # Safety
/// The type has the layout of the C type that the kernel declares, no bytes of padding, and an alignment of at most 8.
pub(crate) unsafe trait Argument: Copy {}

// SAFETY: a CUdeviceptr.
unsafe impl Argument for Address {}
// SAFETY: as C's `unsigned`.
unsafe impl Argument for u32 {}
// SAFETY: as C's `int`.
unsafe impl Argument for i32 {}
// SAFETY: as C's `float`.
unsafe impl Argument for f32 {}
// SAFETY: as C's `unsigned long long`.
unsafe impl Argument for u64 {}

/// Values of a kernel's parameters, in order.
#[derive(Debug, Clone)]
pub(crate) struct Arguments {
    words: [u64; MAX_WORDS],
    used: usize,
    starts: [u8; MAX_ARGUMENTS],
    len: usize,
}

impl Arguments {
    fn push<A: Argument>(&mut self, value: A) {
        let words = size_of::<A>().div_ceil(size_of::<u64>());
        assert!(self.used + words <= MAX_WORDS && self.len < MAX_ARGUMENTS, "too many arguments for a kernel");
        let to = self.words[self.used..].as_mut_ptr().cast::<A>();
        // SAFETY: there is room for it, as asserted, and words are aligned for it.
        unsafe { to.write(value) };
        self.starts[self.len] = self.used as u8;
        self.used += words;
        self.len += 1;
    }

    /// Calls `launch` with pointers to the values, as `cuLaunchKernel` takes them.
    pub fn with_pointers<R>(&mut self, launch: impl FnOnce(&mut [*mut c_void]) -> R) -> R {
        let mut pointers = [std::ptr::null_mut(); MAX_ARGUMENTS];
        for (pointer, &start) in pointers.iter_mut().zip(&self.starts[..self.len]) {
            *pointer = (&raw mut self.words[usize::from(start)]).cast();
        }
        launch(&mut pointers[..self.len])
    }
}

/// Sizes of a launch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LaunchShape {
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of dynamic shared memory of a block.
    pub shared_bytes: u32,
    /// Whether it may start before what was launched before it has ended.
    pub overlaps: bool,
}

/// A kernel, its sizes and its arguments so far.
#[derive(Debug)]
#[must_use]
pub(crate) struct Launch<'a> {
    backend: &'a Backend,
    kernel: &'static str,
    shape: LaunchShape,
    arguments: Arguments,
}

impl<'a> Launch<'a> {
    pub(super) fn new(backend: &'a Backend, kernel: &'static str) -> Self {
        let arguments = Arguments { words: [0; MAX_WORDS], used: 0, starts: [0; MAX_ARGUMENTS], len: 0 };
        Self {
            backend,
            kernel,
            shape: LaunchShape { grid: [1; 3], threads: 32, shared_bytes: 0, overlaps: false },
            arguments,
        }
    }

    /// Blocks in x and y.
    pub fn grid(mut self, x: usize, y: usize) -> Self {
        self.shape.grid = [x as u32, y as u32, 1];
        self
    }

    /// Blocks in x, y and z.
    pub fn grid3(mut self, x: usize, y: usize, z: usize) -> Self {
        self.shape.grid = [x as u32, y as u32, z as u32];
        self
    }

    /// Threads of a block.
    pub fn threads(mut self, threads: usize) -> Self {
        self.shape.threads = threads as u32;
        self
    }

    /// Bytes of dynamic shared memory of a block.
    pub fn shared(mut self, bytes: usize) -> Self {
        self.shape.shared_bytes = bytes as u32;
        self
    }

    /// It may start early; the kernel itself waits for what it needs, as `cuda/device.cuh` says.
    pub fn overlapping(mut self) -> Self {
        self.shape.overlaps = true;
        self
    }

    /// The next argument.
    pub fn arg<A: Argument>(mut self, value: A) -> Self {
        self.arguments.push(value);
        self
    }

    /// Launches it behind everything that was launched before.
    ///
    /// # Safety
    /// The arguments are those that the kernel declares, and their memory is as large as it documents.
    ///
    /// # Errors
    /// When there is no such kernel or the card has failed.
    pub unsafe fn run(mut self) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.backend.launch(self.kernel, self.shape, &mut self.arguments) }
    }
}
