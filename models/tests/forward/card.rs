//! Tiny models on a card, or the emulated one: against the plain transformer, and the same bits in any batch.

use kernels::{Activations, Compute, GgmlType, KvCacheType};
use models::{Architecture, MemoryPlan, Placement, Recipe, random::RandomModel};

use crate::{
    Result,
    architectures::{ARCHITECTURES, as_gguf, relative_error, tokens},
    invariance::same_bits,
    naive,
    runner::{Runner, options},
};

/// Of what the tensor cores take, f16, rounded in every product, on noise.
const TOLERANCE: f64 = 5e-3;
/// The same with keys and values in bytes.
const Q8_TOLERANCE: f64 = 3e-2;

fn card() -> Result<Compute> {
    Ok(Compute::cuda(0, options(Activations::Int8))?)
}

/// Everything on the card; the last layer there, and the others on the CPU.
fn placements() -> Result<[Placement; 2]> {
    let (host, card) = (Compute::cpu(options(Activations::F32))?, card()?);
    Ok([(&card).into(), Placement::split(&host, &card, 1)])
}

#[test]
fn every_architecture_agrees_with_the_plain_transformer() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let token_ids = tokens(70);
    for (index, architecture) in ARCHITECTURES.into_iter().enumerate() {
        let recipe = [Recipe::Q4KM, Recipe::Uniform(GgmlType::Q8_0), Recipe::Uniform(GgmlType::BF16)][index % 3];
        let mut model = RandomModel::tiny(architecture, recipe);
        model.config.tied_embeddings = index % 2 == 1;
        model.config.sliding_window = (architecture == Architecture::Mistral).then_some(37);
        let file = as_gguf(&model, directory.path())?;
        let expected = naive::logits(&file, &token_ids)?;
        for placement in placements()? {
            for (cache_type, tolerance) in [(KvCacheType::F16, TOLERANCE), (KvCacheType::Q8, Q8_TOLERANCE)] {
                let mut runner = Runner::on(&placement, &file, cache_type, 8, 5)?;
                let plan = MemoryPlan::new(&file, cache_type, (8, 8), placement.card())?;
                assert_eq!(plan.host.weights + plan.card.weights, runner.model.weight_bytes());
                let error = relative_error(&runner.logits(&[&token_ids], 23)?.remove(0), &expected);
                assert!(error < tolerance, "{architecture:?} over {cache_type}: logits differ by {error:.1e}");
            }
        }
    }
    Ok(())
}

#[test]
fn neighbours_chunks_and_recordings_change_no_bit() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = as_gguf(&RandomModel::tiny(Architecture::Qwen3, Recipe::Q4KM), directory.path())?;
    let all = tokens(200);
    let prompts: Vec<&[u32]> = (0..11).map(|i| &all[i * 3..][..2 + 7 * i]).collect();
    for placement in placements()? {
        for cache_type in [KvCacheType::F16, KvCacheType::Q8] {
            let mut runner = Runner::on(&placement, &file, cache_type, 64, 2)?;
            let alone: Vec<_> = prompts.iter().map(|prompt| runner.logits(&[prompt], 512)).collect::<Result<_>>()?;
            // In chunks of one token most steps have rows of padding and are replayed.
            for chunk in [1, 3, 33] {
                let together = runner.logits(&prompts, chunk)?;
                for (index, alone) in alone.iter().enumerate() {
                    assert!(
                        same_bits(&together[index], &alone[0]),
                        "prompt {index} in chunks of {chunk}, {cache_type}"
                    );
                }
            }
            // Some steps have no row whose logits are wanted.
            let some = runner.logits_at(&prompts, 3, |position| position % 5 == 1 && position > 2)?;
            for (some, alone) in some.iter().zip(&alone) {
                let wanted: Vec<_> = alone[0].iter().skip(6).step_by(5).cloned().collect();
                assert!(same_bits(some, &wanted), "logits of some rows over {cache_type}");
            }
        }
    }
    Ok(())
}

/// Products of q, k and v, attention, its output, gate and up, down; and once the angles of rope, the embedding, the first
/// norm, and the logits.
#[test]
fn a_decoding_step_is_five_launches_a_layer() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = as_gguf(&RandomModel::tiny(Architecture::Llama, Recipe::Q4KM), directory.path())?;
    let compute = card()?;
    let prompt = tokens(1);
    for sequences in [1, 9, 20] {
        let mut runner = Runner::on(&(&compute).into(), &file, KvCacheType::F16, 64, 3)?;
        let num_layers = runner.model.config().num_layers;
        let times = compute.profile(|| runner.logits(&vec![&prompt[..]; sequences], 1).map(drop))?;
        let kernels: Vec<&str> = times.iter().map(|time| time.kernel).collect();
        assert_eq!(kernels.len(), 5 * num_layers + 4, "{sequences} sequences: {kernels:?}");
    }
    Ok(())
}
