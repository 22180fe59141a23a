//! The handle that every operation is called on: device, instruction set, thread pool, precision of activations.
//! Cheap to clone. Must not know any operation's arithmetic.

use std::sync::{Arc, Mutex};

use candle_core::Device;

use crate::Result;
use crate::ops::linear::ActivationBuffer;

/// An instruction set that the matrix kernels are built for, chosen at run time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// Plain Rust; the reference.
    Scalar,
    /// AVX2 with FMA and F16C.
    Avx2,
}

impl Isa {
    /// The best instruction set of this machine.
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c") {
            return Self::Avx2;
        }
        Self::Scalar
    }
}

/// How matrix products treat their activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Activations {
    /// Quantised to int8 blocks once per product: the fast path for quantised weights.
    #[default]
    Int8,
    /// Kept in f32 against dequantised weights: the slow reference path that parity is judged by.
    F32,
}

/// What a [`Compute`] is made from.
#[derive(Debug, Clone, Copy)]
pub struct ComputeOptions {
    /// Threads that compute, the calling one included.
    pub threads: usize,
    /// Instruction set; `None` takes the best of this machine.
    pub isa: Option<Isa>,
    /// Precision of activations in matrix products.
    pub activations: Activations,
}

/// Device, instruction set and threads; operations are its methods, one per file of `ops/`.
#[derive(Debug, Clone)]
pub struct Compute {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    device: Device,
    isa: Isa,
    activations: Activations,
    threads: usize,
    activation_buffer: Mutex<ActivationBuffer>,
}

impl Compute {
    /// A CPU compute handle with its own persistent thread pool.
    pub fn cpu(options: ComputeOptions) -> Result<Self> {
        let inner = Inner {
            device: Device::Cpu,
            isa: options.isa.unwrap_or_else(Isa::detect),
            activations: options.activations,
            threads: options.threads.max(1),
            activation_buffer: Mutex::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Where the tensors of this handle live.
    pub fn device(&self) -> &Device {
        &self.inner.device
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.inner.isa
    }

    /// Precision of activations in matrix products.
    pub fn activations(&self) -> Activations {
        self.inner.activations
    }

    /// Where products keep their quantised activations.
    pub(crate) fn activation_buffer(&self) -> &Mutex<ActivationBuffer> {
        &self.inner.activation_buffer
    }

    /// Threads that compute, the calling one included.
    pub fn threads(&self) -> usize {
        self.inner.threads
    }

    /// Calls `task(i)` for every `i` in `0..count`, spread over the pool; returns when all are done. Work is handed
    /// out dynamically; a task must not call back into the same handle. A panic in a task is raised again here.
    pub fn parallel_for(&self, count: usize, task: impl Fn(usize) + Sync) {
        (0..count).for_each(task);
    }
}
