//! A sequence's logits are the same bits alone, in a batch, in chunks of any size and in whichever blocks.

use kernels::{Activations, KvCacheType};

use crate::{
    Result,
    golden::Golden,
    runner::{Runner, demo_model},
};

/// Tokens of real text, cut at `start`.
fn tokens(start: usize, len: usize) -> Result<Vec<u32>> {
    Ok(Golden::read()?.text_ids[start..start + len].to_vec())
}

pub(crate) fn same_bits(one: &[Vec<f32>], other: &[Vec<f32>]) -> bool {
    let bits = |logits: &[Vec<f32>]| logits.iter().flatten().map(|x| x.to_bits()).collect::<Vec<_>>();
    one.iter().flatten().all(|x| x.is_finite()) && bits(one) == bits(other)
}

#[test]
fn chunk_size_changes_no_bit() -> Result<()> {
    let file = demo_model()?;
    let prompt = tokens(0, 200)?;
    for cache_type in [KvCacheType::F16, KvCacheType::Q8] {
        let mut runner = Runner::with_cache(&file, Activations::Int8, cache_type, 16, 1)?;
        let whole = runner.logits(&[&prompt], 512)?;
        for chunk in [1, 7, 32, 100] {
            let chunked = runner.logits(&[&prompt], chunk)?;
            assert!(same_bits(&chunked[0], &whole[0]), "{cache_type}: chunks of {chunk} differ from the whole prompt");
        }
    }
    Ok(())
}

#[test]
fn a_batch_of_sixteen_changes_no_bit() -> Result<()> {
    let file = demo_model()?;
    let prompts: Vec<Vec<u32>> = (0..16).map(|i| tokens(i * 31, 5 + 9 * i)).collect::<Result<_>>()?;
    let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    for (chunk, cache_type) in [(1, KvCacheType::F16), (33, KvCacheType::F16), (33, KvCacheType::Q8)] {
        let mut runner = Runner::with_cache(&file, Activations::Int8, cache_type, 64, 2)?;
        let together = runner.logits(&prompts, chunk)?;
        for (index, prompt) in prompts.iter().enumerate() {
            let alone = runner.logits(&[prompt], 512)?;
            assert!(
                same_bits(&together[index], &alone[0]),
                "prompt {index} differs in chunks of {chunk} over {cache_type}"
            );
        }
    }
    Ok(())
}

#[test]
fn logits_of_some_rows_are_those_of_all() -> Result<()> {
    let file = demo_model()?;
    let mut runner = Runner::new(&file, Activations::Int8, 64, 5)?;
    let prompts = [tokens(0, 130)?, tokens(50, 1)?, tokens(90, 600)?];
    let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    let all = runner.logits(&prompts, 400)?;
    // Single rows, runs of neighbours, and chunks of which none is wanted.
    let is_wanted = |position: usize| position.is_multiple_of(7) && position < 70 || (100..140).contains(&position);
    for chunk in [25, 400] {
        let some = runner.logits_at(&prompts, chunk, is_wanted)?;
        for (all, some) in all.iter().zip(some) {
            let expected: Vec<_> = (0..all.len()).filter(|&at| is_wanted(at)).map(|at| all[at].clone()).collect();
            assert!(same_bits(&some, &expected), "rows left out change others in chunks of {chunk}");
        }
    }
    Ok(())
}

#[test]
fn the_blocks_that_hold_a_sequence_change_no_bit() -> Result<()> {
    let file = demo_model()?;
    let prompt = tokens(300, 150)?;
    let [mut first, mut second] =
        [Runner::new(&file, Activations::Int8, 8, 3)?, Runner::new(&file, Activations::Int8, 40, 4)?];
    let one = first.logits(&[&prompt], 64)?;
    let other = second.logits(&[&prompt], 64)?;
    assert!(same_bits(&one[0], &other[0]), "logits depend on which blocks hold the sequence");
    Ok(())
}
