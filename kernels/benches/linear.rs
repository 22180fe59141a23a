//! Matrix products of every format beside Candle's, in weights read per second (GB/s) and operations per second.
//!
//! Arguments: `type rows x columns @ tokens`, such as `cargo bench -p kernels --bench linear -- "linear.*Q4_K 14336"`.
#![expect(clippy::unwrap_used, reason = "a bench fails by panicking")]

use std::fmt::{self, Display};

use candle_core::quantized::{QMatMul, QStorage, QTensor};
use candle_core::{DType, Device, Module, Tensor};
use divan::counter::{BytesCount, ItemsCount};
use kernels::{Activations, Compute, ComputeOptions, GgmlType, Operand, PackedMatrix};

/// Outputs and inputs: SmolLM2-135M's and Llama 3 8B's feed-forward layers.
const SHAPES: [(usize, usize); 3] = [(1536, 576), (576, 1536), (14336, 4096)];
const TOKENS: [usize; 6] = [1, 4, 8, 32, 128, 512];

#[derive(Clone, Copy)]
struct Product {
    ggml_type: GgmlType,
    rows: usize,
    columns: usize,
    tokens: usize,
}

impl Display for Product {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} x {} @ {}", self.ggml_type.name(), self.rows, self.columns, self.tokens)
    }
}

impl Product {
    fn all() -> impl Iterator<Item = Self> {
        let shapes = GgmlType::ALL.into_iter().flat_map(|t| SHAPES.map(|(rows, columns)| (t, rows, columns)));
        shapes
            .filter(|(ggml_type, _, columns)| columns.is_multiple_of(ggml_type.block_len()))
            .flat_map(|(ggml_type, rows, columns)| TOKENS.map(|tokens| Self { ggml_type, rows, columns, tokens }))
    }

    /// Random weights: any integers, small scales.
    fn weights(self) -> Vec<u8> {
        let mut rng = fastrand::Rng::with_seed(1);
        let len = self.rows * self.columns / self.ggml_type.block_len() * self.ggml_type.block_bytes();
        // No byte above 0x2f makes every f16 that a scale may be read from finite and small.
        std::iter::repeat_with(|| rng.u8(..0x30)).take(len).collect()
    }

    fn x(self) -> Tensor {
        Tensor::rand(-1f32, 1f32, (self.tokens, self.columns), &Device::Cpu).unwrap()
    }

    fn count<'a, 'b>(self, bencher: divan::Bencher<'a, 'b>) -> divan::Bencher<'a, 'b> {
        let operations = ItemsCount::new(2 * self.rows * self.columns * self.tokens);
        bencher.counter(operations).counter(BytesCount::new(self.weights().len()))
    }
}

#[divan::bench(args = Product::all(), max_time = 0.3, min_time = 0.05)]
fn linear(bencher: divan::Bencher<'_, '_>, product: Product) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let compute = Compute::cpu(ComputeOptions { threads, isa: None, activations: Activations::Int8 }).unwrap();
    let Product { ggml_type, rows, columns, tokens } = product;
    let weight = PackedMatrix::pack(&compute, ggml_type, rows, columns, &product.weights()).unwrap();
    let x = product.x();
    let out = Tensor::zeros((tokens, rows), DType::F32, &Device::Cpu).unwrap();
    product.count(bencher).bench_local(|| compute.linear(&weight, Operand::Rows(&x), &out).unwrap());
}

/// Types that Candle multiplies without dequantising them.
#[divan::bench(args = Product::all().filter(|p| p.ggml_type.block_len() > 1 && p.ggml_type.candle().is_some()), max_time = 0.3, min_time = 0.05)]
fn candle(bencher: divan::Bencher<'_, '_>, product: Product) {
    let storage =
        QStorage::from_data(product.weights().into(), &Device::Cpu, product.ggml_type.candle().unwrap()).unwrap();
    let weight = QMatMul::from_qtensor(QTensor::new(storage, (product.rows, product.columns)).unwrap()).unwrap();
    let x = product.x();
    product.count(bencher).bench_local(|| weight.forward(&x).unwrap());
}

fn main() {
    divan::main();
}
