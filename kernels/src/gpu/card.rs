//! A real card, behind Candle's CUDA device: our kernels' modules, launches on the one stream that Candle works on, and
//! recorded launches (CUDA graphs). The driver is found at run time; a program with this in it starts without one.

mod driver;
mod readback;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::CStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use candle_core::cuda_backend::CudaStorageSlice;
use candle_core::cuda_backend::cudarc::driver::{
    CudaContext, CudaEvent, CudaFunction, CudaGraph, CudaModule, CudaSlice, CudaStream, DevicePtr as _, DriverError,
    result, sys,
};
use candle_core::cuda_backend::cudarc::nvrtc::Ptx;
use candle_core::{CudaDevice, Device, Storage, Tensor};

use self::driver::{capability, check_driver, driver, driver_cuda};
pub(crate) use self::readback::Readback;
use super::launch::{Address, Arguments, LaunchShape};
use super::no_card::{LEAST_CAPABILITY, NoCard};
use super::{CardInfo, KernelTime};
use crate::{Error, Result};

include!(concat!(env!("OUT_DIR"), "/fatbins.rs"));

/// Cards from this compute capability on let a kernel start before the last one has ended.
const LEAST_OVERLAPPING: (u32, u32) = (9, 0);
/// Shared memory that a kernel has without asking.
const PLAIN_SHARED_BYTES: u32 = 48 * 1024;

/// As the emulation's; here the card decides.
#[cfg(test)]
pub fn set_thread_order(_: u32) {}

/// An opened card.
pub(crate) struct Backend {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    /// Whether it lets kernels start early.
    overlaps: bool,
    modules: Vec<Arc<CudaModule>>,
    /// Kernels that have been called, each with the bytes of shared memory that it may have.
    functions: Mutex<HashMap<&'static str, (CudaFunction, u32)>>,
    profile: Mutex<Option<Profile>>,
}

/// The moment before the first launch, and those after each.
struct Profile {
    begin: CudaEvent,
    ends: Vec<(&'static str, CudaEvent)>,
}

impl std::fmt::Debug for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "card {}", self.context.ordinal())
    }
}

/// Launches to be repeated.
pub(crate) struct Recording {
    graph: CudaGraph,
}

impl std::fmt::Debug for Recording {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("recording")
    }
}

// SAFETY: a graph may be launched from any thread, one at a time, as `&self` methods of the engine's thread do.
unsafe impl Send for Recording {}
// SAFETY: as above.
unsafe impl Sync for Recording {}

/// What is said of an error of the driver.
fn failed(what: &str) -> impl FnOnce(DriverError) -> Error {
    let what = what.to_owned();
    move |error| Error::CardFailed(format!("{what}: {}", describe(error)))
}

fn describe(error: DriverError) -> String {
    let text = |text: std::result::Result<&CStr, DriverError>| text.map(|text| text.to_string_lossy().into_owned());
    match (text(error.error_name()), text(error.error_string())) {
        (Ok(name), Ok(text)) => format!("{name}, {text}"),
        _ => format!("error {}", error.0 as u32),
    }
}

/// A kernel may start while the one before it still runs ("programmatic dependent launch").
fn may_overlap() -> sys::CUlaunchAttribute {
    sys::CUlaunchAttribute {
        id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
        pad: [0; 4],
        value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
    }
}

impl Backend {
    pub fn count() -> Result<usize> {
        check_driver()?;
        let count = CudaContext::device_count().map_err(|error| NoCard::DriverFails(describe(error)))?;
        Ok(count as usize)
    }

    pub fn open(ordinal: usize) -> Result<(Self, Device)> {
        let device = CudaDevice::new_with_stream(ordinal)?;
        let stream = device.cuda_stream();
        let context = Arc::clone(stream.context());
        let capability = capability(&context)?;
        if capability < LEAST_CAPABILITY {
            return Err(NoCard::OldCard { ordinal, capability }.into());
        }
        // SAFETY: everything is on one stream, so that nothing has to wait for events.
        unsafe { device.disable_event_tracking() };
        let load = |(_, fatbin): &(&str, &[u8])| context.load_module(Ptx::from_binary(fatbin.to_vec()));
        let modules = FATBINS.iter().map(load).collect::<std::result::Result<_, _>>();
        let modules = modules.map_err(failed("the kernels could not be loaded"))?;
        let overlaps = capability >= LEAST_OVERLAPPING;
        let (functions, profile) = (Mutex::default(), Mutex::default());
        Ok((Self { context, stream, overlaps, modules, functions, profile }, Device::Cuda(device)))
    }

    pub fn info(&self) -> Result<CardInfo> {
        let failed = failed("the card could not be asked");
        let ask = || {
            let attribute = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
            let (free, total) = self.context.mem_get_info()?;
            Ok((self.context.name()?, self.context.attribute(attribute)? as u32, free, total))
        };
        let (name, multiprocessors, free_memory, total_memory) = ask().map_err(failed)?;
        Ok(CardInfo {
            name,
            compute_capability: capability(&self.context)?,
            driver: driver(),
            driver_cuda: driver_cuda()?,
            multiprocessors,
            total_memory,
            free_memory,
        })
    }

    pub fn address(&self, tensor: &Tensor) -> Result<Address> {
        let (storage, layout) = tensor.storage_and_layout();
        let Some((start, _)) = layout.contiguous_offsets() else {
            return Err(Error::shape("address", "the tensor is not contiguous"));
        };
        let Storage::Cuda(storage) = &*storage else {
            return Err(Error::shape("address", "the tensor is not on the card"));
        };
        let base = match &storage.slice {
            CudaStorageSlice::U8(slice) => self.base(slice),
            CudaStorageSlice::U32(slice) => self.base(slice),
            CudaStorageSlice::F16(slice) => self.base(slice),
            CudaStorageSlice::F32(slice) => self.base(slice),
            _ => return Err(Error::shape("address", format!("no kernel takes {:?}", tensor.dtype()))),
        };
        Ok(Address(base + (start * tensor.dtype().size_in_bytes()) as u64))
    }

    fn base<T>(&self, slice: &CudaSlice<T>) -> u64 {
        slice.device_ptr(&self.stream).0
    }

    pub unsafe fn upload(&self, bytes: &[u8], to: Address) -> Result<()> {
        self.bind()?;
        // SAFETY: the caller promises room. The driver has read pageable memory when this returns.
        unsafe { result::memcpy_htod_async(to.0, bytes, self.stream.cu_stream()) }.map_err(failed("a copy to the card"))
    }

    pub unsafe fn launch(&self, kernel: &'static str, shape: LaunchShape, arguments: &mut Arguments) -> Result<()> {
        self.bind()?;
        let function = self.function(kernel, shape.shared_bytes)?;
        let [x, y, z] = shape.grid;
        let launched = arguments.with_pointers(|pointers| {
            let (function, stream) = (function.cu_function(), self.stream.cu_stream());
            let mut attribute = may_overlap();
            let config = sys::CUlaunchConfig {
                gridDimX: x,
                gridDimY: y,
                gridDimZ: z,
                blockDimX: shape.threads,
                blockDimY: 1,
                blockDimZ: 1,
                sharedMemBytes: shape.shared_bytes,
                hStream: stream,
                attrs: &raw mut attribute,
                numAttrs: u32::from(shape.overlaps && self.overlaps),
            };
            // SAFETY: the caller promises that the arguments are the kernel's; the attribute outlives the call.
            unsafe { sys::cuLaunchKernelEx(&raw const config, function, pointers.as_mut_ptr(), std::ptr::null_mut()) }
                .result()
        });
        launched.map_err(failed(kernel))?;
        if let Some(profile) = &mut *lock(&self.profile) {
            profile.ends.push((kernel, self.moment()?));
        }
        Ok(())
    }

    /// Launches from now on are timed.
    pub fn begin_profile(&self) -> Result<()> {
        *lock(&self.profile) = Some(Profile { begin: self.moment()?, ends: Vec::new() });
        Ok(())
    }

    /// What each has taken since, from the end of the one before.
    pub fn end_profile(&self) -> Result<Vec<KernelTime>> {
        let Some(Profile { begin, ends }) = lock(&self.profile).take() else { return Ok(Vec::new()) };
        self.stream.synchronize().map_err(failed("waiting for the card"))?;
        let mut before = &begin;
        let mut times = Vec::with_capacity(ends.len());
        for (kernel, end) in &ends {
            let milliseconds = before.elapsed_ms(end).map_err(failed("timing"))?;
            times.push(KernelTime { kernel, time: Duration::from_secs_f32(milliseconds.max(0.0) / 1e3) });
            before = end;
        }
        Ok(times)
    }

    /// Whether launches are timed.
    pub fn is_profiling(&self) -> bool {
        lock(&self.profile).is_some()
    }

    /// When everything launched so far is done.
    fn moment(&self) -> Result<CudaEvent> {
        let flags = sys::CUevent_flags::CU_EVENT_DEFAULT;
        self.stream.record_event(Some(flags)).map_err(failed("timing"))
    }

    /// Launches from now on are recorded, and not run.
    pub fn begin_recording(&self) -> Result<()> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.stream.begin_capture(mode).map_err(failed("recording a step"))
    }

    /// What was recorded.
    pub fn end_recording(&self) -> Result<Recording> {
        let flags = sys::CUgraphInstantiate_flags(0);
        let graph = self.stream.end_capture(flags).map_err(failed("recording a step"))?;
        let graph = graph.ok_or_else(|| Error::CardFailed("a recorded step is empty".to_owned()))?;
        graph.upload().map_err(failed("recording a step"))?;
        Ok(Recording { graph })
    }

    /// Runs what was recorded once more.
    #[expect(clippy::unused_self, reason = "as the emulation's")]
    pub fn replay(&self, recording: &Recording) -> Result<()> {
        recording.graph.launch().map_err(failed("a recorded step"))
    }

    fn bind(&self) -> Result<()> {
        self.context.bind_to_thread().map_err(failed("the card"))
    }

    /// The kernel of this name, allowed to have so much shared memory.
    fn function(&self, kernel: &'static str, shared_bytes: u32) -> Result<CudaFunction> {
        let mut functions = lock(&self.functions);
        let (function, allowed) = match functions.entry(kernel) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                let found = self.modules.iter().find_map(|module| module.load_function(kernel).ok());
                let function = found.ok_or_else(|| Error::Card(format!("there is no kernel {kernel}")))?;
                unknown.insert((function, PLAIN_SHARED_BYTES))
            }
        };
        if shared_bytes > *allowed {
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            function.set_attribute(attribute, shared_bytes as i32).map_err(failed(kernel))?;
            *allowed = shared_bytes;
        }
        Ok(function.clone())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
