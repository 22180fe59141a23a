//! What a step costs, learnt from the steps themselves: how many prompt tokens may ride with running streams so that
//! these do not stand still for longer than a configured time, and what a row more costs beside the time that it may
//! save. Must not know sequences or blocks.

use std::time::Duration;

/// Without running streams a step may take so many times the limit: nobody stands still, but newcomers wait for it.
const UNATTENDED: f64 = 2.0;
/// Prompt tokens that the first steps try, before anything is known.
const FIRST_CHUNK: usize = 64;
/// Prompt tokens that a step always has room for: prompts get on even where streams alone use up the limit. So few
/// more rows cost a step that reads all weights next to nothing.
const LEAST_CHUNK: usize = 8;
/// The same where no stream stands still meanwhile.
const LEAST_UNATTENDED: usize = 32;
/// Products take rows by so many at a time. What rounds up the least rows of a step is nearly free, and on a slow machine
/// as much again.
const ROWS_AT_ONCE: usize = 8;
/// The worst excess of a step over its estimate is kept in mind, and fades to so much of it with every step.
const FADE_OF_EXCESS: f64 = 0.99;
/// Beyond this share an excess says that the estimate was wrong, which the next one will not be.
const MOST_EXCESS: f64 = 0.5;
/// A row costs at least this share of the time between a stream's tokens, whatever was measured: before anything was.
const LEAST_SHARE_OF_ROW: f64 = 0.1;

/// An estimate of step time: a line over the rows of running streams, and per prompt token one over the number of tokens
/// before it, for those are what attention reads.
#[derive(Debug, Clone)]
pub(super) struct CostModel {
    /// Seconds.
    limit: f64,
    /// Seconds of a step of running streams only, over their rows.
    streams: Line,
    /// Seconds of a prompt token, over the tokens before it.
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

/// A rising line through what recent steps took: weighted least squares, older ones fading.
#[derive(Debug, Clone, Copy)]
struct Line {
    /// The slope gives way only to steps that differ from each other: a usual difference, squared.
    stiffness: f64,
    /// Seconds at 0; 0 before anything is known.
    base: f64,
    /// Seconds more at 1.
    slope: f64,
    weight: f64,
    mean_place: f64,
    mean: f64,
    /// Weighted sums of squared and mixed differences from the means.
    spread: f64,
    mixed: f64,
}

impl CostModel {
    /// A model that knows nothing yet but the limit.
    pub fn new(limit: Duration) -> Self {
        let limit = limit.as_secs_f64();
        let (streams, per_token) = (Line::new(1.0), Line::new(100.0));
        Self { limit, streams, per_token, excess: 0.0, largest: FIRST_CHUNK / 2 }
    }

    /// What the prompts of the next step may cost beside so many rows of running streams.
    pub fn prompt_budget(&self, stream_rows: usize) -> PromptBudget {
        let aim = self.limit / (1.0 + self.excess);
        let seconds = if stream_rows > 0 { aim - self.streams.at(stream_rows as f64) } else { aim * UNATTENDED };
        let least = if stream_rows > 0 { LEAST_CHUNK } else { LEAST_UNATTENDED };
        let least = (stream_rows + least).next_multiple_of(ROWS_AT_ONCE) - stream_rows;
        PromptBudget { seconds, per_token: self.per_token, tokens: self.largest * 2, least }
    }

    /// What a row more costs a step of so many streams, as a share of the time that each of their tokens takes: a draft
    /// that is right with a greater chance than this is worth its row.
    pub fn share_of_row(&self, num_streams: usize) -> f64 {
        let num_streams = num_streams as f64;
        let share = self.streams.slope * num_streams / self.streams.at(num_streams).max(f64::MIN_POSITIVE);
        share.max(LEAST_SHARE_OF_ROW)
    }

    /// Learns from a step.
    pub fn observe(&mut self, stream_rows: usize, prompts: PromptWork, elapsed: Duration) {
        let elapsed = elapsed.as_secs_f64();
        if prompts.tokens == 0 {
            self.streams.observe(stream_rows as f64, elapsed, 1.0);
            return;
        }
        // A few tokens say little about many: their share of the fixed cost is not theirs.
        if prompts.tokens < LEAST_CHUNK {
            return;
        }
        let streams = if stream_rows > 0 { self.streams.at(stream_rows as f64) } else { 0.0 };
        if self.per_token.is_known() {
            let estimate = streams + self.per_token.seconds(prompts);
            self.excess = (elapsed / estimate - 1.0).min(MOST_EXCESS).max(FADE_OF_EXCESS * self.excess);
        }
        self.largest = self.largest.max(prompts.tokens);
        let (tokens, pairs) = (prompts.tokens as f64, prompts.pairs as f64);
        self.per_token.observe(pairs / tokens, (elapsed - streams).max(1e-9) / tokens, tokens);
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

    /// Nothing more.
    pub fn close(&mut self) {
        self.tokens = 0;
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

    /// A line of which nothing is known but how much the places of two steps usually differ.
    fn new(usual_difference: f64) -> Self {
        let stiffness = usual_difference * usual_difference;
        Self { stiffness, base: 0.0, slope: 0.0, weight: 0.0, mean_place: 0.0, mean: 0.0, spread: 0.0, mixed: 0.0 }
    }

    fn is_known(&self) -> bool {
        self.weight > 0.0
    }

    fn at(&self, place: f64) -> f64 {
        self.base + self.slope * place
    }

    /// Of prompt tokens, on a line over the tokens before each.
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
        let first = self.at(position as f64);
        (2.0 * seconds / (first + (first * first + 2.0 * self.slope * seconds).sqrt())) as usize
    }

    fn observe(&mut self, place: f64, seconds: f64, weight: f64) {
        let before = self.weight * Self::FADE;
        self.weight = before + weight;
        let share = weight / self.weight;
        let (from_place, from_mean) = (place - self.mean_place, seconds - self.mean);
        self.mean_place += share * from_place;
        self.mean += share * from_mean;
        self.spread = Self::FADE * self.spread + before * share * from_place * from_place;
        self.mixed = Self::FADE * self.mixed + before * share * from_place * from_mean;
        let stiffness = self.stiffness * self.weight;
        let slope = (self.mixed + stiffness * self.slope) / (self.spread + stiffness);
        self.slope = slope.clamp(0.0, self.mean / self.mean_place.max(1.0));
        self.base = (self.mean - self.slope * self.mean_place).max(1e-9);
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
                let tokens = model.prompt_budget(1).take(position, len - position);
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
    fn prompts_always_get_on() {
        let mut model = warm(&mut Machine::new(0.0));
        for _ in 0..50 {
            model.observe(64, PromptWork::default(), Duration::from_secs_f64(2.0 * LIMIT));
        }
        let mut budget = model.prompt_budget(64);
        assert_eq!([budget.take(0, 5), budget.take(9, 100), budget.take(0, 1)], [5, 3, 0]);
        assert!(budget.is_spent());
        // Rows come by eight, and nobody waits for more of them where no stream runs.
        let rest = [61, 57].map(|streams| model.prompt_budget(streams).take(0, 100));
        assert_eq!(rest, [11, 15]);
        let mut slow = CostModel::new(Duration::from_secs_f64(LIMIT));
        slow.observe(0, PromptWork::of(0, 64), Duration::from_secs_f64(64.0 * LIMIT));
        assert_eq!(slow.prompt_budget(0).take(0, 100), 32);
    }

    #[test]
    fn a_row_costs_less_of_a_token_the_fewer_streams_there_are() {
        let mut model = CostModel::new(Duration::from_secs_f64(LIMIT));
        assert!((model.share_of_row(1) - LEAST_SHARE_OF_ROW).abs() < 1e-9, "nothing is known");
        let mut random = fastrand::Rng::with_seed(2);
        for _ in 0..200 {
            let rows = random.usize(1..9);
            let seconds = (0.004 + 0.001 * rows as f64) * (0.9 + 0.2 * random.f64());
            model.observe(rows, PromptWork::default(), Duration::from_secs_f64(seconds));
        }
        for (streams, share) in [(1, 1.0 / 5.0), (4, 4.0 / 8.0), (16, 16.0 / 20.0)] {
            let found = model.share_of_row(streams);
            assert!((found / share - 1.0).abs() < 0.25, "{found} beside {streams} streams, not {share}");
        }
        for _ in 0..1000 {
            model.observe(8, PromptWork::default(), Duration::from_secs_f64(0.012));
        }
        assert!(model.share_of_row(1) > 0.15, "what was learnt is kept while nothing differs");
    }
}
