//! What a step costs, learnt from the steps themselves: how many prompt tokens may ride with running streams so that
//! these do not stand still for longer than a configured time. Must not know sequences or blocks.

use std::time::Duration;

/// Without running streams a step may take so many times the limit: nobody stands still, but newcomers wait for it.
const UNATTENDED: f64 = 2.0;
/// Prompt tokens that the first steps try, before anything is known.
const FIRST_CHUNK: usize = 64;
/// Prompt tokens that a step always has room for: prompts get on even where streams alone use up the limit. So few
/// more rows cost a step that reads all weights next to nothing.
const LEAST_CHUNK: usize = 8;

/// An estimate of step time: one part for the running streams together, one per prompt token.
///
/// Both are moving averages. The cost per token follows growth at once and relief slowly, since it rises along a long
/// prompt with the attention's share.
#[derive(Debug, Clone)]
pub(super) struct CostModel {
    /// Seconds.
    limit: f64,
    /// Seconds of a step of running streams only.
    streams: Option<f64>,
    /// Seconds per prompt token beside them.
    per_token: Option<f64>,
    /// Most prompt tokens that a step has had; no guess goes beyond twice this.
    largest: usize,
}

impl CostModel {
    /// A model that knows nothing yet but the limit.
    pub fn new(limit: Duration) -> Self {
        Self { limit: limit.as_secs_f64(), streams: None, per_token: None, largest: FIRST_CHUNK / 2 }
    }

    /// Prompt tokens that the next step may have beside running streams, or without any. Never so few that prompts
    /// would not get on.
    pub fn prompt_tokens(&self, has_streams: bool) -> usize {
        let known = self.largest * 2;
        let Some(per_token) = self.per_token else { return known };
        let room = if has_streams { self.limit - self.streams.unwrap_or(0.0) } else { self.limit * UNATTENDED };
        let tokens = (room / per_token.max(1e-9)).max(0.0) as usize;
        tokens.min(known).max(LEAST_CHUNK)
    }

    /// Learns from a step.
    pub fn observe(&mut self, num_streams: usize, num_prompt_tokens: usize, elapsed: Duration) {
        let elapsed = elapsed.as_secs_f64();
        if num_prompt_tokens == 0 {
            self.streams = Some(self.streams.map_or(elapsed, |known| known + 0.2 * (elapsed - known)));
            return;
        }
        let streams = if num_streams > 0 { self.streams.unwrap_or(0.0) } else { 0.0 };
        let per_token = (elapsed - streams).max(0.0) / num_prompt_tokens as f64;
        // A few tokens say little about many: their share of the fixed cost is not theirs.
        if num_prompt_tokens >= LEAST_CHUNK {
            self.largest = self.largest.max(num_prompt_tokens);
            self.per_token = Some(self.per_token.map_or(per_token, |known| {
                let rate = if per_token > known { 0.7 } else { 0.2 };
                known + rate * (per_token - known)
            }));
        }
    }
}
