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
/// The worst excess of a step over its estimate is kept in mind, and fades to so much of it with every step.
const FADE_OF_EXCESS: f64 = 0.99;
/// Beyond this share an excess says that the estimate was wrong, which the next one will not be.
const MOST_EXCESS: f64 = 0.5;

/// An estimate of step time: one part for the running streams together, and per prompt token a line over the number
/// of tokens before it, for those are what attention reads.
#[derive(Debug, Clone)]
pub(super) struct CostModel {
    /// Seconds.
    limit: f64,
    /// Seconds of a step of running streams only, a moving average.
    streams: Option<f64>,
    per_token: Line,
    /// By what share of its estimate a step with prompts has lately taken longer, at worst: steps stay so far below the
    /// limit.
    excess: f64,
    /// Most prompt tokens that a step has had; no guess goes beyond twice this.
    largest: usize,
}

/// What the prompts of one step may still cost.
#[derive(Debug)]
pub(super) struct PromptBudget {
    seconds: f64,
    per_token: Line,
    tokens: usize,
    least: usize,
}

/// Prompt tokens computed in a step.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct PromptWork {
    pub tokens: usize,
    /// Pairs of a token and one that it attends to.
    pub pairs: usize,
}

/// A line through what recent steps took per token: least squares, each step weighing as many tokens as it had, older
/// ones fading.
#[derive(Debug, Clone, Copy, Default)]
struct Line {
    /// Seconds per token at the beginning of a sequence; 0 before anything is known.
    base: f64,
    /// Seconds per token and token before it.
    slope: f64,
    weight: f64,
    mean_context: f64,
    mean: f64,
    /// Weighted sums of squared and mixed differences from the means.
    spread: f64,
    mixed: f64,
}

impl CostModel {
    /// A model that knows nothing yet but the limit.
    pub fn new(limit: Duration) -> Self {
        let limit = limit.as_secs_f64();
        Self { limit, streams: None, per_token: Line::default(), excess: 0.0, largest: FIRST_CHUNK / 2 }
    }

    /// What the prompts of the next step may cost beside running streams, or without any.
    pub fn prompt_budget(&self, has_streams: bool) -> PromptBudget {
        let aim = self.limit / (1.0 + self.excess);
        let seconds = if has_streams { aim - self.streams.unwrap_or(0.0) } else { aim * UNATTENDED };
        PromptBudget { seconds, per_token: self.per_token, tokens: self.largest * 2, least: LEAST_CHUNK }
    }

    /// Learns from a step.
    pub fn observe(&mut self, num_streams: usize, prompts: PromptWork, elapsed: Duration) {
        let elapsed = elapsed.as_secs_f64();
        if prompts.tokens == 0 {
            self.streams = Some(self.streams.map_or(elapsed, |known| known + 0.2 * (elapsed - known)));
            return;
        }
        // A few tokens say little about many: their share of the fixed cost is not theirs.
        if prompts.tokens < LEAST_CHUNK {
            return;
        }
        let streams = if num_streams > 0 { self.streams.unwrap_or(0.0) } else { 0.0 };
        if self.per_token.is_known() {
            let estimate = streams + self.per_token.seconds(prompts);
            self.excess = (elapsed / estimate - 1.0).min(MOST_EXCESS).max(FADE_OF_EXCESS * self.excess);
        }
        self.largest = self.largest.max(prompts.tokens);
        self.per_token.observe(prompts, (elapsed - streams).max(1e-9));
    }
}

impl PromptBudget {
    /// Takes as many of `wanted` tokens out of the budget as it has room for, the first of them at `position`.
    pub fn take(&mut self, position: usize, wanted: usize) -> usize {
        let room = self.per_token.tokens_within(self.seconds, position).max(self.least);
        let tokens = wanted.min(room).min(self.tokens);
        self.tokens -= tokens;
        self.least = self.least.saturating_sub(tokens);
        self.seconds -= self.per_token.seconds(PromptWork::of(position, tokens));
        tokens
    }

    /// Whether there is room for a token more.
    pub fn is_spent(&self) -> bool {
        self.tokens == 0 || (self.least == 0 && self.per_token.tokens_within(self.seconds, 0) == 0)
    }

    /// No more than so many tokens.
    pub fn limit_tokens(&mut self, tokens: usize) {
        self.tokens = self.tokens.min(tokens);
    }
}

impl PromptWork {
    /// So many tokens of a sequence, the first of them at `position`.
    pub fn of(position: usize, tokens: usize) -> Self {
        Self { tokens, pairs: tokens * position + tokens * tokens / 2 }
    }
}

impl Line {
    /// A step keeps so much of its weight at the next one.
    const FADE: f64 = 0.9;
    /// The slope gives way only to steps that differ from each other: the square of a usual difference, tokens.
    const STIFFNESS: f64 = 100.0 * 100.0;

    fn is_known(&self) -> bool {
        self.weight > 0.0
    }

    fn seconds(&self, work: PromptWork) -> f64 {
        self.base * work.tokens as f64 + self.slope * work.pairs as f64
    }

    /// Tokens from `position` on that so much time is enough for; everything before anything is known.
    fn tokens_within(&self, seconds: f64, position: usize) -> usize {
        if !self.is_known() {
            return usize::MAX;
        }
        let seconds = seconds.max(0.0);
        // seconds = first * n + slope / 2 * n^2, solved for n without a difference of two near numbers.
        let first = self.base + self.slope * position as f64;
        (2.0 * seconds / (first + (first * first + 2.0 * self.slope * seconds).sqrt())) as usize
    }

    fn observe(&mut self, work: PromptWork, seconds: f64) {
        let weight = work.tokens as f64;
        let (context, per_token) = (work.pairs as f64 / weight, seconds / weight);
        let before = self.weight * Self::FADE;
        self.weight = before + weight;
        let share = weight / self.weight;
        let (from_context, from_mean) = (context - self.mean_context, per_token - self.mean);
        self.mean_context += share * from_context;
        self.mean += share * from_mean;
        self.spread = Self::FADE * self.spread + before * share * from_context * from_context;
        self.mixed = Self::FADE * self.mixed + before * share * from_context * from_mean;
        let stiffness = Self::STIFFNESS * self.weight;
        let slope = (self.mixed + stiffness * self.slope) / (self.spread + stiffness);
        self.slope = slope.clamp(0.0, self.mean / self.mean_context.max(1.0));
        self.base = (self.mean - self.slope * self.mean_context).max(1e-9);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine whose steps take as long as they should, times `1 + noise * (-1..1)`.
    struct Machine {
        random: fastrand::Rng,
        noise: f64,
    }

    const STREAMS: f64 = 0.006;
    const LIMIT: f64 = 0.15;

    impl Machine {
        fn new(noise: f64) -> Self {
            Self { random: fastrand::Rng::with_seed(5), noise }
        }

        fn seconds(&mut self, work: PromptWork) -> f64 {
            let exact = STREAMS + 0.8e-3 * work.tokens as f64 + 0.6e-6 * work.pairs as f64;
            exact * (1.0 + self.noise * (2.0 * self.random.f64() - 1.0))
        }

        /// A prompt beside one stream: its steps' times in seconds.
        fn compute(&mut self, model: &mut CostModel, len: usize) -> Vec<f64> {
            let (mut position, mut times) = (0, Vec::new());
            while position < len {
                let tokens = model.prompt_budget(true).take(position, len - position);
                let work = PromptWork::of(position, tokens);
                let seconds = self.seconds(work);
                model.observe(1, work, Duration::from_secs_f64(seconds));
                times.push(seconds);
                position += tokens;
            }
            times
        }
    }

    fn warm(machine: &mut Machine) -> CostModel {
        let mut model = CostModel::new(Duration::from_secs_f64(LIMIT));
        for _ in 0..20 {
            model.observe(1, PromptWork::default(), Duration::from_secs_f64(STREAMS));
        }
        machine.compute(&mut model, 3000);
        model
    }

    #[test]
    fn an_exact_machine_is_used_to_the_limit_all_along_a_prompt() {
        let mut machine = Machine::new(0.0);
        let mut model = warm(&mut machine);
        for _ in 0..3 {
            let times = machine.compute(&mut model, 6000);
            let steps = &times[..times.len() - 1];
            assert!(steps.iter().all(|&seconds| (0.93 * LIMIT..1.03 * LIMIT).contains(&seconds)), "{steps:?}");
        }
    }

    #[test]
    fn a_noisy_machine_seldom_goes_beyond_the_limit() {
        let mut machine = Machine::new(0.15);
        let mut model = warm(&mut machine);
        let times: Vec<f64> = (0..100).flat_map(|_| machine.compute(&mut model, 2048)).collect();
        let late = times.iter().filter(|&&seconds| seconds > LIMIT + STREAMS).count();
        assert!(late * 50 < times.len(), "{late} of {} steps", times.len());
        assert!(times.iter().sum::<f64>() > 0.6 * LIMIT * times.len() as f64, "the limit is made use of");
    }

    #[test]
    fn streams_that_use_up_the_limit_leave_prompts_a_few_tokens() {
        let mut model = warm(&mut Machine::new(0.0));
        for _ in 0..50 {
            model.observe(64, PromptWork::default(), Duration::from_secs_f64(2.0 * LIMIT));
        }
        let mut budget = model.prompt_budget(true);
        assert_eq!([budget.take(0, 5), budget.take(9, 100), budget.take(0, 1)], [5, 3, 0]);
        assert!(budget.is_spent());
    }
}
