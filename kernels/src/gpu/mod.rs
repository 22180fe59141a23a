//! The CUDA side of the operations: which kernel, what grid, which arguments. `backend` is the card, an emulation of it
//! on this processor, or nothing, by the features of the build; everything else is the same code in all builds.
//!
//! Invariant: what a kernel reads that differs from step to step lies in device memory at an address that stays, so that
//! a step can be recorded once and replayed.

mod attention;
pub(crate) mod attention_memory;
pub(crate) mod attention_shape;
#[cfg_attr(feature = "cuda", path = "card.rs")]
#[cfg_attr(all(feature = "cuda-emulation", not(feature = "cuda")), path = "emulation.rs")]
#[cfg_attr(not(any(feature = "cuda", feature = "cuda-emulation")), path = "absent.rs")]
mod backend;
mod launch;
mod linear;
mod matrix;
mod memory;
mod no_card;
pub(crate) mod norm;
mod plan;
mod product_memory;
pub(crate) mod rope;
mod rows;
pub(crate) mod sample;
pub(crate) mod step;
#[cfg(all(test, any(feature = "cuda", feature = "cuda-emulation")))]
mod testing;
mod tile_layout;
mod tiles;

use std::sync::Mutex;
use std::time::Duration;

use candle_core::{Device, Tensor};

pub(crate) use self::backend::{Backend, Readback, Recording};
pub(crate) use self::launch::{Address, Launch};
pub(crate) use self::matrix::OutputKind;
pub use self::memory::CardSteps;
pub use self::no_card::{LEAST_CAPABILITY, LEAST_DRIVER, NoCard};
use self::product_memory::ProductMemory;
pub(crate) use self::tiles::{RawRows, TilePart, tile_bytes};
use crate::Result;

/// Which cards a build knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CardSupport {
    /// NVIDIA's.
    Cuda,
    /// One that this processor plays, for tests.
    Emulation,
    /// None.
    Absent,
}

/// Which cards this build knows.
pub const CARD_SUPPORT: CardSupport = if cfg!(feature = "cuda") {
    CardSupport::Cuda
} else if cfg!(feature = "cuda-emulation") {
    CardSupport::Emulation
} else {
    CardSupport::Absent
};

/// What a card says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CardInfo {
    /// Its name, such as `NVIDIA H200`.
    pub name: String,
    /// Major and minor number of what it can do: `(9, 0)`.
    pub compute_capability: (u32, u32),
    /// Version of the driver, such as `580.65.06`, or `unknown`.
    pub driver: String,
    /// Version of CUDA that it brings: `(13, 0)`.
    pub driver_cuda: (u32, u32),
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Bytes of device memory.
    pub total_memory: usize,
    /// Bytes of it that nobody held when the card was opened.
    pub free_memory: usize,
}

/// What a launched kernel has taken.
#[derive(Debug, Clone, Copy)]
pub struct KernelTime {
    /// Its name.
    pub kernel: &'static str,
    /// From the end of the one before it to its own.
    pub time: Duration,
}

/// An opened card.
#[derive(Debug)]
pub(crate) struct Gpu {
    backend: Backend,
    info: CardInfo,
    device: Device,
    products: Mutex<ProductMemory>,
}

/// How many cards this machine has.
///
/// # Errors
/// When the build has no CUDA, there is no driver, or it is too old.
pub fn card_count() -> Result<usize> {
    Backend::count()
}

impl Gpu {
    /// Opens the card with this index.
    ///
    /// # Errors
    /// When the build has no CUDA, there is no driver, it is too old, or there is no such card.
    pub fn open(ordinal: usize) -> Result<Self> {
        let count = card_count()?;
        if ordinal >= count {
            return Err(NoCard::Number { ordinal, count }.into());
        }
        let (backend, device) = Backend::open(ordinal)?;
        let info = backend.info()?;
        Ok(Self { backend, info, device, products: Mutex::default() })
    }

    /// The card as Candle knows it: where tensors are made.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// What it said of itself when it was opened.
    pub fn info(&self) -> &CardInfo {
        &self.info
    }

    /// A kernel about to be launched, by its name in the sources.
    pub fn kernel(&self, name: &'static str) -> Launch<'_> {
        Launch::new(&self.backend, name)
    }

    /// Where a contiguous tensor of this card begins.
    ///
    /// # Errors
    /// When it lies elsewhere or is not contiguous.
    pub fn address(&self, tensor: &Tensor) -> Result<Address> {
        self.backend.address(tensor)
    }

    /// Launches from now on are timed.
    ///
    /// # Errors
    /// When the card has failed.
    pub fn begin_profile(&self) -> Result<()> {
        self.backend.begin_profile()
    }

    /// What each has taken since.
    ///
    /// # Errors
    /// When the card has failed.
    pub fn end_profile(&self) -> Result<Vec<KernelTime>> {
        self.backend.end_profile()
    }

    /// Whether launches are timed.
    pub fn is_profiling(&self) -> bool {
        self.backend.is_profiling()
    }

    /// Launches from now on are recorded, and not run.
    ///
    /// # Errors
    /// When the card has failed.
    pub fn begin_recording(&self) -> Result<()> {
        self.backend.begin_recording()
    }

    /// Ends recording, and gives what was recorded.
    ///
    /// # Errors
    /// When it cannot be repeated, or the card has failed.
    pub fn end_recording(&self) -> Result<Recording> {
        self.backend.end_recording()
    }

    /// Runs what was recorded.
    ///
    /// # Errors
    /// When the card has failed.
    pub fn replay(&self, recording: &Recording) -> Result<()> {
        self.backend.replay(recording)
    }

    /// Copies bytes to the card, in the order of launches.
    ///
    /// # Safety
    /// `to` has room for them.
    ///
    /// # Errors
    /// When the card has failed.
    pub unsafe fn upload(&self, bytes: &[u8], to: Address) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.backend.upload(bytes, to) }
    }

    /// Memory for up to so many bytes on their way from the card.
    ///
    /// # Errors
    /// When there is none.
    pub fn readback(&self, capacity: usize) -> Result<Readback> {
        self.backend.readback(capacity)
    }

    /// Begins to copy bytes from the card, in the order of launches.
    ///
    /// # Safety
    /// `from` has so many.
    ///
    /// # Errors
    /// When the card has failed.
    pub unsafe fn begin_readback(&self, from: Address, len: usize, to: &mut Readback) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.backend.begin_readback(from, len, to) }
    }

    /// Waits for the bytes, and for nothing launched after them.
    ///
    /// # Errors
    /// When the card has failed.
    pub fn end_readback<'a>(&self, readback: &'a Readback) -> Result<&'a [u8]> {
        self.backend.end_readback(readback)
    }
}

#[cfg(all(test, feature = "cuda"))]
mod fault_tests;
