//! The driver and the card, before anything is done with them: what is there, how old it is, and what would help.

use std::ffi::c_int;

use candle_core::cuda_backend::cudarc::driver::{CudaContext, result, sys};

use super::{describe, failed};
use crate::Result;
use crate::gpu::no_card::{LEAST_DRIVER_CUDA, NoCard};

unsafe extern "C" {
    /// Whether the driver's library was found; of the import libraries that `scripts/setup-cuda` makes.
    fn steppe_cuda_driver_present() -> c_int;
}

/// Says what is missing on a machine that cannot run CUDA programs of this version.
pub fn check_driver() -> Result<()> {
    // SAFETY: takes nothing and looks for a library.
    if unsafe { steppe_cuda_driver_present() } == 0 {
        return Err(NoCard::Driver.into());
    }
    let cuda = driver_cuda()?;
    if cuda < LEAST_DRIVER_CUDA {
        return Err(NoCard::OldDriver { cuda }.into());
    }
    result::init().map_err(|error| NoCard::DriverFails(describe(error)).into())
}

/// The driver's own version, which its kernel module tells.
pub fn driver() -> String {
    let text = std::fs::read_to_string("/proc/driver/nvidia/version").unwrap_or_default();
    let is_version = |word: &&str| word.contains('.') && word.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    text.lines().next().and_then(|line| line.split_whitespace().find(is_version)).unwrap_or("unknown").to_owned()
}

/// Version of CUDA that the driver brings.
pub fn driver_cuda() -> Result<(u32, u32)> {
    let mut version = 0;
    // SAFETY: the driver writes one number; it may be asked before it is initialised.
    let asked = unsafe { sys::cuDriverGetVersion(&raw mut version) }.result();
    asked.map_err(|error| NoCard::DriverFails(describe(error)))?;
    Ok((version as u32 / 1000, version as u32 % 1000 / 10))
}

/// What the card can do.
pub fn capability(context: &CudaContext) -> Result<(u32, u32)> {
    let (major, minor) = context.compute_capability().map_err(failed("the card could not be asked"))?;
    Ok((major as u32, minor as u32))
}
