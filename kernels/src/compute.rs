//! The handle that every operation is called on: device, instruction set, thread pool, precision of activations.
//! Cheap to clone. Must not know any operation's arithmetic.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::Device;

use crate::gpu::Gpu;
use crate::ops::attention::Plan;
use crate::ops::linear::ActivationBuffer;
use crate::pool::Pool;
use crate::sampling::{DeviceSampler, SamplerSizes};
use crate::scratch::{Buffer, Scratch};
use crate::shared::Shared;
use crate::{CardInfo, Error, Result};

/// An instruction set that the matrix kernels are built for, chosen at run time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// Plain Rust; the reference.
    Scalar,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// AVX2 with the int8 dot products of AVX-VNNI.
    AvxVnni,
    /// AVX2 with those of AVX-512 VNNI.
    Avx512Vnni,
}

impl Isa {
    /// The best instruction set of this machine.
    pub fn detect() -> Self {
        let best_first = [Self::Avx512Vnni, Self::AvxVnni, Self::Avx2];
        best_first.into_iter().find(|isa| isa.is_available()).unwrap_or(Self::Scalar)
    }

    /// Whether this machine has it.
    #[cfg(target_arch = "x86_64")]
    pub fn is_available(self) -> bool {
        let avx2 =
            || is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        match self {
            Self::Scalar => true,
            Self::Avx2 => avx2(),
            Self::AvxVnni => avx2() && is_x86_feature_detected!("avxvnni"),
            Self::Avx512Vnni => {
                avx2() && is_x86_feature_detected!("avx512vl") && is_x86_feature_detected!("avx512vnni")
            }
        }
    }

    /// Whether this machine has it.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn is_available(self) -> bool {
        self == Self::Scalar
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Scalar => "no SIMD",
            Self::Avx2 => "AVX2",
            Self::AvxVnni => "AVX-VNNI",
            Self::Avx512Vnni => "AVX-512 VNNI",
        })
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
    gpu: Option<Arc<Gpu>>,
    isa: Isa,
    activations: Activations,
    activation_buffer: Mutex<ActivationBuffer>,
    pool: Pool,
    scratch: Scratch,
    attention_plan: Mutex<Plan>,
}

/// Elements below which an elementwise operation is done before other threads would have started.
const SERIAL_ELEMENTS: usize = 4 * 1024;

impl Compute {
    /// A CPU compute handle with its own persistent thread pool.
    ///
    /// # Errors
    /// When this machine lacks the instruction set asked for, or no thread can be started.
    pub fn cpu(options: ComputeOptions) -> Result<Self> {
        let best = Isa::detect();
        let isa = options.isa.unwrap_or(best);
        if !isa.is_available() {
            return Err(Error::Isa { asked: isa, best });
        }
        Self::new(None, isa, options)
    }

    /// A handle whose operations run on the NVIDIA card with this index. `options` are for what stays on the CPU.
    ///
    /// # Errors
    /// As [`Compute::cpu`], and when the build has no CUDA, there is no driver, it is too old, or there is no such card.
    pub fn cuda(ordinal: usize, options: ComputeOptions) -> Result<Self> {
        Self::new(Some(Arc::new(Gpu::open(ordinal)?)), options.isa.unwrap_or_else(Isa::detect), options)
    }

    /// As [`Compute::cpu`] with `isa`, which the machine must have, or a test provide.
    #[cfg(test)]
    pub(crate) fn with_isa(isa: Isa, options: ComputeOptions) -> Result<Self> {
        Self::new(None, isa, options)
    }

    fn new(gpu: Option<Arc<Gpu>>, isa: Isa, options: ComputeOptions) -> Result<Self> {
        let pool = Pool::new(options.threads).map_err(Error::Threads)?;
        let scratch = Scratch::new(pool.threads());
        let inner = Inner {
            gpu,
            isa,
            activations: options.activations,
            pool,
            scratch,
            activation_buffer: Mutex::default(),
            attention_plan: Mutex::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Where the tensors of this handle live.
    pub fn device(&self) -> &Device {
        self.gpu().map_or(&Device::Cpu, Gpu::device)
    }

    /// The card, if that is where operations run.
    pub(crate) fn gpu(&self) -> Option<&Gpu> {
        self.inner.gpu.as_deref()
    }

    /// What the card says of itself, if operations run on one.
    pub fn card(&self) -> Option<&CardInfo> {
        self.gpu().map(Gpu::info)
    }

    /// A sampler on the card, if operations run on one.
    ///
    /// # Errors
    /// When the card's memory does not suffice or the vocabulary is too large.
    pub fn sampler(&self, sizes: SamplerSizes) -> Result<Option<DeviceSampler>> {
        self.inner.gpu.as_ref().map(|gpu| DeviceSampler::new(Arc::clone(gpu), sizes)).transpose()
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
        self.inner.pool.threads()
    }

    /// Calls `task(i)` for every `i` in `0..count`, spread over the pool; returns when all are done. Work is handed
    /// out dynamically. A panic in a task is raised again here once every started task has ended. A call from inside a
    /// task, or from another thread while a job runs, does its work on the calling thread alone.
    pub fn parallel_for(&self, count: usize, task: impl Fn(usize) + Sync) {
        self.inner.pool.run(count, &|_, i| task(i));
    }

    /// As [`Compute::parallel_for`], with the running thread's working memory.
    pub(crate) fn parallel_for_scratch(&self, count: usize, task: impl Fn(&mut Buffer, usize) + Sync) {
        self.inner.pool.run(count, &|thread, i| self.inner.scratch.with(thread, |buffer| task(buffer, i)));
    }

    /// Lends the calling thread's working memory.
    pub(crate) fn with_scratch<R>(&self, task: impl FnOnce(&mut Buffer) -> R) -> R {
        self.inner.scratch.with(0, task)
    }

    /// What attention keeps between calls.
    pub(crate) fn attention_plan(&self) -> MutexGuard<'_, Plan> {
        self.inner.attention_plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `task(i, row)` for every row of `columns` elements, in parallel where there is enough to do.
    pub(crate) fn for_each_row(&self, data: &mut [f32], columns: usize, task: impl Fn(usize, &mut [f32]) + Sync) {
        if data.len() < SERIAL_ELEMENTS {
            data.chunks_exact_mut(columns).enumerate().for_each(|(i, row)| task(i, row));
            return;
        }
        let rows = data.len() / columns;
        let data = Shared::new(data);
        self.parallel_for(rows, |i| {
            // SAFETY: rows do not overlap, and each `i` runs once.
            task(i, unsafe { data.slice(i * columns, columns) });
        });
    }
}
