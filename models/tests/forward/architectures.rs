//! Tiny random models of every architecture, type and kind of file against the plain transformer.

use std::path::Path;

use kernels::{Activations, GgmlType};
use models::{Architecture, ModelFile, Recipe, RopeScaling, random::RandomModel};

use crate::{Result, naive, runner::Runner};

pub(crate) const ARCHITECTURES: [Architecture; 4] =
    [Architecture::Llama, Architecture::Mistral, Architecture::Qwen2, Architecture::Qwen3];

/// Root mean square of the difference over that of the logits: f16 keys and values, f32 sums.
const F32_TOLERANCE: f64 = 1e-3;
/// The same with activations rounded to int8 in every product, on noise: real weights forgive more.
const INT8_TOLERANCE: f64 = 3e-2;

#[test]
fn every_architecture_and_type_agrees_with_the_plain_transformer() -> Result<()> {
    for architecture in ARCHITECTURES {
        for ggml_type in GgmlType::ALL {
            for tied_embeddings in [false, true] {
                let mut model = RandomModel::tiny(architecture, Recipe::Uniform(ggml_type));
                model.config.tied_embeddings = tied_embeddings;
                let what = format!("{architecture:?} of {} (tied: {tied_embeddings})", ggml_type.name());
                check_both_kinds(&model, 40, &what)?;
            }
        }
    }
    Ok(())
}

#[test]
fn mixed_types_agree_with_the_plain_transformer() -> Result<()> {
    check_both_kinds(&RandomModel::tiny(Architecture::Llama, Recipe::Q4KM), 70, "Q4_K_M")
}

#[test]
fn heads_wider_than_the_stream_agree_with_the_plain_transformer() -> Result<()> {
    let mut model = RandomModel::tiny(Architecture::Qwen3, Recipe::Uniform(GgmlType::Q8_0));
    model.config.head_dim = 128;
    check_both_kinds(&model, 40, "Qwen3 with heads of 128")
}

#[test]
fn rope_scalings_agree_with_the_plain_transformer() -> Result<()> {
    let llama3 = RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 64 };
    for rope_scaling in [RopeScaling::Linear { factor: 4.0 }, llama3] {
        let mut model = RandomModel::tiny(Architecture::Llama, Recipe::Uniform(GgmlType::F16));
        let what = format!("{rope_scaling:?}");
        model.config.rope_scaling = rope_scaling;
        check_both_kinds(&model, 200, &what)?;
    }
    Ok(())
}

#[test]
fn a_sliding_window_agrees_with_the_plain_transformer() -> Result<()> {
    for architecture in [Architecture::Mistral, Architecture::Qwen2, Architecture::Qwen3] {
        let mut model = RandomModel::tiny(architecture, Recipe::Uniform(GgmlType::F32));
        model.config.sliding_window = Some(37);
        check_both_kinds(&model, 150, &format!("{architecture:?} with a sliding window"))?;
    }
    Ok(())
}

/// The model as GGUF and as sharded safetensors of the same values.
fn check_both_kinds(model: &RandomModel, len: usize, what: &str) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let token_ids = tokens(len);
    let gguf = check(&as_gguf(model, directory.path())?, &token_ids, &format!("GGUF, {what}"))?;
    let checkpoint = directory.path().join("checkpoint");
    model.write_safetensors(&checkpoint, GgmlType::F32, 2)?;
    let safetensors = check(&ModelFile::open(&checkpoint)?, &token_ids, &format!("safetensors, {what}"))?;
    let error = relative_error(&gguf, &safetensors);
    assert!(error < F32_TOLERANCE, "{what}: GGUF and safetensors differ by {error:.1e}");
    Ok(())
}

pub(crate) fn as_gguf(model: &RandomModel, directory: &Path) -> Result<ModelFile> {
    let path = directory.join("tiny.gguf");
    model.write_gguf(&path, &mut |_| ())?;
    Ok(ModelFile::open(&path)?)
}

/// Compares both precisions of activations with the plain transformer; returns the logits of the f32 one.
fn check(file: &ModelFile, token_ids: &[u32], what: &str) -> Result<Vec<Vec<f32>>> {
    let expected = naive::logits(file, token_ids)?;
    let run = |activations| -> Result<Vec<Vec<f32>>> {
        let mut runner = Runner::new(file, activations, 8, 5)?;
        Ok(runner.logits(&[token_ids], 23)?.remove(0))
    };
    let [precise, fast] = [run(Activations::F32)?, run(Activations::Int8)?];
    let errors = [relative_error(&precise, &expected), relative_error(&fast, &expected)];
    assert!(errors[0] < F32_TOLERANCE, "{what}: f32 activations differ by {:.1e}", errors[0]);
    assert!(errors[1] < INT8_TOLERANCE, "{what}: int8 activations differ by {:.1e}", errors[1]);
    Ok(precise)
}

pub(crate) fn relative_error(ours: &[Vec<f32>], expected: &[Vec<f32>]) -> f64 {
    assert_eq!(ours.len(), expected.len());
    let square = |x: f32| f64::from(x) * f64::from(x);
    let pairs = || ours.iter().flatten().zip(expected.iter().flatten());
    let difference: f64 = pairs().map(|(a, b)| square(a - b)).sum();
    let size: f64 = pairs().map(|(_, b)| square(*b)).sum();
    (difference / size).sqrt()
}

pub(crate) fn tokens(len: usize) -> Vec<u32> {
    let mut rng = fastrand::Rng::with_seed(11);
    (0..len).map(|_| rng.u32(0..288)).collect()
}
