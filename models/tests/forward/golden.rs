//! Parity with Hugging Face transformers on the demo model, from the golden file that `scripts/golden` makes.

use std::path::PathBuf;

use candle_core::Device;
use kernels::{Activations, KvCacheType};

use crate::{
    Result,
    runner::{Runner, demo_model},
};

/// What transformers says, in f32 on the dequantised weights.
pub(crate) struct Golden {
    prompts: Vec<Vec<u32>>,
    /// Per position, `(token, log-probability)`, likeliest first.
    top: Vec<Vec<(u32, f32)>>,
    pub(crate) text_ids: Vec<u32>,
    text_log_probs: Vec<f32>,
}

impl Golden {
    pub(crate) fn read() -> Result<Self> {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/smollm2.safetensors");
        let tensors = candle_core::safetensors::load(path, &Device::Cpu)?;
        let tensor = |name: &str| tensors.get(name).ok_or_else(|| format!("no tensor {name} in the golden file"));
        let prompt_ids = tensor("prompt_ids")?.to_vec1::<u32>()?;
        let mut rest = prompt_ids.as_slice();
        let lengths = tensor("prompt_lengths")?.to_vec1::<u32>()?;
        let mut cut = |length: u32| rest.split_off(..length as usize).unwrap().to_vec();
        let prompts = lengths.into_iter().map(&mut cut).collect();
        let ids = tensor("top_ids")?.to_vec2::<u32>()?;
        let log_probs = tensor("top_log_probs")?.to_vec2::<f32>()?;
        let top = ids.into_iter().zip(log_probs).map(|(ids, probs)| ids.into_iter().zip(probs).collect()).collect();
        Ok(Self {
            prompts,
            top,
            text_ids: tensor("text_ids")?.to_vec1()?,
            text_log_probs: tensor("text_log_probs")?.to_vec1()?,
        })
    }
}

/// How close we are to the golden file.
struct Parity {
    /// Share of positions whose likeliest token is the same.
    agreement: f64,
    /// The same where the reference's first two are more than 0.1 nat apart.
    clear_agreement: f64,
    /// Mean Kullback-Leibler divergence over the reference's likeliest tokens and the rest taken as one, nats.
    mean_kl: f64,
    /// Our perplexity of the text over the reference's.
    perplexity_ratio: f64,
}

impl Parity {
    fn measure(activations: Activations, cache_type: KvCacheType) -> Result<Self> {
        let golden = Golden::read()?;
        let mut runner = Runner::with_cache(&demo_model()?, activations, cache_type, 128, 7)?;
        let prompts: Vec<&[u32]> = golden.prompts.iter().map(Vec::as_slice).collect();
        let logits: Vec<Vec<f32>> = runner.logits(&prompts, 40)?.into_iter().flatten().collect();
        assert_eq!(logits.len(), golden.top.len());
        let (mut agreed, mut clear, mut clear_agreed, mut kl) = (0, 0, 0, 0.0);
        for (logits, top) in logits.iter().zip(&golden.top) {
            let same = argmax(logits) == top[0].0;
            agreed += usize::from(same);
            if top[0].1 - top[1].1 > 0.1 {
                clear += 1;
                clear_agreed += usize::from(same);
            }
            kl += divergence(logits, top);
        }
        let positions = golden.top.len() as f64;
        Ok(Self {
            agreement: agreed as f64 / positions,
            clear_agreement: f64::from(clear_agreed as u32) / f64::from(clear),
            mean_kl: kl / positions,
            perplexity_ratio: perplexity_ratio(&golden, &mut runner)?,
        })
    }

    fn print(&self, name: &str) {
        let Self { agreement, clear_agreement, mean_kl, perplexity_ratio } = self;
        println!(
            "{name}: greedy agreement {:.2} % of clear positions, {:.2} % of all; mean KL {mean_kl:.6} nat; perplexity {:+.3} %",
            clear_agreement * 100.0,
            agreement * 100.0,
            (perplexity_ratio - 1.0) * 100.0
        );
    }
}

fn perplexity_ratio(golden: &Golden, runner: &mut Runner) -> Result<f64> {
    let logits = runner.logits(&[&golden.text_ids], 128)?.remove(0);
    let ours: f64 = logits.iter().zip(&golden.text_ids[1..]).map(|(row, id)| log_probs(row)(*id)).sum();
    let theirs: f64 = golden.text_log_probs.iter().map(|x| f64::from(*x)).sum();
    Ok(((theirs - ours) / golden.text_log_probs.len() as f64).exp())
}

fn argmax(logits: &[f32]) -> u32 {
    let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    best.map_or(0, |(id, _)| id as u32)
}

/// Log-probability of a token by its row of logits.
fn log_probs(logits: &[f32]) -> impl Fn(u32) -> f64 {
    let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let log_sum = logits.iter().map(|x| (f64::from(*x) - max).exp()).sum::<f64>().ln() + max;
    move |id| f64::from(logits[id as usize]) - log_sum
}

fn divergence(logits: &[f32], top: &[(u32, f32)]) -> f64 {
    let ours = log_probs(logits);
    let (mut kl, mut rest, mut our_rest) = (0.0, 1.0, 1.0);
    for &(id, log_p) in top {
        let (log_p, log_q) = (f64::from(log_p), ours(id));
        kl += log_p.exp() * (log_p - log_q);
        rest -= log_p.exp();
        our_rest -= log_q.exp();
    }
    if rest > 1e-6 { kl + rest * (rest / our_rest.max(1e-9)).ln() } else { kl }
}

#[test]
fn int8_activations_agree_with_transformers() -> Result<()> {
    let parity = Parity::measure(Activations::Int8, KvCacheType::F16)?;
    parity.print("int8 activations");
    assert!(parity.clear_agreement >= 0.99, "{:.4} of clear positions agree", parity.clear_agreement);
    assert!(parity.agreement >= 0.97, "{:.4} of all positions agree", parity.agreement);
    assert!(parity.mean_kl <= 0.005, "mean KL is {:.5}", parity.mean_kl);
    assert!((parity.perplexity_ratio - 1.0).abs() <= 0.005, "perplexity ratio {:.5}", parity.perplexity_ratio);
    Ok(())
}

#[test]
fn f32_activations_agree_with_transformers() -> Result<()> {
    let parity = Parity::measure(Activations::F32, KvCacheType::F16)?;
    parity.print("f32 activations");
    assert!(parity.agreement >= 0.999, "{:.4} of all positions agree", parity.agreement);
    assert!(parity.mean_kl <= 0.0001, "mean KL is {:.6}", parity.mean_kl);
    assert!((parity.perplexity_ratio - 1.0).abs() <= 0.0005, "perplexity ratio {:.5}", parity.perplexity_ratio);
    Ok(())
}

#[test]
fn keys_and_values_in_bytes_cost_little() -> Result<()> {
    let parity = Parity::measure(Activations::F32, KvCacheType::Q8)?;
    parity.print("f32 activations, q8 cache");
    assert!(parity.agreement >= 0.985, "{:.4} of all positions agree", parity.agreement);
    assert!(parity.mean_kl <= 0.0006, "mean KL is {:.6}", parity.mean_kl);
    assert!((parity.perplexity_ratio - 1.0).abs() <= 0.002, "perplexity ratio {:.5}", parity.perplexity_ratio);
    Ok(())
}
