//! What comes back from a card while it goes on with the next step.

use std::ptr::NonNull;
use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::{CudaContext, CudaEvent, result};

use super::{Backend, describe, failed};
use crate::gpu::Address;
use crate::{Error, Result};

/// Bytes on their way from the card, in memory of ours that it writes to by itself.
pub(crate) struct Readback {
    context: Arc<CudaContext>,
    memory: NonNull<u8>,
    capacity: usize,
    len: usize,
    /// Comes when they are there.
    arrival: CudaEvent,
}

// SAFETY: the memory is this value's alone, and may be used by any thread.
unsafe impl Send for Readback {}
// SAFETY: as above; a shared reference only reads.
unsafe impl Sync for Readback {}

impl Drop for Readback {
    fn drop(&mut self) {
        // What is still on its way must not arrive in memory that is gone. A card that has failed sends nothing.
        let arrived = self.arrival.synchronize();
        if arrived.is_ok() && self.context.bind_to_thread().is_ok() {
            // SAFETY: it was allocated in `readback`, and nothing writes to it any more.
            let _ = unsafe { result::free_host(self.memory.as_ptr().cast()) };
        }
    }
}

impl std::fmt::Debug for Readback {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "readback of {} bytes", self.capacity)
    }
}

impl Backend {
    /// Memory for up to so many bytes on their way from the card.
    pub fn readback(&self, capacity: usize) -> Result<Readback> {
        let failed = |error| Error::Card(format!("no memory that the card can write to: {}", describe(error)));
        self.bind()?;
        // SAFETY: allocates, and nothing else.
        let memory = unsafe { result::malloc_host(capacity.max(1), 0) }.map_err(failed)?;
        let memory = NonNull::new(memory.cast()).ok_or_else(|| Error::Card("no memory".to_owned()))?;
        let arrival = self.context.new_event(None).map_err(failed)?;
        Ok(Readback { context: Arc::clone(&self.context), memory, capacity, len: 0, arrival })
    }

    pub unsafe fn begin_readback(&self, from: Address, len: usize, to: &mut Readback) -> Result<()> {
        self.bind()?;
        to.len = len.min(to.capacity);
        // SAFETY: so many bytes are ours, and nobody reads them before they are there.
        let bytes = unsafe { std::slice::from_raw_parts_mut(to.memory.as_ptr(), to.len) };
        // SAFETY: the caller promises so many bytes. The copy is behind everything launched so far, and before the event.
        unsafe { result::memcpy_dtoh_async(bytes, from.0, self.stream.cu_stream()) }
            .and_then(|()| to.arrival.record(&self.stream))
            .map_err(failed("a copy from the card"))
    }

    /// Waits for the bytes, and for nothing launched since.
    #[expect(clippy::unused_self, reason = "as the emulation's")]
    pub fn end_readback<'a>(&self, readback: &'a Readback) -> Result<&'a [u8]> {
        readback.arrival.synchronize().map_err(failed("waiting for the card"))?;
        // SAFETY: they were written, as the event says.
        Ok(unsafe { std::slice::from_raw_parts(readback.memory.as_ptr(), readback.len) })
    }
}
