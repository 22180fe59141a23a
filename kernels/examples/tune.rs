use candle_core::quantized::{GgmlDType, QMatMul, QStorage, QTensor};
use candle_core::{DType, Device, Module, Tensor};
use kernels::{Activations, Compute, ComputeOptions, GgmlType, PackedMatrix};
#[repr(C)]
struct Ts {
    s: i64,
    n: i64,
}
unsafe extern "C" {
    fn clock_gettime(c: i32, t: *mut Ts) -> i32;
}
fn now() -> f64 {
    let mut t = Ts { s: 0, n: 0 };
    unsafe {
        clock_gettime(2, &mut t);
    }
    t.s as f64 + t.n as f64 * 1e-9
}
fn best(mut f: impl FnMut(), limit: f64) -> f64 {
    let (mut b, start) = (f64::MAX, now());
    let mut n = 0;
    while n < 3 || (now() - start < limit && n < 200) {
        let t = now();
        f();
        b = b.min(now() - t);
        n += 1;
    }
    b
}
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let types: Vec<GgmlType> =
        GgmlType::ALL.into_iter().filter(|t| args[1] == "all" || args[1].split(',').any(|a| a == t.name())).collect();
    let ms: Vec<usize> = args[2].split(',').map(|m| m.parse().unwrap()).collect();
    let shapes: Vec<(usize, usize)> = args[3]
        .split(',')
        .map(|s| {
            let (a, b) = s.split_once('x').unwrap();
            (a.parse().unwrap(), b.parse().unwrap())
        })
        .collect();
    let candle = args.get(4).is_some();
    let compute = Compute::cpu(ComputeOptions { threads: 1, isa: None, activations: Activations::Int8 }).unwrap();
    for t in types {
        for &(rows, columns) in &shapes {
            if columns % t.block_len() != 0 {
                continue;
            }
            let mut rng = fastrand::Rng::with_seed(1);
            let bytes: Vec<u8> = std::iter::repeat_with(|| rng.u8(..0x30))
                .take(rows * columns / t.block_len() * t.block_bytes())
                .collect();
            let w = PackedMatrix::pack(&compute, t, rows, columns, &bytes).unwrap();
            let p = best(
                || {
                    PackedMatrix::pack(&compute, t, rows, columns, &bytes).unwrap();
                },
                0.2,
            );
            println!("{:5} pack {:.2} GB/s", t.name(), bytes.len() as f64 * 1e-9 / p);
            let d = match t {
                GgmlType::Q4_0 => GgmlDType::Q4_0,
                GgmlType::Q4_1 => GgmlDType::Q4_1,
                GgmlType::Q5_0 => GgmlDType::Q5_0,
                GgmlType::Q5_1 => GgmlDType::Q5_1,
                GgmlType::Q8_0 => GgmlDType::Q8_0,
                GgmlType::Q2_K => GgmlDType::Q2K,
                GgmlType::Q3_K => GgmlDType::Q3K,
                GgmlType::Q4_K => GgmlDType::Q4K,
                GgmlType::Q5_K => GgmlDType::Q5K,
                GgmlType::Q6_K => GgmlDType::Q6K,
                GgmlType::F32 => GgmlDType::F32,
                GgmlType::F16 => GgmlDType::F16,
                GgmlType::BF16 => GgmlDType::BF16,
            };
            let cw = candle.then(|| {
                QMatMul::from_qtensor(
                    QTensor::new(QStorage::from_data(bytes.clone().into(), &Device::Cpu, d).unwrap(), (rows, columns))
                        .unwrap(),
                )
                .unwrap()
            });
            for &m in &ms {
                let x = Tensor::rand(-1f32, 1f32, (m, columns), &Device::Cpu).unwrap();
                let out = Tensor::zeros((m, rows), DType::F32, &Device::Cpu).unwrap();
                let op = 2e-9 * (rows * columns * m) as f64;
                let s = best(|| compute.linear(&w, &x, &out).unwrap(), 0.3);
                print!(
                    "{:5} {rows:6}x{columns:<6} @{m:<4} {:7.1} Gop/s {:6.1} GB/s",
                    t.name(),
                    op / s,
                    bytes.len() as f64 * 1e-9 / s
                );
                if let Some(cw) = &cw {
                    let c = best(
                        || {
                            cw.forward(&x).unwrap();
                        },
                        0.3,
                    );
                    print!("   candle {:7.1} Gop/s  x{:.2}", op / c, c / s);
                }
                println!();
            }
        }
    }
}
