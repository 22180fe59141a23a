//! The kernels compiled for this processor: device memory is ordinary memory, a launch returns when its last thread has
//! ended. For tests; nobody would want to wait for a model.

use std::cell::Cell;
use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use candle_core::{CpuStorage, Device, Storage, Tensor};

use super::launch::{Address, Arguments, LaunchShape};
use super::{CardInfo, KernelTime};
use crate::{Error, Result};

unsafe extern "C" {
    fn steppe_emulated_launch(
        name: *const c_char,
        grid: *const c_uint,
        block: *const c_uint,
        shared_bytes: c_uint,
        params: *mut *mut c_void,
        order: c_uint,
    ) -> c_int;
}

thread_local! {
    static ORDER: Cell<u32> = const { Cell::new(0) };
}

/// Sets in which order the calling thread's launches run the threads of a block: 0 ascending, 1 descending, others at
/// random by that seed. No kernel's result may depend on it.
#[cfg(test)]
pub fn set_thread_order(order: u32) {
    ORDER.set(order);
}

/// The emulated card.
#[derive(Debug, Default)]
pub(crate) struct Backend {
    /// Launches since recording began.
    recording: Mutex<Option<Vec<Recorded>>>,
    profile: Mutex<Option<Vec<KernelTime>>>,
}

#[derive(Debug, Clone)]
struct Recorded {
    kernel: &'static str,
    shape: LaunchShape,
    arguments: Arguments,
}

/// Launches to be repeated.
#[derive(Debug)]
pub(crate) struct Recording {
    launches: Vec<Recorded>,
}

/// Bytes on their way from the card.
#[derive(Debug)]
pub(crate) struct Readback {
    bytes: Vec<u8>,
    len: usize,
}

/// Cards of the emulated machine.
const CARDS: usize = 2;

impl Backend {
    #[expect(clippy::unnecessary_wraps, reason = "as the card's")]
    pub fn count() -> Result<usize> {
        Ok(CARDS)
    }

    #[expect(clippy::unnecessary_wraps, reason = "as the card's")]
    pub fn open(_: usize) -> Result<(Self, Device)> {
        Ok((Self::default(), Device::Cpu))
    }

    #[expect(clippy::unnecessary_wraps, clippy::unused_self, reason = "as the card's")]
    pub fn info(&self) -> Result<CardInfo> {
        Ok(CardInfo {
            name: "emulated card".to_owned(),
            compute_capability: (9, 0),
            driver: "unknown".to_owned(),
            driver_cuda: (13, 0),
            multiprocessors: 4,
            total_memory: 8 << 30,
            free_memory: 8 << 30,
        })
    }

    #[expect(clippy::unused_self, reason = "as the card's")]
    pub fn address(&self, tensor: &Tensor) -> Result<Address> {
        let (storage, layout) = tensor.storage_and_layout();
        let Some((start, _)) = layout.contiguous_offsets() else {
            return Err(Error::shape("address", "the tensor is not contiguous"));
        };
        let Storage::Cpu(storage) = &*storage else {
            return Err(Error::shape("address", "the tensor is not the emulated card's"));
        };
        let base = match storage {
            CpuStorage::U8(data) => data.as_ptr().addr(),
            CpuStorage::U32(data) => data.as_ptr().addr(),
            CpuStorage::F16(data) => data.as_ptr().addr(),
            CpuStorage::F32(data) => data.as_ptr().addr(),
            _ => return Err(Error::shape("address", format!("no kernel takes {:?}", tensor.dtype()))),
        };
        Ok(Address((base + start * tensor.dtype().size_in_bytes()) as u64))
    }

    #[expect(clippy::unnecessary_wraps, clippy::unused_self, reason = "as the card's")]
    pub unsafe fn upload(&self, bytes: &[u8], to: Address) -> Result<()> {
        // SAFETY: the caller promises that `to` has room.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.0 as *mut u8, bytes.len()) };
        Ok(())
    }

    #[expect(clippy::unnecessary_wraps, clippy::unused_self, reason = "as the card's")]
    pub fn readback(&self, capacity: usize) -> Result<Readback> {
        Ok(Readback { bytes: vec![0; capacity], len: 0 })
    }

    #[expect(clippy::unnecessary_wraps, clippy::unused_self, reason = "as the card's")]
    pub unsafe fn begin_readback(&self, from: Address, len: usize, to: &mut Readback) -> Result<()> {
        let bytes = &mut to.bytes[..len];
        // SAFETY: the caller promises that `from` has so many.
        unsafe { std::ptr::copy_nonoverlapping(from.0 as *const u8, bytes.as_mut_ptr(), len) };
        to.len = len;
        Ok(())
    }

    #[expect(clippy::unnecessary_wraps, clippy::unused_self, reason = "as the card's")]
    pub fn end_readback<'a>(&self, readback: &'a Readback) -> Result<&'a [u8]> {
        Ok(&readback.bytes[..readback.len])
    }

    pub unsafe fn launch(&self, kernel: &'static str, shape: LaunchShape, arguments: &mut Arguments) -> Result<()> {
        if let Some(launches) = &mut *lock(&self.recording) {
            launches.push(Recorded { kernel, shape, arguments: arguments.clone() });
            return Ok(());
        }
        let begin = Instant::now();
        let name = CString::new(kernel).map_err(|_| Error::Card(format!("{kernel:?} is no name")))?;
        let block = [shape.threads, 1, 1];
        let code = arguments.with_pointers(|pointers| {
            let pointers = pointers.as_mut_ptr();
            // SAFETY: the caller promises that the arguments are the kernel's.
            unsafe {
                steppe_emulated_launch(
                    name.as_ptr(),
                    shape.grid.as_ptr(),
                    block.as_ptr(),
                    shape.shared_bytes,
                    pointers,
                    ORDER.get(),
                )
            }
        });
        if let Some(times) = &mut *lock(&self.profile) {
            times.push(KernelTime { kernel, time: begin.elapsed() });
        }
        match code {
            0 => Ok(()),
            1 => Err(Error::Card(format!("there is no kernel {kernel}"))),
            _ => Err(Error::Card(format!("{kernel} cannot be launched as {shape:?}"))),
        }
    }

    /// Launches from now on are timed.
    #[expect(clippy::unnecessary_wraps, reason = "as the card's")]
    pub fn begin_profile(&self) -> Result<()> {
        *lock(&self.profile) = Some(Vec::new());
        Ok(())
    }

    /// What each has taken since.
    #[expect(clippy::unnecessary_wraps, reason = "as the card's")]
    pub fn end_profile(&self) -> Result<Vec<KernelTime>> {
        Ok(lock(&self.profile).take().unwrap_or_default())
    }

    /// Whether launches are timed.
    pub fn is_profiling(&self) -> bool {
        lock(&self.profile).is_some()
    }

    /// Launches from now on are recorded, and not run.
    #[expect(clippy::unnecessary_wraps, reason = "as the card's")]
    pub fn begin_recording(&self) -> Result<()> {
        *lock(&self.recording) = Some(Vec::new());
        Ok(())
    }

    /// What was recorded.
    #[expect(clippy::unnecessary_wraps, reason = "as the card's")]
    pub fn end_recording(&self) -> Result<Recording> {
        Ok(Recording { launches: lock(&self.recording).take().unwrap_or_default() })
    }

    /// Runs what was recorded once more.
    pub fn replay(&self, recording: &Recording) -> Result<()> {
        for Recorded { kernel, shape, arguments } in &recording.launches {
            // SAFETY: they were the kernel's when they were recorded, and their memory has stayed.
            unsafe { self.launch(kernel, *shape, &mut arguments.clone()) }?;
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
