//! What tokens cost.

/// Tokens that a request used, or may use at the most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Of the prompt.
    pub prompt_tokens: u64,
    /// Those of the prompt whose keys and values were in the prefix cache.
    pub cached_tokens: u64,
    /// Of the answer.
    pub completion_tokens: u64,
    /// Nothing was computed: the answer was there, or somebody else has paid for it.
    pub from_cache: bool,
}

impl Usage {
    /// Tokens of prompt and answer that were computed.
    pub fn tokens(&self) -> i64 {
        if self.from_cache {
            return 0;
        }
        self.prompt_tokens.saturating_add(self.completion_tokens).try_into().unwrap_or(i64::MAX)
    }
}

/// Prices of a model, in 10^-6 of the currency per 1,000 tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Price {
    /// Of the prompt.
    pub input: u64,
    /// Of the part of the prompt that was in the prefix cache.
    pub cached_input: u64,
    /// Of the answer.
    pub output: u64,
    /// Of a whole answer that nothing was computed for; of one, not of 1,000 tokens.
    pub hit: u64,
}

impl Price {
    /// What a request costs, rounded up once; `i64::MAX` when that is too little to say it.
    pub fn cost(&self, usage: Usage) -> i64 {
        if usage.from_cache {
            return i64::try_from(self.hit).unwrap_or(i64::MAX);
        }
        let cached = usage.cached_tokens.min(usage.prompt_tokens);
        let of = |tokens: u64, price: u64| u128::from(tokens) * u128::from(price);
        let parts = [
            of(usage.prompt_tokens - cached, self.input),
            of(cached, self.cached_input),
            of(usage.completion_tokens, self.output),
        ];
        let sum = parts.into_iter().fold(0, u128::saturating_add);
        i64::try_from(sum.div_ceil(1000)).unwrap_or(i64::MAX)
    }

    /// What a request costs at the most that has so many tokens of prompt and answer, whatever is in the cache.
    pub fn largest_cost(&self, prompt_tokens: u64, completion_tokens: u64) -> i64 {
        let dearest = Self { input: self.input.max(self.cached_input), ..*self };
        let computed = dearest.cost(Usage { prompt_tokens, completion_tokens, ..Usage::default() });
        computed.max(self.cost(Usage { from_cache: true, ..Usage::default() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRICE: Price = Price { input: 150, cached_input: 75, output: 600, hit: 0 };

    #[test]
    fn a_request_is_rounded_up_once() {
        let cost = |prompt_tokens, cached_tokens, completion_tokens| {
            PRICE.cost(Usage { prompt_tokens, cached_tokens, completion_tokens, from_cache: false })
        };
        assert_eq!(cost(0, 0, 0), 0);
        assert_eq!(cost(1, 0, 0), 1, "0.15 is charged as 1");
        assert_eq!(cost(1000, 400, 100), 180, "90 + 30 + 60");
        assert_eq!(cost(1, 1, 1), 1, "0.075 + 0.6, once");
        assert_eq!(cost(10, 99, 0), cost(10, 10, 0), "no more can be cached than there is");
    }

    #[test]
    fn what_was_there_costs_the_price_of_a_hit() {
        let price = Price { hit: 7, ..PRICE };
        let hit = Usage { prompt_tokens: 1_000_000, completion_tokens: 1, from_cache: true, ..Usage::default() };
        assert_eq!((price.cost(hit), hit.tokens()), (7, 0));
        assert_eq!(price.largest_cost(0, 0), 7, "a hold always covers a hit");
    }

    #[test]
    fn amounts_do_not_overflow() {
        let huge = Price { input: u64::MAX, cached_input: u64::MAX, output: u64::MAX, hit: u64::MAX };
        assert_eq!(huge.largest_cost(u64::MAX, u64::MAX), i64::MAX);
        assert_eq!(Usage { prompt_tokens: u64::MAX, completion_tokens: 1, ..Usage::default() }.tokens(), i64::MAX);
    }

    #[test]
    fn nothing_costs_more_than_the_largest_cost() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..10_000 {
            let mut price = || random.u64(..1_000_000);
            let price = Price { input: price(), cached_input: price(), output: price(), hit: price() };
            let (prompt, completion) = (random.u64(..10_000), random.u64(..10_000));
            let used = Usage {
                prompt_tokens: prompt,
                cached_tokens: random.u64(..=prompt),
                completion_tokens: random.u64(..=completion),
                from_cache: random.bool(),
            };
            assert!(price.cost(used) <= price.largest_cost(prompt, completion), "{price:?} {used:?}");
        }
    }
}
