//! Matrix products of every type beside what the machine could do and beside stock Candle, as rows for the log:
//! `cargo bench -p kernels --bench linear`, about a minute; arguments after `--` are the types to take.
//!
//! For one token weights are read from memory, so its figure is GB of weights a second beside plain reading; for more
//! tokens it is operations (two a multiply-add) a second beside nothing but the instruction that multiplies.
#![expect(clippy::unwrap_used, reason = "a bench fails by panicking")]
#![expect(clippy::print_stdout, reason = "the output of the bench")]

mod machine;

use candle_core::quantized::{QMatMul, QStorage, QTensor};
use candle_core::{DType, Device, Module, Tensor};
use kernels::{Compute, GgmlType, Operand, PackedMatrix, dequantise};

use machine::{BEYOND_CACHES, Peaks, seconds};

/// Columns of the matrices in memory, and rows of the one for many tokens.
const WIDTH: usize = 4096;
const TOKENS: [usize; 4] = [8, 32, 128, 512];
/// Rows and columns of a matrix that stays in cache: near SmolLM2-135M's feed-forward layer.
const SMALL: (usize, usize) = (1536, 768);
const SMALL_TOKENS: [usize; 3] = [1, 8, 128];

fn main() {
    let compute = machine::compute();
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let types = || GgmlType::ALL.into_iter().filter(|t| wanted.is_empty() || wanted.iter().any(|w| w == t.name()));
    let peaks = Peaks::measure(&compute);
    println!("{}, {} threads; {peaks}\n", compute.isa(), compute.threads());
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
