//! What the machine can do, for the benches to stand beside.

use std::fmt;
use std::hint::black_box;
use std::time::Instant;

use kernels::{Activations, Compute, ComputeOptions};

/// Bytes that no cache holds.
pub const BEYOND_CACHES: usize = 256 << 20;

/// A handle with a thread for every processor.
pub fn compute() -> Compute {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    Compute::cpu(ComputeOptions { threads, isa: None, activations: Activations::Int8 }).unwrap()
}

/// The shortest of some runs.
pub fn seconds(mut run: impl FnMut()) -> f64 {
    const RUNS: usize = 3;
    const ENOUGH: f64 = 0.15;
    let start = Instant::now();
    let mut best = f64::INFINITY;
    for number in 0.. {
        if number >= RUNS && start.elapsed().as_secs_f64() > ENOUGH {
            break;
        }
        let start = Instant::now();
        run();
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}

/// Operations of a run and the run, which must not be called without its instruction set.
type Loop = (f64, unsafe fn());

/// What the machine does when it does nothing else, with as many threads as the products have.
pub struct Peaks {
    /// GB/s.
    pub read: f64,
    /// Gop/s of the widest instruction there is for 8-bit integers.
    pub int8: f64,
    /// The same for f32.
    pub f32: f64,
}

impl Peaks {
    pub fn measure(compute: &Compute) -> Self {
        /// Bytes that a thread reads at a time, from four places.
        const PIECE: usize = 1 << 20;
        let data = vec![1u64; BEYOND_CACHES / size_of::<u64>()];
        let pieces: Vec<&[u64]> = data.chunks_exact(PIECE / size_of::<u64>()).collect();
        let read = seconds(|| {
            compute.parallel_for(pieces.len() / 4, |i| {
                let [a, b, c, d] = [0, 1, 2, 3].map(|part| pieces[part * (pieces.len() / 4) + i]);
                let quads = a.iter().zip(b).zip(c.iter().zip(d));
                black_box(quads.fold(0u64, |sum, ((a, b), (c, d))| sum + (a + b) + (c + d)));
            });
        });
        let best = |loops: Vec<Loop>| {
            let speed = |(operations, run): Loop| {
                let threads = compute.threads();
                // SAFETY: a loop is in the list only where its instruction set was detected.
                let seconds = seconds(|| compute.parallel_for(threads, |_| unsafe { run() }));
                operations * threads as f64 / 1e9 / seconds
            };
            loops.into_iter().map(speed).fold(f64::NAN, f64::max)
        };
        Self { read: BEYOND_CACHES as f64 / 1e9 / read, int8: best(peak::int8()), f32: best(peak::f32()) }
    }
}

impl fmt::Display for Peaks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { read, int8, f32 } = self;
        write!(f, "reads {read:.1} GB/s, multiplies {int8:.0} int8 Gop/s, {f32:.0} f32 Gop/s")
    }
}

/// Loops of one instruction in enough chains to keep it busy, which the compiler cannot see to be equal.
#[cfg(target_arch = "x86_64")]
mod peak {
    use std::arch::x86_64::{
        _mm256_dpbusd_avx_epi32, _mm256_fmadd_ps, _mm256_maddubs_epi16, _mm256_set1_epi8, _mm256_set1_ps,
        _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_set1_epi8, _mm512_set1_ps,
    };
    use std::hint::black_box;

    use kernels::Isa;

    use super::Loop;

    const CHAINS: usize = 12;
    const ROUNDS: usize = 1 << 20;

    /// Operations of a run over vectors of so many multiply-adds.
    fn operations(multiply_adds: usize) -> f64 {
        (2 * multiply_adds * CHAINS * ROUNDS) as f64
    }

    pub(super) fn int8() -> Vec<Loop> {
        let mut loops: Vec<Loop> = Vec::new();
        if Isa::Avx2.is_available() {
            loops.push((operations(32), maddubs));
        }
        if Isa::AvxVnni.is_available() {
            loops.push((operations(32), dpbusd));
        }
        if Isa::Avx512Vnni.is_available() {
            loops.push((operations(64), dpbusd_512));
        }
        loops
    }

    pub(super) fn f32() -> Vec<Loop> {
        let mut loops: Vec<Loop> = Vec::new();
        if Isa::Avx2.is_available() {
            loops.push((operations(8), fma));
        }
        if Isa::Avx512Vnni.is_available() {
            loops.push((operations(16), fma_512));
        }
        loops
    }

    /// A loop of nothing but `$next`, given the number that a chain has come to and one that never changes.
    macro_rules! peak {
        ($name:ident, $features:literal, $start:expr, |$chain:ident, $x:ident| $next:expr) => {
            #[target_feature(enable = $features)]
            fn $name() {
                let (mut chains, $x) = (black_box([$start; CHAINS]), black_box($start));
                for _ in 0..ROUNDS {
                    for chain in &mut chains {
                        let $chain = *chain;
                        *chain = $next;
                    }
                }
                black_box(chains);
            }
        };
    }

    peak!(maddubs, "avx2", _mm256_set1_epi8(1), |chain, x| _mm256_maddubs_epi16(chain, x));
    peak!(dpbusd, "avx2,avxvnni", _mm256_set1_epi8(1), |chain, x| _mm256_dpbusd_avx_epi32(chain, x, x));
    peak!(dpbusd_512, "avx512f,avx512vnni", _mm512_set1_epi8(1), |chain, x| _mm512_dpbusd_epi32(chain, x, x));
    peak!(fma, "avx2,fma", _mm256_set1_ps(0.5), |chain, x| _mm256_fmadd_ps(chain, x, x));
    peak!(fma_512, "avx512f", _mm512_set1_ps(0.5), |chain, x| _mm512_fmadd_ps(chain, x, x));
}

#[cfg(not(target_arch = "x86_64"))]
mod peak {
    use super::Loop;

    pub(super) fn int8() -> Vec<Loop> {
        Vec::new()
    }

    pub(super) fn f32() -> Vec<Loop> {
        Vec::new()
    }
}
