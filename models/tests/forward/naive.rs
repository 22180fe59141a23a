//! A decoder-only transformer written once more, in the plainest way: f64, one token after another, whole rows of keys
//! and values kept in vectors, weights dequantised by Candle where it knows their type. Shares nothing with the crate but its file reader.

use std::borrow::Cow;

use candle_core::Device;
use candle_core::quantized::{QStorage, QTensor};
use half::f16;
use kernels::{GgmlType, RopeStyle};
use models::{ModelConfig, ModelFile, RopeScaling, TensorView};

use crate::Result;

/// Logits after every one of `token_ids`: `(token_ids.len(), vocab_size)`.
pub(crate) fn logits(file: &ModelFile, token_ids: &[u32]) -> Result<Vec<Vec<f32>>> {
    let config = file.config()?;
    let embedding = Matrix::read(file, "token_embd.weight")?;
    let mut rows: Vec<Vec<f64>> = token_ids.iter().map(|&id| embedding.row(id as usize)).collect();
    for layer in 0..config.num_layers {
        let block = Block::read(file, layer)?;
        block.attend(&config, &mut rows);
        for row in &mut rows {
            block.feed_forward(&config, row);
        }
    }
    let norm = vector(file, "output_norm.weight")?;
    let head = if config.tied_embeddings { embedding } else { Matrix::read(file, "output.weight")? };
    let one = |row: &Vec<f64>| head.times(&rms_norm(row, &norm, &config)).into_iter().map(|x| x as f32).collect();
    Ok(rows.iter().map(one).collect())
}

struct Block {
    attention_norm: Vec<f64>,
    q: Matrix,
    k: Matrix,
    v: Matrix,
    biases: Option<[Vec<f64>; 3]>,
    head_norms: Option<[Vec<f64>; 2]>,
    output: Matrix,
    feed_forward_norm: Vec<f64>,
    gate: Matrix,
    up: Matrix,
    down: Matrix,
}

impl Block {
    fn read(file: &ModelFile, layer: usize) -> Result<Self> {
        let name = |part: &str| format!("blk.{layer}.{part}");
        let matrix = |part: &str| Matrix::read(file, &name(&format!("{part}.weight")));
        let biased = file.has_tensor(&name("attn_q.bias"));
        let normed = file.has_tensor(&name("attn_q_norm.weight"));
        let vector = |part: &str| vector(file, &name(part));
        Ok(Self {
            attention_norm: vector("attn_norm.weight")?,
            q: matrix("attn_q")?,
            k: matrix("attn_k")?,
            v: matrix("attn_v")?,
            biases: if biased {
                Some([vector("attn_q.bias")?, vector("attn_k.bias")?, vector("attn_v.bias")?])
            } else {
                None
            },
            head_norms: if normed {
                Some([vector("attn_q_norm.weight")?, vector("attn_k_norm.weight")?])
            } else {
                None
            },
            output: matrix("attn_output")?,
            feed_forward_norm: vector("ffn_norm.weight")?,
            gate: matrix("ffn_gate")?,
            up: matrix("ffn_up")?,
            down: matrix("ffn_down")?,
        })
    }

    /// Adds causal attention to every row.
    fn attend(&self, config: &ModelConfig, rows: &mut [Vec<f64>]) {
        let (mut keys, mut values): (Vec<Vec<f64>>, Vec<Vec<f64>>) = (Vec::new(), Vec::new());
        for (position, row) in rows.iter_mut().enumerate() {
            let x = rms_norm(row, &self.attention_norm, config);
            let [mut q, mut k, mut v] = [self.q.times(&x), self.k.times(&x), self.v.times(&x)];
            if let Some([of_q, of_k, of_v]) = &self.biases {
                add(&mut q, of_q);
                add(&mut k, of_k);
                add(&mut v, of_v);
            }
            for (heads, norm) in [(&mut q, 0), (&mut k, 1)] {
                for head in heads.chunks_exact_mut(config.head_dim) {
                    if let Some(norms) = &self.head_norms {
                        head.copy_from_slice(&rms_norm(head, &norms[norm], config));
                    }
                    rotate(head, position, config);
                }
            }
            keys.push(k);
            values.push(v);
            let window = config.sliding_window.unwrap_or(usize::MAX);
            let first = (position + 1).saturating_sub(window);
            let attended = attention(&q, &keys[first..], &values[first..], config);
            add(row, &self.output.times(&attended));
        }
    }

    /// Adds the gated feed-forward network to a row.
    fn feed_forward(&self, config: &ModelConfig, row: &mut [f64]) {
        let x = rms_norm(row, &self.feed_forward_norm, config);
        let silu = |x: f64| x / (1.0 + (-x).exp());
        let gated: Vec<f64> = self.gate.times(&x).iter().zip(self.up.times(&x)).map(|(g, u)| silu(*g) * u).collect();
        add(row, &self.down.times(&gated));
    }
}

/// Softmax-weighted values for every query head; each key/value head serves a group of them.
fn attention(q: &[f64], keys: &[Vec<f64>], values: &[Vec<f64>], config: &ModelConfig) -> Vec<f64> {
    let head_dim = config.head_dim;
    let group = config.num_heads / config.num_kv_heads;
    let mut out = vec![0.0; q.len()];
    for (head, (q, out)) in q.chunks_exact(head_dim).zip(out.chunks_exact_mut(head_dim)).enumerate() {
        let part = (head / group) * head_dim..(head / group + 1) * head_dim;
        let dot = |k: &Vec<f64>| q.iter().zip(&k[part.clone()]).map(|(a, b)| a * b).sum::<f64>();
        let scores: Vec<f64> = keys.iter().map(|k| (dot(k) / (head_dim as f64).sqrt()).exp()).collect();
        let total: f64 = scores.iter().sum();
        for (score, value) in scores.iter().zip(values) {
            out.iter_mut().zip(&value[part.clone()]).for_each(|(o, v)| *o += score / total * v);
        }
    }
    out
}

fn rotate(head: &mut [f64], position: usize, config: &ModelConfig) {
    let half = head.len() / 2;
    for pair in 0..half {
        let (a, b) = match config.rope_style {
            RopeStyle::Interleaved => (2 * pair, 2 * pair + 1),
            RopeStyle::Neox => (pair, pair + half),
        };
        let (sin, cos) = (position as f64 * frequency(pair, config)).sin_cos();
        (head[a], head[b]) = (head[a] * cos - head[b] * sin, head[a] * sin + head[b] * cos);
    }
}

fn frequency(pair: usize, config: &ModelConfig) -> f64 {
    let frequency = f64::from(config.rope_theta).powf(-((2 * pair) as f64) / config.head_dim as f64);
    match &config.rope_scaling {
        RopeScaling::None => frequency,
        RopeScaling::Linear { factor } => frequency / f64::from(*factor),
        RopeScaling::Factors(factors) => frequency / f64::from(factors[pair]),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            // As Hugging Face's modeling_rope_utils describes it, by wavelengths.
            let wavelength = std::f64::consts::TAU / frequency;
            let [factor, low, high] = [factor, low_freq_factor, high_freq_factor].map(|f| f64::from(*f));
            let context = *original_context as f64;
            if wavelength < context / high {
                frequency
            } else if wavelength > context / low {
                frequency / factor
            } else {
                let smooth = (context / wavelength - low) / (high - low);
                (1.0 - smooth) * frequency / factor + smooth * frequency
            }
        }
    }
}

fn rms_norm(x: &[f64], weight: &[f64], config: &ModelConfig) -> Vec<f64> {
    let mean_square = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
    let scale = 1.0 / (mean_square + f64::from(config.rms_norm_eps)).sqrt();
    x.iter().zip(weight).map(|(x, w)| x * scale * w).collect()
}

fn add(x: &mut [f64], y: &[f64]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

/// A dequantised matrix, row-major.
struct Matrix {
    columns: usize,
    values: Vec<f32>,
}

impl Matrix {
    fn read(file: &ModelFile, name: &str) -> Result<Self> {
        let view = file.tensor(name)?;
        Ok(Self { columns: view.shape[1], values: dequantise(&view)? })
    }

    fn row(&self, row: usize) -> Vec<f64> {
        self.values[row * self.columns..][..self.columns].iter().map(|w| f64::from(*w)).collect()
    }

    fn times(&self, x: &[f64]) -> Vec<f64> {
        let dot = |row: &[f32]| row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum();
        self.values.chunks_exact(self.columns).map(dot).collect()
    }
}

fn vector(file: &ModelFile, name: &str) -> Result<Vec<f64>> {
    Ok(dequantise(&file.tensor(name)?)?.into_iter().map(f64::from).collect())
}

fn dequantise(view: &TensorView) -> Result<Vec<f32>> {
    let Some(dtype) = view.ggml_type.candle() else { return Ok(iq4(view)) };
    let storage = QStorage::from_data(Cow::Borrowed(view.bytes), &Device::Cpu, dtype)?;
    let tensor = QTensor::new(storage, view.shape.as_slice())?.dequantize(&Device::Cpu)?;
    Ok(tensor.flatten_all()?.to_vec1()?)
}

/// IQ4_NL and IQ4_XS: a half-precision scale, for IQ4_XS six-bit ones of each 32, and nibbles that look up a value.
fn iq4(view: &TensorView) -> Vec<f32> {
    const TABLE: [i16; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
    let mut values = Vec::new();
    for block in view.bytes.chunks_exact(view.ggml_type.block_bytes()) {
        let d = f16::from_le_bytes([block[0], block[1]]).to_f32();
        let nibbles = &block[if view.ggml_type == GgmlType::IQ4_NL { 2 } else { 8 }..];
        for (s, nibbles) in nibbles.chunks_exact(16).enumerate() {
            let scale = if view.ggml_type == GgmlType::IQ4_NL {
                1
            } else {
                let high = u16::from_le_bytes([block[2], block[3]]) >> (2 * s) & 3;
                i16::from(block[4 + s / 2] >> (4 * (s % 2)) & 15) + 16 * high as i16 - 32
            };
            let places = nibbles.iter().map(|n| n & 15).chain(nibbles.iter().map(|n| n >> 4));
            values.extend(places.map(|place| d * f32::from(scale) * f32::from(TABLE[usize::from(place)])));
        }
    }
    values
}
