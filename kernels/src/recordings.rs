//! Steps recorded once and replayed: on a card one call instead of one for each of its kernels. And steps whose kernels
//! are timed one by one.

use std::collections::HashMap;

use crate::gpu::Recording;
use crate::{Compute, Error, KernelTime};

/// Recorded steps by what distinguishes them.
#[derive(Debug, Default)]
#[cfg_attr(
    not(any(feature = "cuda", feature = "cuda-emulation")),
    expect(clippy::zero_sized_map_values, reason = "there is nothing to record")
)]
pub struct Recordings {
    /// `None` of what has run once.
    by_key: HashMap<usize, Option<Recording>>,
}

impl Compute {
    /// Runs `work` and tells what each of its kernels has taken on a card; nothing of the CPU's.
    ///
    /// # Errors
    /// As `work`, or when the card has failed.
    pub fn profile<E: From<Error>>(&self, work: impl FnOnce() -> Result<(), E>) -> Result<Vec<KernelTime>, E> {
        let Some(gpu) = self.gpu() else { return work().map(|()| Vec::new()) };
        gpu.begin_profile()?;
        let worked = work();
        let times = gpu.end_profile();
        worked?;
        Ok(times?)
    }

    /// Runs `work`, or what it did when it was called with this key before. On a card the first call runs it as it is,
    /// so that nothing is left to be loaded or allocated; the second records it. All memory that `work` names must stay
    /// where it is as long as `recordings` does.
    ///
    /// # Errors
    /// As `work`, or when the card has failed.
    pub fn run_recorded<E: From<Error>>(
        &self,
        recordings: &mut Recordings,
        key: usize,
        work: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        let Some(gpu) = self.gpu().filter(|gpu| !gpu.is_profiling()) else { return work() };
        match recordings.by_key.get_mut(&key) {
            None => {
                work()?;
                recordings.by_key.insert(key, None);
                Ok(())
            }
            Some(Some(recording)) => Ok(gpu.replay(recording)?),
            Some(empty) => {
                gpu.begin_recording()?;
                let worked = work();
                // Whatever happened, nothing else may be recorded.
                let recording = gpu.end_recording();
                worked?;
                Ok(gpu.replay(empty.insert(recording?))?)
            }
        }
    }
}
