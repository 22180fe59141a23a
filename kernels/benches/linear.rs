//! Matrix products of every type beside what the machine could do and beside stock Candle, as rows for the log:
//! `cargo bench -p kernels --bench linear`, about a minute; arguments after `--` are the types to take.
//!
//! For one token weights are read from memory, so its figure is GB of weights a second beside plain reading; for more
//! tokens it is operations (two a multiply-add) a second beside nothing but the instruction that multiplies.
#![expect(clippy::unwrap_used, reason = "a bench fails by panicking")]
#![expect(clippy::print_stdout, reason = "the output of the bench")]

use std::hint::black_box;
use std::time::Instant;

use candle_core::quantized::{QMatMul, QStorage, QTensor};
use candle_core::{DType, Device, Module, Tensor};
use kernels::{Activations, Compute, ComputeOptions, GgmlType, Operand, PackedMatrix, dequantise};

/// Bytes of weights that no cache holds.
const BEYOND_CACHES: usize = 256 << 20;
/// Columns of the matrices in memory, and rows of the one for many tokens.
const WIDTH: usize = 4096;
const TOKENS: [usize; 4] = [8, 32, 128, 512];
/// Rows and columns of a matrix that stays in cache: near SmolLM2-135M's feed-forward layer.
const SMALL: (usize, usize) = (1536, 768);
const SMALL_TOKENS: [usize; 3] = [1, 8, 128];

fn main() {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let compute = Compute::cpu(ComputeOptions { threads, isa: None, activations: Activations::Int8 }).unwrap();
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let types = || GgmlType::ALL.into_iter().filter(|t| wanted.is_empty() || wanted.iter().any(|w| w == t.name()));
    let peaks = Peaks::measure(&compute);
    let Peaks { read, int8, f32 } = peaks;
    println!(
        "{}, {threads} threads; reads {read:.1} GB/s, multiplies {int8:.0} int8 Gop/s, {f32:.0} f32 Gop/s\n",
        compute.isa()
    );
    println!("| from memory | M = 1, GB/s | Candle | M = 8, Gop/s | 32 | 128 | 512 |\n|---|---|---|---|---|---|---|");
    types().for_each(|ggml_type| println!("{}", from_memory(&compute, ggml_type, &peaks)));
    println!("\n| in cache, Gop/s at M = 1 / 8 / 128 | ours | Candle |\n|---|---|---|");
    types().for_each(|ggml_type| println!("{}", in_cache(&compute, ggml_type)));
}

/// One token against more weights than caches hold, then many against `WIDTH` rows of them.
fn from_memory(compute: &Compute, ggml_type: GgmlType, peaks: &Peaks) -> String {
    let row_bytes = WIDTH / ggml_type.block_len() * ggml_type.block_bytes();
    let rows = BEYOND_CACHES / row_bytes;
    let bytes = weights(rows * row_bytes);
    let weight = PackedMatrix::pack(compute, ggml_type, rows, WIDTH, &bytes).unwrap();
    let speed = weight.bytes() as f64 / 1e9 / seconds(product(compute, &weight, 1));
    let mut cells = vec![format!("{speed:.1} ({:.0} %)", 100.0 * speed / peaks.read)];
    let candle = candle(ggml_type, rows, WIDTH, &bytes, 1).map(|run| bytes.len() as f64 / 1e9 / seconds(run));
    cells.push(candle.map_or_else(|| "-".into(), |speed| format!("{speed:.1}")));
    let weight = PackedMatrix::pack(compute, ggml_type, WIDTH, WIDTH, &bytes[..WIDTH * row_bytes]).unwrap();
    let peak = if ggml_type.block_len() == 1 { peaks.f32 } else { peaks.int8 };
    for tokens in TOKENS {
        let speed = giga_operations(&weight, tokens) / seconds(product(compute, &weight, tokens));
        cells.push(format!("{speed:.0} ({:.0} %)", 100.0 * speed / peak));
    }
    format!("| {} | {} |", ggml_type.name(), cells.join(" | "))
}

fn in_cache(compute: &Compute, ggml_type: GgmlType) -> String {
    let (rows, columns) = SMALL;
    let bytes = weights(rows * columns / ggml_type.block_len() * ggml_type.block_bytes());
    let weight = PackedMatrix::pack(compute, ggml_type, rows, columns, &bytes).unwrap();
    let ours = SMALL_TOKENS.map(|m| giga_operations(&weight, m) / seconds(product(compute, &weight, m)));
    let theirs = SMALL_TOKENS.map(|m| {
        let run = candle(ggml_type, rows, columns, &bytes, m);
        run.map_or_else(|| "-".into(), |run| format!("{:.0}", giga_operations(&weight, m) / seconds(run)))
    });
    format!(
        "| {} | {} | {} |",
        ggml_type.name(),
        ours.map(|speed| format!("{speed:.0}")).join(" / "),
        theirs.join(" / ")
    )
}

/// Random weights: any integers, small scales.
fn weights(len: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(1);
    let mut bytes = vec![0; len];
    rng.fill(&mut bytes);
    // No byte above 0x2f makes every f16 that a scale may be read from finite and small.
    for byte in &mut bytes {
        *byte = ((u16::from(*byte) * 0x30) >> 8) as u8;
    }
    bytes
}

fn x(tokens: usize, columns: usize) -> Tensor {
    Tensor::rand(-1f32, 1f32, (tokens, columns), &Device::Cpu).unwrap()
}

fn giga_operations(weight: &PackedMatrix, tokens: usize) -> f64 {
    2.0 * (weight.rows() * weight.columns() * tokens) as f64 / 1e9
}

fn product<'a>(compute: &'a Compute, weight: &'a PackedMatrix, tokens: usize) -> impl FnMut() + 'a {
    let x = x(tokens, weight.columns());
    let out = Tensor::zeros((tokens, weight.rows()), DType::F32, &Device::Cpu).unwrap();
    move || compute.linear(weight, Operand::Rows(&x), &out).unwrap()
}

/// Candle's product: its quantised one, or for float types that of tensors of the type; `None` where it has none.
fn candle(ggml_type: GgmlType, rows: usize, columns: usize, bytes: &[u8], tokens: usize) -> Option<Box<dyn FnMut()>> {
    let x = x(tokens, columns);
    let dtype = match ggml_type {
        GgmlType::F32 => DType::F32,
        GgmlType::F16 => DType::F16,
        GgmlType::BF16 => DType::BF16,
        _ => {
            let storage = QStorage::from_data(bytes.to_vec().into(), &Device::Cpu, ggml_type.candle()?).unwrap();
            let weight = QMatMul::from_qtensor(QTensor::new(storage, (rows, columns)).unwrap()).unwrap();
            return Some(Box::new(move || drop(weight.forward(&x).unwrap())));
        }
    };
    let values = Tensor::from_vec(dequantise(ggml_type, bytes), (rows, columns), &Device::Cpu).unwrap();
    let (weight, x) = (values.to_dtype(dtype).unwrap().t().unwrap(), x.to_dtype(dtype).unwrap());
    Some(Box::new(move || drop(x.matmul(&weight).unwrap())))
}

/// The shortest of some runs.
fn seconds(mut run: impl FnMut()) -> f64 {
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
struct Peaks {
    /// GB/s.
    read: f64,
    /// Gop/s of the widest instruction there is for 8-bit integers.
    int8: f64,
    /// The same for f32.
    f32: f64,
}

impl Peaks {
    fn measure(compute: &Compute) -> Self {
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

    #[target_feature(enable = "avx2")]
    fn maddubs() {
        let (mut chains, x) = (black_box([_mm256_set1_epi8(1); CHAINS]), black_box(_mm256_set1_epi8(1)));
        for _ in 0..ROUNDS {
            for chain in &mut chains {
                *chain = _mm256_maddubs_epi16(*chain, x);
            }
        }
        black_box(chains);
    }

    #[target_feature(enable = "avx2,avxvnni")]
    fn dpbusd() {
        let (mut chains, x) = (black_box([_mm256_set1_epi8(1); CHAINS]), black_box(_mm256_set1_epi8(1)));
        for _ in 0..ROUNDS {
            for chain in &mut chains {
                *chain = _mm256_dpbusd_avx_epi32(*chain, x, x);
            }
        }
        black_box(chains);
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    fn dpbusd_512() {
        let (mut chains, x) = (black_box([_mm512_set1_epi8(1); CHAINS]), black_box(_mm512_set1_epi8(1)));
        for _ in 0..ROUNDS {
            for chain in &mut chains {
                *chain = _mm512_dpbusd_epi32(*chain, x, x);
            }
        }
        black_box(chains);
    }

    #[target_feature(enable = "avx2,fma")]
    fn fma() {
        let (mut chains, x) = (black_box([_mm256_set1_ps(1.0); CHAINS]), black_box(_mm256_set1_ps(0.5)));
        for _ in 0..ROUNDS {
            for chain in &mut chains {
                *chain = _mm256_fmadd_ps(*chain, x, x);
            }
        }
        black_box(chains);
    }

    #[target_feature(enable = "avx512f")]
    fn fma_512() {
        let (mut chains, x) = (black_box([_mm512_set1_ps(1.0); CHAINS]), black_box(_mm512_set1_ps(0.5)));
        for _ in 0..ROUNDS {
            for chain in &mut chains {
                *chain = _mm512_fmadd_ps(*chain, x, x);
            }
        }
        black_box(chains);
    }
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
