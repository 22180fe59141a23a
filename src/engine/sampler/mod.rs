//! From a row of logits to a token. Deterministic: a function of logits, parameters, seed and the sequence's own tokens.
//!
//! Order: penalties and biases, temperature, then `top_k`, `top_p`, `min_p` and `typical_p`, each over what the one
//! before it left; the draw goes through what is left in the order of ids. Must not know tensors, batches or blocks.

mod candidates;
mod passes;
mod penalties;
mod random;

use std::sync::Arc;

use self::{
    candidates::{Candidate, Ranked},
    penalties::TokenCounts,
};
use super::{
    SamplingParams, TokenLogprob,
    batch::{SampledToken, SamplingSpec, SequenceStart},
};

/// Below this, temperature is 0.
const COLDEST: f32 = 1e-5;

/// What the choice of a sequence's next token depends on besides the logits.
#[derive(Debug, Clone)]
pub struct SamplerState {
    spec: Arc<SamplingSpec>,
    counts: Option<TokenCounts>,
    num_generated: usize,
}

/// The logits are not finite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotFinite;

/// Memory that a sampling thread keeps between rows.
#[derive(Debug, Default)]
pub struct Scratch {
    logits: Vec<f32>,
    weights: Vec<f32>,
    largest: Vec<(u32, f32)>,
    candidates: Vec<Candidate>,
    ranked: Vec<Ranked>,
}

impl SamplerState {
    /// The state of a sequence that starts, or starts again after a preemption.
    pub fn new(start: &SequenceStart) -> Self {
        let (prompt, output) = start.tokens.split_at(start.prompt_len);
        let counts = TokenCounts::new(&start.spec.params, prompt, output);
        Self { spec: Arc::clone(&start.spec), counts, num_generated: output.len() }
    }

    /// Chooses the next token from `row`, `(vocab_size)`.
    ///
    /// # Errors
    /// When a logit is infinite or not a number.
    pub fn sample(&self, row: &[f32], scratch: &mut Scratch) -> Result<SampledToken, NotFinite> {
        let max = passes::finite_max(row).ok_or(NotFinite)?;
        let params = &self.spec.params;
        let id = if penalties::changes_logits(&self.spec, self.counts.as_ref(), self.num_generated) {
            let mut logits = std::mem::take(&mut scratch.logits);
            logits.clear();
            logits.extend_from_slice(row);
            penalties::change_logits(&self.spec, self.counts.as_ref(), self.num_generated, &mut logits);
            let id = passes::finite_max(&logits).map(|max| self.choose(&logits, max, scratch));
            scratch.logits = logits;
            id.ok_or(NotFinite)?
        } else {
            self.choose(row, max, scratch)
        };
        let logprob = params.logprobs.map(|top| logprob(row, max, id, top, scratch));
        Ok(SampledToken { id, logprob })
    }

    /// Notes a token that was chosen.
    pub fn push(&mut self, id: u32) {
        self.num_generated += 1;
        if let Some(counts) = &mut self.counts {
            counts.add(id);
        }
    }

    /// The tokens of `rows`, each [pushed](Self::push), up to the first that is not the next of `drafts`: every row but
    /// the first was computed as if the draft before it had been sampled.
    ///
    /// # Errors
    /// When the first row is not finite. Another that is not ends the run before it; a later step comes to it again.
    pub fn sample_run<'a>(
        &mut self,
        rows: impl IntoIterator<Item = &'a [f32]>,
        drafts: impl IntoIterator<Item = u32>,
        scratch: &mut Scratch,
    ) -> Result<Vec<SampledToken>, NotFinite> {
        let mut tokens = Vec::with_capacity(1);
        let mut drafts = drafts.into_iter();
        for row in rows {
            let token = match self.sample(row, scratch) {
                Ok(token) => token,
                Err(NotFinite) if tokens.is_empty() => return Err(NotFinite),
                Err(NotFinite) => break,
            };
            let id = token.id;
            self.push(id);
            tokens.push(token);
            if drafts.next() != Some(id) {
                break;
            }
        }
        Ok(tokens)
    }

    fn choose(&self, logits: &[f32], max: f32, scratch: &mut Scratch) -> u32 {
        let params = &self.spec.params;
        if params.temperature < COLDEST || params.top_k == 1 {
            return passes::first_max(logits, max) as u32;
        }
        let draw = random::uniform(self.spec.seed, self.num_generated);
        let scale = params.temperature.recip();
        let top_k = params.top_k as usize;
        let truncates = params.top_p < 1.0 || params.min_p > 0.0 || params.typical_p < 1.0;
        let Scratch { weights, largest, candidates, ranked, .. } = scratch;
        let exponent = |logit: f32| (logit - max) * scale;
        candidates.clear();
        let total = if (1..logits.len()).contains(&top_k) {
            candidates::largest(logits, top_k, largest);
            largest.sort_unstable_by_key(|&(id, _)| id);
            candidates.extend(largest.iter().map(|&(id, logit)| Candidate::new(id, exponent(logit))));
            candidates.retain(|candidate| candidate.weight > 0.0);
            candidates::total_weight(candidates)
        } else {
            let total = passes::weights(logits, max, scale, weights);
            if !truncates {
                return passes::pick(weights, draw * total) as u32;
            }
            let least = candidates::least_weight(weights, total, params);
            candidates::gather(weights, least, |id, weight| {
                candidates.push(Candidate { id: id as u32, exponent: exponent(logits[id]), weight });
            });
            total
        };
        truncate(candidates, total, params, ranked);
        choose_among(candidates, draw)
    }
}

/// Narrows the candidates down, `total` being the weight of everything that `top_p` is a share of.
fn truncate(candidates: &mut Vec<Candidate>, total: f64, params: &SamplingParams, ranked: &mut Vec<Ranked>) {
    if params.top_p < 1.0 {
        candidates::keep_best(candidates, f64::from(params.top_p.max(0.0)) * total, ranked, |c| -c.exponent);
    }
    if params.min_p > 0.0 {
        // Weights are relative to the likeliest, which is 1 and always survives.
        candidates.retain(|candidate| candidate.weight >= params.min_p.min(1.0));
    }
    if params.typical_p < 1.0 {
        candidates::keep_typical(candidates, params.typical_p.max(0.0), ranked);
    }
}

/// The candidate at `draw`, 0 to 1, of the way through all weights in the order of ids.
fn choose_among(candidates: &[Candidate], draw: f64) -> u32 {
    let mut target = draw * candidates::total_weight(candidates);
    for candidate in candidates {
        target -= f64::from(candidate.weight);
        if target < 0.0 {
            return candidate.id;
        }
    }
    candidates.last().map_or(0, |candidate| candidate.id)
}

/// The log-probability of the prompt token `id` after the context that `row` belongs to, and `top` others.
///
/// # Errors
/// When a logit is infinite or not a number.
pub fn prompt_logprob(row: &[f32], id: u32, top: u8, scratch: &mut Scratch) -> Result<TokenLogprob, NotFinite> {
    let max = passes::finite_max(row).ok_or(NotFinite)?;
    Ok(logprob(row, max, id, top, scratch))
}

fn logprob(row: &[f32], max: f32, id: u32, top: u8, scratch: &mut Scratch) -> TokenLogprob {
    let total = passes::log_sum_exp(row, max);
    candidates::largest(row, usize::from(top), &mut scratch.largest);
    let top = scratch.largest.iter().map(|&(id, logit)| (id, logit - total)).collect();
    TokenLogprob { logprob: row.get(id as usize).map_or(f32::NEG_INFINITY, |logit| logit - total), top }
}

#[cfg(test)]
mod tests;
