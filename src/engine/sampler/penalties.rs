//! What a request's own words do to its next logits: repetition, frequency and presence penalties, biases, and end tokens
//! held back. Costs as much as there are different tokens in the context, and nothing when nothing is asked for.

use std::collections::HashMap;

use super::{SamplingParams, SamplingSpec};

/// A logit that is never chosen, and finite.
const BANNED: f32 = f32::MIN;
/// Biases beyond this mean "always" or "never".
const LARGEST_BIAS: f32 = 1e6;

/// Which tokens a sequence has, and how often in its output.
#[derive(Debug, Clone, Default)]
pub(super) struct TokenCounts {
    counts: HashMap<u32, u32>,
}

impl TokenCounts {
    /// Counts for these parameters, or none if no penalty asks for them.
    pub fn new(params: &SamplingParams, prompt: &[u32], output: &[u32]) -> Option<Self> {
        let repetition = (params.repetition_penalty - 1.0).abs() > 0.0;
        if !repetition && params.frequency_penalty == 0.0 && params.presence_penalty == 0.0 {
            return None;
        }
        let mut counts = Self::default();
        if repetition {
            counts.counts.extend(prompt.iter().map(|&id| (id, 0)));
        }
        for &id in output {
            counts.add(id);
        }
        Some(counts)
    }

    /// One more token of output.
    pub fn add(&mut self, id: u32) {
        *self.counts.entry(id).or_default() += 1;
    }

    /// Changes the logits of the tokens seen.
    pub fn apply(&self, params: &SamplingParams, logits: &mut [f32]) {
        for (&id, &count) in &self.counts {
            let Some(logit) = logits.get_mut(id as usize) else { continue };
            // Keskar et al., "CTRL", 2019: further from zero for what is unlikely, nearer for what is likely.
            *logit = if *logit > 0.0 { *logit / params.repetition_penalty } else { *logit * params.repetition_penalty };
            if count > 0 {
                *logit -= count as f32 * params.frequency_penalty + params.presence_penalty;
            }
        }
    }
}

/// Whether logits must be changed at all for a token with so many generated before it.
pub(super) fn changes_logits(spec: &SamplingSpec, counts: Option<&TokenCounts>, num_generated: usize) -> bool {
    counts.is_some() || !spec.params.logit_bias.is_empty() || holds_back_end(spec, num_generated)
}

/// Applies everything that changes logits before temperature.
pub(super) fn change_logits(
    spec: &SamplingSpec,
    counts: Option<&TokenCounts>,
    num_generated: usize,
    logits: &mut [f32],
) {
    if let Some(counts) = counts {
        counts.apply(&spec.params, logits);
    }
    for &(id, bias) in &spec.params.logit_bias {
        if let Some(logit) = logits.get_mut(id as usize) {
            *logit += bias.clamp(-LARGEST_BIAS, LARGEST_BIAS);
        }
    }
    if holds_back_end(spec, num_generated) {
        for &id in &spec.stop_token_ids {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit = BANNED;
            }
        }
    }
}

fn holds_back_end(spec: &SamplingSpec, num_generated: usize) -> bool {
    num_generated < spec.min_tokens && !spec.stop_token_ids.is_empty()
}
