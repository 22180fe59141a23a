//! How much room running sequences are still going to take: requests are admitted only where the pool is expected to
//! hold everyone until the end, so that preemption stays the exception. Must not know blocks.

/// The share of its `max_tokens` that a request is expected to generate.
#[derive(Debug, Clone)]
pub(super) struct Growth {
    /// Moving average over finished requests.
    learnt: f64,
    /// 1 right after a preemption for want of blocks, then fading.
    caution: f64,
}

impl Growth {
    /// Half of what is asked for, until something is known.
    pub fn new() -> Self {
        Self { learnt: 0.5, caution: 0.0 }
    }

    /// Tokens that a request which has generated `generated` of at most `max_tokens` is still expected to add.
    pub fn expected(&self, generated: usize, max_tokens: usize) -> usize {
        let share = self.learnt + (1.0 - self.learnt) * self.caution;
        let total = (max_tokens as f64 * share).ceil() as usize;
        let rest = max_tokens - generated.min(max_tokens);
        // One that has outlived the expectation is expected to go on for a while.
        total.saturating_sub(generated).max(rest.min(kernels::BLOCK_SIZE))
    }

    /// A request has come to its end.
    pub fn finished(&mut self, generated: usize, max_tokens: usize) {
        self.learnt += 0.05 * (generated as f64 / max_tokens.max(1) as f64 - self.learnt);
    }

    /// The pool was too small for those admitted.
    pub fn overflowed(&mut self) {
        self.caution = 1.0;
    }

    /// A step without overflow.
    pub fn step(&mut self) {
        self.caution *= 0.995;
    }
}

#[cfg(test)]
impl Growth {
    /// Expects nobody to grow.
    pub fn optimistic() -> Self {
        Self { learnt: 0.0, caution: 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_expected_as_long_as_they_have_been() {
        let mut growth = Growth::new();
        assert_eq!((growth.expected(0, 1000), growth.expected(300, 1000)), (500, 200));
        assert_eq!(growth.expected(600, 1000), kernels::BLOCK_SIZE, "one that outlives the expectation goes on");
        assert_eq!(growth.expected(995, 1000), 5);
        for _ in 0..200 {
            growth.finished(100, 1000);
        }
        assert_eq!(growth.expected(0, 1000), 101);
    }

    #[test]
    fn after_an_overflow_the_worst_is_expected_for_a_while() {
        let mut growth = Growth::new();
        growth.overflowed();
        assert_eq!(growth.expected(0, 1000), 1000);
        growth.step();
        assert!((990..1000).contains(&growth.expected(0, 1000)));
        for _ in 0..2000 {
            growth.step();
        }
        assert_eq!(growth.expected(0, 1000), 501);
    }
}
